//! From plain chunks to slots.

use erasure::{Code, Source, Target};

use crate::error::Error;
use crate::layout::{Header, HEADER_BYTES};
use crate::worker::Worker;
use crate::{Digest, Pipeline};

/// The memory of one call.
pub struct Seal<'a> {
    data: &'a [u8],
    slots: &'a mut [u8],
    lengths: &'a mut [[u8; 4]],
    digests: Option<&'a mut [Digest]>,
    shard_digests: Option<&'a mut [Digest]>,
}

/// `slice.split_at_mut` of what may not be there.
fn split<T>(some: Option<&mut [T]>, at: usize) -> (Option<&mut [T]>, Option<&mut [T]>) {
    some.map(|some| some.split_at_mut(at)).unzip()
}

impl<'a> Seal<'a> {
    /// Chunks of `data` into as many slots and lengths; digests of chunks and of all shards, if they are wanted.
    ///
    /// # Errors
    ///
    /// A slice has another length than the data asks for.
    pub fn new(
        pipeline: &Pipeline,
        data: &'a [u8],
        slots: &'a mut [u8],
        lengths: &'a mut [[u8; 4]],
        digests: Option<&'a mut [Digest]>,
        shard_digests: Option<&'a mut [Digest]>,
    ) -> Result<Self, Error> {
        let count = pipeline.chunks(data.len());
        check(
            "slots",
            slots.len(),
            count.checked_mul(pipeline.slot_bytes()),
        )?;
        check("lengths", lengths.len() * 4, Some(count * 4))?;
        check_digests(
            pipeline,
            count,
            (digests.as_deref(), shard_digests.as_deref()),
        )?;
        Ok(Self {
            data,
            slots,
            lengths,
            digests,
            shard_digests,
        })
    }

    /// Chunks of the call.
    pub fn chunks(&self) -> usize {
        self.lengths.len()
    }

    /// The first `count` chunks, and the others.
    pub fn split(self, pipeline: &Pipeline, count: usize) -> (Self, Self) {
        let count = count.min(self.chunks());
        let bytes = (count * pipeline.chunk_bytes).min(self.data.len());
        let (data, later_data) = self.data.split_at(bytes);
        let (slots, later_slots) = self.slots.split_at_mut(count * pipeline.slot_bytes());
        let (lengths, later_lengths) = self.lengths.split_at_mut(count);
        let (digests, later_digests) = split(self.digests, count);
        let (shard_digests, later_shard_digests) =
            split(self.shard_digests, count * pipeline.shards());
        (
            Self {
                data,
                slots,
                lengths,
                digests,
                shard_digests,
            },
            Self {
                data: later_data,
                slots: later_slots,
                lengths: later_lengths,
                digests: later_digests,
                shard_digests: later_shard_digests,
            },
        )
    }
}

/// That a buffer has as many bytes as are needed; None are more than there can be.
pub(crate) fn check(name: &str, have: usize, need: Option<usize>) -> Result<(), Error> {
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

/// That there is one digest for each chunk, and one for each shard, where they are given.
pub(crate) fn check_digests(
    pipeline: &Pipeline,
    count: usize,
    (digests, shard_digests): (Option<&[Digest]>, Option<&[Digest]>),
) -> Result<(), Error> {
    if let Some(digests) = digests {
        check("digests", digests.len() * 32, Some(count * 32))?;
    }
    if let Some(digests) = shard_digests {
        let need = count.checked_mul(pipeline.shards() * 32);
        check("shard_digests", digests.len() * 32, need)?;
    }
    Ok(())
}

impl Pipeline {
    pub(crate) fn seal_all(&self, worker: &mut Worker, call: Seal<'_>) -> Result<(), Error> {
        let mut digests = call.digests.map(|digests| digests.iter_mut());
        let mut shard_digests = call
            .shard_digests
            .map(|digests| digests.chunks_exact_mut(self.shards()));
        let chunks = call.data.chunks(self.chunk_bytes);
        let slots = call.slots.chunks_exact_mut(self.slot_bytes());
        for ((plain, slot), length) in chunks.zip(slots).zip(call.lengths) {
            if let Some(digest) = digests.as_mut().and_then(Iterator::next) {
                *digest = *blake3::hash(plain).as_bytes();
            }
            let sealed = self.seal_one(worker, plain, slot)?;
            let bytes = self.shard_bytes(sealed);
            if let Some(code) = &self.code {
                encode(code, slot, sealed, bytes)?;
            }
            if let Some(digests) = shard_digests.as_mut().and_then(Iterator::next) {
                for (shard, digest) in slot.chunks_exact(bytes).zip(digests) {
                    *digest = *blake3::hash(shard).as_bytes();
                }
            }
            *length = (bytes as u32).to_le_bytes();
        }
        Ok(())
    }

    /// The sealed chunk at the start of its slot; how many bytes it has.
    fn seal_one(&self, worker: &mut Worker, plain: &[u8], slot: &mut [u8]) -> Result<usize, Error> {
        let (head, room) = slot.split_at_mut(self.layout().body_at());
        let frame = match self.level {
            // All of the slot is room, the parity's too: zstd is fastest when it need not look at the end.
            Some(level) => worker.compress(level, plain, room)?,
            None => None,
        };
        let header = Header {
            compressed: frame.is_some(),
            cipher: self.layout().cipher,
            plain: plain.len(),
            body: frame.unwrap_or(plain.len()),
        };
        let (body, tail) = room.split_at_mut(header.body);
        if frame.is_none() {
            body.copy_from_slice(plain);
        }
        let bytes = header.bytes();
        head[..HEADER_BYTES].copy_from_slice(&bytes);
        if let Some(keys) = &self.keys {
            let (salt, tag) = keys.seal(&bytes, body);
            head[HEADER_BYTES..].copy_from_slice(&salt);
            tail[..tag.as_ref().len()].copy_from_slice(tag.as_ref());
        }
        Ok(self.layout().overhead() + header.body)
    }
}

/// Fills the data shards up with zeros and makes the parity behind them.
fn encode(code: &Code, slot: &mut [u8], sealed: usize, bytes: usize) -> Result<(), Error> {
    let (data, rest) = slot.split_at_mut(code.k() * bytes);
    data[sealed..].fill(0);
    let sources = data.chunks_exact(bytes).map(Source::from).collect();
    let targets = rest[..code.m() * bytes]
        .chunks_exact_mut(bytes)
        .map(Target::from)
        .collect();
    code.encode(sources, targets, 1)?.run(0..bytes)?;
    Ok(())
}
