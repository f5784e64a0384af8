//! From plain chunks to slots.

use erasure::{Code, Source, Target};

use crate::error::Error;
use crate::layout::{Header, HEADER_BYTES};
use crate::slots::Slots;
use crate::worker::Worker;
use crate::{Digest, Pipeline};

/// The memory of one call.
pub struct Seal<'a> {
    data: &'a [u8],
    slots: Slots<&'a mut [u8], &'a mut [[u8; 4]], &'a mut [Digest]>,
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
        let slots = Slots {
            bytes: slots,
            lengths,
            digests,
            shard_digests,
        };
        let slots = slots.checked(pipeline, pipeline.chunks(data.len()))?;
        Ok(Self { data, slots })
    }

    /// Chunks of the call.
    pub fn chunks(&self) -> usize {
        self.slots.count()
    }

    /// The first `count` chunks, and the others.
    pub fn split(self, pipeline: &Pipeline, count: usize) -> (Self, Self) {
        let count = count.min(self.chunks());
        let bytes = (count * pipeline.chunk_bytes).min(self.data.len());
        let (data, later_data) = self.data.split_at(bytes);
        let (slots, later_slots) = self.slots.split(pipeline, count);
        let later = Self {
            data: later_data,
            slots: later_slots,
        };
        (Self { data, slots }, later)
    }
}

impl Pipeline {
    pub(crate) fn seal_all(&self, worker: &mut Worker, call: Seal<'_>) -> Result<(), Error> {
        let Seal { data, slots } = call;
        let mut digests = slots.digests.map(|digests| digests.iter_mut());
        let mut shard_digests = slots
            .shard_digests
            .map(|digests| digests.chunks_exact_mut(self.shards()));
        let chunks = data.chunks(self.chunk_bytes);
        let places = slots.bytes.chunks_exact_mut(self.slot_bytes());
        for ((plain, slot), length) in chunks.zip(places).zip(slots.lengths) {
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
