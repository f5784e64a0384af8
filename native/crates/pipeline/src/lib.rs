//! One pass over each chunk of some data while it is hot, and the way back (docs/spec/pipeline.md).
//!
//! BLAKE3 of the plain chunk, zstd, AEAD, Reed-Solomon, BLAKE3 of each shard; every stage may be left out. A
//! [`Pipeline`] is what was settled and precomputed; a [`Worker`] is what one thread keeps from chunk to chunk (zstd's
//! contexts, one buffer), so that nothing is allocated for a chunk but some pointers; a [`Seal`] or an [`Open`] is the
//! memory of one call, which can be split into calls on fewer chunks.
//!
//! Chunk c of the data goes to slot c of the output: its k data shards end to end, then its m parity shards. A chunk is
//! compressed from the input straight into its slot, and encrypted, filled up and coded there: without zstd it is moved
//! there once. On the way back a chunk goes from its slot straight to the output, unless it must be changed in between
//! (shards put in, decrypted before it is decompressed): then by the worker's buffer.

#![forbid(unsafe_code)]

mod cipher;
mod error;
#[cfg(test)]
mod fuzz_chunks;
mod layout;
mod open;
mod seal;
mod slots;
#[cfg(test)]
mod tests;
mod worker;

use std::thread;

use erasure::{Code, Matrix, Path};

pub use cipher::Cipher;
pub use error::{guard, Error};
pub use open::{Open, Wrong};
pub use seal::Seal;
pub use worker::{Bare, Worker};

use cipher::Keys;

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 32;
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Most bytes of a chunk (PIPELINE-CHUNK-1): it stays in a core's cache, and a call can be interrupted between two.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Highest level of zstd that is given.
pub const LEVEL_MAX: i32 = 19;
/// Most threads of a call.
pub const THREADS_MAX: usize = 64;
/// Lengths of shards are multiples of this (PIPELINE-SHARD-1): a cache line.
pub const SHARD_ALIGN: usize = 64;

/// A digest.
pub type Digest = [u8; DIGEST_BYTES];

/// What a pipeline does; a stage that is None is left out.
#[derive(Clone, Copy)]
pub struct Settings {
    /// Bytes of each chunk but the last, 1 to [`CHUNK_BYTES_MAX`].
    pub chunk_bytes: usize,
    /// zstd's level, 1 to [`LEVEL_MAX`].
    pub level: Option<i32>,
    /// The cipher and its key, of as much entropy as it is long.
    pub cipher: Option<(Cipher, [u8; KEY_BYTES])>,
    /// Data and parity shards.
    pub shape: Option<(usize, usize)>,
    /// Instructions of the erasure code; None for the fastest.
    pub path: Option<Path>,
}

/// Settings that were checked, and what follows from them.
pub struct Pipeline {
    chunk_bytes: usize,
    level: Option<i32>,
    keys: Option<Keys>,
    code: Option<Code>,
}

impl Pipeline {
    /// A pipeline of these settings.
    ///
    /// # Errors
    ///
    /// A setting is out of its limits.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let Settings {
            chunk_bytes, level, ..
        } = *settings;
        if !(1..=CHUNK_BYTES_MAX).contains(&chunk_bytes) {
            let text = format!("chunks must have 1 to {CHUNK_BYTES_MAX} bytes");
            return Err(Error::Setting(text));
        }
        if level.is_some_and(|level| !(1..=LEVEL_MAX).contains(&level)) {
            let text = format!("a level is 1 to {LEVEL_MAX}");
            return Err(Error::Setting(text));
        }
        // Shards are hot: they are never stored around the caches.
        let code = settings
            .shape
            .map(|(k, m)| Code::new(k, m, Matrix::Cauchy, settings.path, Some(false)))
            .transpose()?;
        Ok(Self {
            chunk_bytes,
            level,
            keys: settings.cipher.map(|(cipher, key)| Keys::new(cipher, &key)),
            code,
        })
    }

    /// Bytes of each chunk but the last.
    pub fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Shards of a slot: k + m, or 1 where no shards are made.
    pub fn shards(&self) -> usize {
        self.code.as_ref().map_or(1, |code| code.k() + code.m())
    }

    /// Bytes of a slot: what a chunk has at most, with its parity.
    pub fn slot_bytes(&self) -> usize {
        let most = self.layout().overhead() + self.chunk_bytes;
        self.shard_bytes(most) * self.shards()
    }

    /// Chunks that so many bytes are cut into.
    pub fn chunks(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.chunk_bytes)
    }

    /// About what one thread needs for a chunk, in nanoseconds, either way.
    pub fn cost_ns(&self) -> usize {
        let for_a_byte = match self.level {
            None => 1,
            Some(..=2) => 4,
            Some(3..=6) => 12,
            Some(7..=12) => 60,
            Some(_) => 500,
        };
        1000 + self.chunk_bytes * for_a_byte
    }

    fn layout(&self) -> layout::Layout {
        layout::Layout {
            cipher: self.keys.as_ref().map(Keys::cipher),
        }
    }

    /// Bytes of each shard of a sealed chunk of so many bytes (PIPELINE-SHARD-1).
    fn shard_bytes(&self, sealed: usize) -> usize {
        self.code.as_ref().map_or(sealed, |code| {
            sealed.div_ceil(code.k()).next_multiple_of(SHARD_ALIGN)
        })
    }

    /// Seals the chunks of a call, by one thread for each worker, this one included.
    ///
    /// # Errors
    ///
    /// A thread cannot be started, or zstd has no memory. Outputs are of no worth then.
    pub fn seal(&self, workers: &mut [Worker], call: Seal<'_>) -> Result<(), Error> {
        let count = call.chunks();
        self.share(
            workers,
            (count, call),
            |call, at| call.split(self, at),
            |worker, call| self.seal_all(worker, call).map(|()| Vec::new()),
        )
        .map(drop)
    }

    /// Opens the chunks of a call, and tells which shards were not what their digests say and were done without.
    ///
    /// # Errors
    ///
    /// The first chunk that cannot be opened: chunks that other threads did are written, that one is zeroed.
    pub fn open(&self, workers: &mut [Worker], call: Open<'_>) -> Result<Vec<Wrong>, Error> {
        let count = call.chunks();
        self.share(
            workers,
            (count, call),
            |call, at| call.split(self, at),
            |worker, call| self.open_all(worker, call),
        )
    }

    /// Runs `work` on about as many chunks by each worker. Of several errors the one of the first chunks is told.
    fn share<C: Send>(
        &self,
        workers: &mut [Worker],
        (count, call): (usize, C),
        split: impl Fn(C, usize) -> (C, C),
        work: impl Fn(&mut Worker, C) -> Result<Vec<Wrong>, Error> + Sync,
    ) -> Result<Vec<Wrong>, Error> {
        let threads = workers.len().min(count);
        let (Some((first, others)), true) = (workers.split_first_mut(), count > 0) else {
            return Ok(Vec::new());
        };
        if threads == 1 {
            return work(first, call);
        }
        let (own, mut rest) = split(call, count.div_ceil(threads));
        let mut left = count - count.div_ceil(threads);
        let work = &work;
        thread::scope(|scope| {
            let mut started = Vec::with_capacity(threads - 1);
            for (number, worker) in others.iter_mut().enumerate() {
                let share = left.div_ceil(threads - 1 - number);
                if share == 0 {
                    break;
                }
                let (some, others) = split(rest, share);
                (rest, left) = (others, left - share);
                let spawned = thread::Builder::new()
                    .name("zos-pipeline".into())
                    .spawn_scoped(scope, move || work(worker, some));
                started.push(spawned.map_err(|error| Error::NoThread(error.to_string()))?);
                if left == 0 {
                    break;
                }
            }
            let mut answer = work(first, own);
            for thread in started {
                let part = thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                answer = match (answer, part) {
                    (Ok(mut all), Ok(more)) => {
                        all.extend(more);
                        Ok(all)
                    }
                    (Err(error), _) | (_, Err(error)) => Err(error),
                };
            }
            answer
        })
    }
}
