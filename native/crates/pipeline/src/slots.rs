//! The slots of a call with what belongs to each of them, its length and digests: checked together, cut together.

use std::ops::Deref;

use crate::error::Error;
use crate::{Digest, Pipeline};

/// A slice, to be read or to be written, that can be cut in two.
pub(crate) trait Cut: Sized {
    /// The first `at` items, and the others.
    fn cut(self, at: usize) -> (Self, Self);
}

impl<T> Cut for &[T] {
    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at(at)
    }
}

impl<T> Cut for &mut [T] {
    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at_mut(at)
    }
}

impl<S: Cut> Cut for Option<S> {
    fn cut(self, at: usize) -> (Self, Self) {
        self.map(|some| some.cut(at)).unzip()
    }
}

/// Slots, all read or all written.
pub(crate) struct Slots<B, L, D> {
    pub bytes: B,
    pub lengths: L,
    /// Of the plain chunks.
    pub digests: Option<D>,
    /// Of all shards.
    pub shard_digests: Option<D>,
}

impl<B, L, D> Slots<B, L, D>
where
    B: Cut + Deref<Target = [u8]>,
    L: Cut + Deref<Target = [[u8; 4]]>,
    D: Cut + Deref<Target = [Digest]>,
{
    /// Checks that all of it is for `count` chunks.
    pub fn checked(self, pipeline: &Pipeline, count: usize) -> Result<Self, Error> {
        let slots = count.checked_mul(pipeline.slot_bytes());
        check("slots", self.bytes.len(), slots)?;
        check("lengths", self.lengths.len() * 4, Some(count * 4))?;
        if let Some(digests) = &self.digests {
            check("digests", digests.len() * 32, Some(count * 32))?;
        }
        if let Some(digests) = &self.shard_digests {
            let need = count.checked_mul(pipeline.shards() * 32);
            check("shard_digests", digests.len() * 32, need)?;
        }
        Ok(self)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// The first `count`, and the others.
    pub fn split(self, pipeline: &Pipeline, count: usize) -> (Self, Self) {
        let (bytes, later_bytes) = self.bytes.cut(count * pipeline.slot_bytes());
        let (lengths, later_lengths) = self.lengths.cut(count);
        let (digests, later_digests) = self.digests.cut(count);
        let (shard_digests, later_shard_digests) =
            self.shard_digests.cut(count * pipeline.shards());
        let now = Self {
            bytes,
            lengths,
            digests,
            shard_digests,
        };
        let later = Self {
            bytes: later_bytes,
            lengths: later_lengths,
            digests: later_digests,
            shard_digests: later_shard_digests,
        };
        (now, later)
    }
}

/// That a buffer has as many bytes as are needed; None are more than there can be.
fn check(name: &str, have: usize, need: Option<usize>) -> Result<(), Error> {
    if need == Some(have) {
        return Ok(());
    }
    let need = need.map_or_else(
        || "more than there can be".to_owned(),
        |need| need.to_string(),
    );
    Err(Error::Setting(format!(
        "{name} has {have} bytes instead of {need}"
    )))
}
