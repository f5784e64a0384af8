//! BLAKE3 of many parts in one call, in its three modes, by threads that the caller grants.
//!
//! The compression function and its vector code are the crate `blake3`'s. What is here is the batch: parts of one
//! buffer, digests into another, no allocation, work shared by bytes and not by number of parts.
//!
//! ```
//! let data = b"onetwo";
//! let mut digests = [[0; 32]; 2];
//! hash::Mode::Plain.hash_parts(data.len(), &|index| &data[3 * index..][..3], &mut digests, 1).unwrap();
//! assert_eq!(digests[1], *blake3::hash(b"two").as_bytes());
//! ```

#![forbid(unsafe_code)]

use std::fmt;

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 32;
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// A digest.
pub type Digest = [u8; DIGEST_BYTES];

/// The part of a number.
pub type Part<'a> = &'a (dyn Fn(usize) -> &'a [u8] + Sync);

/// Why there are no digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoThread;

impl fmt::Display for NoThread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "no thread can be started")
    }
}

impl std::error::Error for NoThread {}

/// What a digest is bound to.
#[derive(Debug, Clone)]
pub enum Mode {
    /// To the data alone.
    Plain,
    /// To a secret.
    Keyed([u8; KEY_BYTES]),
    /// To a purpose, named by a context; `derived` makes it, so that the context is hashed once for all parts.
    Derived(Box<blake3::Hasher>),
}

impl Mode {
    /// The mode in which a digest is a key for the purpose that `context` names.
    #[must_use]
    pub fn derived(context: &str) -> Self {
        Self::Derived(Box::new(blake3::Hasher::new_derive_key(context)))
    }

    /// Begins an incremental digest.
    #[must_use]
    pub fn hasher(&self) -> blake3::Hasher {
        match self {
            Self::Plain => blake3::Hasher::new(),
            Self::Keyed(key) => blake3::Hasher::new_keyed(key),
            Self::Derived(hasher) => blake3::Hasher::clone(hasher),
        }
    }

    /// Digest of one part.
    #[must_use]
    pub fn hash(&self, data: &[u8]) -> Digest {
        match self {
            Self::Plain => *blake3::hash(data).as_bytes(),
            Self::Keyed(key) => *blake3::keyed_hash(key, data).as_bytes(),
            Self::Derived(_) => *self.hasher().update(data).finalize().as_bytes(),
        }
    }

    /// Digests of all parts, number i of `part(i)`.
    ///
    /// `bytes` is how many all parts have together: each of `threads` threads, this one included, takes about as many.
    pub fn hash_parts<'a>(
        &self,
        bytes: usize,
        part: Part<'a>,
        digests: &mut [Digest],
        threads: usize,
    ) -> Result<(), NoThread> {
        let share = bytes / threads.max(1) + 1;
        std::thread::scope(|scope| {
            let mut workers = Vec::new();
            let mut rest = digests;
            let mut first = 0;
            for _ in 1..threads {
                let mut count = 0;
                let mut taken = 0;
                while count < rest.len() && taken < share {
                    taken += part(first + count).len();
                    count += 1;
                }
                if count == rest.len() {
                    break;
                }
                let (some, others) = rest.split_at_mut(count);
                workers.push(
                    std::thread::Builder::new()
                        .spawn_scoped(scope, move || self.hash_run(first, part, some))
                        .map_err(|_| NoThread)?,
                );
                rest = others;
                first += count;
            }
            self.hash_run(first, part, rest);
            for worker in workers {
                // A panic goes on in the caller, as it would without threads.
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
            Ok(())
        })
    }

    fn hash_run<'a>(&self, first: usize, part: Part<'a>, digests: &mut [Digest]) {
        for (index, digest) in (first..).zip(digests) {
            *digest = self.hash(part(index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_change_no_digest() {
        let data: Vec<u8> = (0..100_000u32).map(|number| (number % 251) as u8).collect();
        for mode in [
            Mode::Plain,
            Mode::Keyed([7; 32]),
            Mode::derived("a purpose"),
        ] {
            for lengths in [
                vec![],
                vec![0],
                vec![0, 0, 0],
                vec![1, 99_000, 0, 1, 998],
                vec![1000; 100],
            ] {
                let ends: Vec<usize> = lengths
                    .iter()
                    .scan(0, |end, length| {
                        *end += length;
                        Some(*end)
                    })
                    .collect();
                let part = |index: usize| &data[ends[index] - lengths[index]..ends[index]];
                let expected: Vec<Digest> = (0..lengths.len())
                    .map(|index| *mode.hasher().update(part(index)).finalize().as_bytes())
                    .collect();
                for threads in 0..5 {
                    let mut digests = vec![[0; 32]; lengths.len()];
                    let bytes = lengths.iter().sum();
                    mode.hash_parts(bytes, &part, &mut digests, threads)
                        .unwrap();
                    assert_eq!(digests, expected, "{lengths:?} by {threads}");
                }
            }
        }
    }
}
