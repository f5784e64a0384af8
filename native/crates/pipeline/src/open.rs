//! From slots back to plain chunks.

use erasure::{Code, Source, Target};

use crate::cipher::{Keys, SALT_BYTES, TAG_BYTES};
use crate::error::Error;
use crate::layout::{Header, HEADER_BYTES};
use crate::slots::Slots;
use crate::worker::Worker;
use crate::{Digest, Pipeline, SHARD_ALIGN};

/// A shard that is not what its digest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The chunk's number in the call.
    pub chunk: usize,
    /// The shard's index.
    pub shard: usize,
}

/// The memory of one call.
pub struct Open<'a> {
    /// The number of the first chunk, for errors.
    first: usize,
    slots: Slots<&'a [u8], &'a [[u8; 4]], &'a [Digest]>,
    plain: &'a mut [u8],
    have: &'a [bool],
}

impl<'a> Open<'a> {
    /// As many slots as lengths into `plain`, whose length says how long the last chunk is. `have` says which shards
    /// are in the slots; nothing is read of the others. Digests are verified where they are given.
    ///
    /// # Errors
    ///
    /// A slice has another length than the others ask for.
    pub fn new(
        pipeline: &Pipeline,
        (slots, lengths): (&'a [u8], &'a [[u8; 4]]),
        plain: &'a mut [u8],
        have: &'a [bool],
        digests: Option<&'a [Digest]>,
        shard_digests: Option<&'a [Digest]>,
    ) -> Result<Self, Error> {
        let count = lengths.len();
        let slots = Slots {
            bytes: slots,
            lengths,
            digests,
            shard_digests,
        };
        let slots = slots.checked(pipeline, count)?;
        if pipeline.chunks(plain.len()) != count {
            let text = format!(
                "out has {} bytes for {count} chunks of {}",
                plain.len(),
                pipeline.chunk_bytes
            );
            return Err(Error::Setting(text));
        }
        Ok(Self {
            first: 0,
            slots,
            plain,
            have,
        })
    }

    /// Chunks of the call.
    pub fn chunks(&self) -> usize {
        self.slots.count()
    }

    /// The first `count` chunks, and the others.
    pub fn split(self, pipeline: &Pipeline, count: usize) -> (Self, Self) {
        let count = count.min(self.chunks());
        let bytes = (count * pipeline.chunk_bytes).min(self.plain.len());
        let (plain, later_plain) = self.plain.split_at_mut(bytes);
        let (slots, later_slots) = self.slots.split(pipeline, count);
        let later = Self {
            first: self.first + count,
            slots: later_slots,
            plain: later_plain,
            have: self.have,
        };
        let now = Self {
            first: self.first,
            slots,
            plain,
            have: self.have,
        };
        (now, later)
    }
}

/// One chunk of a call.
struct Chunk<'a> {
    number: usize,
    slot: &'a [u8],
    /// Of a shard.
    bytes: usize,
    have: &'a [bool],
    shard_digests: Option<&'a [Digest]>,
}

impl Chunk<'_> {
    fn shard(&self, index: usize) -> &[u8] {
        &self.slot[index * self.bytes..][..self.bytes]
    }

    fn malformed(&self, what: &'static str) -> Error {
        Error::Malformed {
            chunk: self.number,
            what,
        }
    }

    /// The `need` shards of lowest index that are there and right (PIPELINE-OPEN-1); `wrong` gets those that lie.
    fn right(&self, need: usize, wrong: &mut Vec<Wrong>) -> Result<Vec<usize>, Error> {
        let mut right = Vec::with_capacity(need);
        for index in (0..self.have.len()).filter(|index| self.have[*index]) {
            let digest = self.shard_digests.map(|digests| &digests[index]);
            if digest.is_some_and(|digest| blake3::hash(self.shard(index)).as_bytes() != digest) {
                wrong.push(Wrong {
                    chunk: self.number,
                    shard: index,
                });
                continue;
            }
            right.push(index);
            if right.len() == need {
                return Ok(right);
            }
        }
        Err(Error::TooFew {
            chunk: self.number,
            have: right.len(),
            need,
        })
    }
}

impl Pipeline {
    pub(crate) fn open_all(
        &self,
        worker: &mut Worker,
        call: Open<'_>,
    ) -> Result<Vec<Wrong>, Error> {
        let mut wrong = Vec::new();
        let slots = call.slots;
        let places = slots.bytes.chunks_exact(self.slot_bytes());
        let chunks = call.plain.chunks_mut(self.chunk_bytes);
        for (at, ((slot, length), plain)) in places.zip(slots.lengths).zip(chunks).enumerate() {
            let chunk = Chunk {
                number: call.first + at,
                slot,
                bytes: u32::from_le_bytes(*length) as usize,
                have: call.have,
                shard_digests: slots
                    .shard_digests
                    .map(|digests| &digests[at * self.shards()..][..self.shards()]),
            };
            let mut opened = self.open_one(worker, &chunk, plain, &mut wrong);
            if let (Ok(()), Some(digests)) = (&opened, slots.digests) {
                if *blake3::hash(plain).as_bytes() != digests[at] {
                    opened = Err(Error::DigestWrong {
                        chunk: chunk.number,
                    });
                }
            }
            if let Err(error) = opened {
                plain.fill(0);
                return Err(error);
            }
        }
        Ok(wrong)
    }

    fn open_one(
        &self,
        worker: &mut Worker,
        chunk: &Chunk<'_>,
        plain: &mut [u8],
        wrong: &mut Vec<Wrong>,
    ) -> Result<(), Error> {
        let fits = (1..=self.slot_bytes() / self.shards()).contains(&chunk.bytes);
        if !fits || (self.code.is_some() && !chunk.bytes.is_multiple_of(SHARD_ALIGN)) {
            return Err(chunk.malformed("its length is out of the limits"));
        }
        // Taken out, so that it and the contexts can be borrowed apart; a panic costs the buffer alone.
        let mut buffer = std::mem::take(&mut worker.buffer);
        let opened = self.open_with(worker, &mut buffer, chunk, plain, wrong);
        worker.buffer = buffer;
        opened
    }

    fn open_with(
        &self,
        worker: &mut Worker,
        buffer: &mut Vec<u8>,
        chunk: &Chunk<'_>,
        plain: &mut [u8],
        wrong: &mut Vec<Wrong>,
    ) -> Result<(), Error> {
        let k = self.code.as_ref().map_or(1, Code::k);
        let right = chunk.right(k, wrong)?;
        let whole = right.iter().copied().eq(0..k);
        if let (Some(code), false) = (&self.code, whole) {
            gather(code, chunk, &right, worker, buffer)?;
        }
        let sealed: &[u8] = if whole {
            &chunk.slot[..k * chunk.bytes]
        } else {
            buffer
        };
        let header = Header::parse(sealed).map_err(|what| chunk.malformed(what))?;
        if header.cipher != self.layout().cipher {
            return Err(Error::SealBroken {
                chunk: chunk.number,
            });
        }
        let bytes = self.layout().overhead() + header.body;
        if header.plain != plain.len() || bytes > sealed.len() {
            return Err(chunk.malformed("its lengths do not fit"));
        }
        let filled = self.shard_bytes(bytes) == chunk.bytes;
        if !filled || sealed[bytes..].iter().any(|byte| *byte != 0) {
            return Err(chunk.malformed("it is not filled up with zeros to its length"));
        }
        let body_at = self.layout().body_at();
        let body = body_at..body_at + header.body;
        let Some(keys) = &self.keys else {
            return finish(worker, chunk, header, &sealed[body], plain);
        };
        let seal = Head::new(sealed, header.body);
        if !header.compressed {
            plain.copy_from_slice(&sealed[body]);
            return seal.open(keys, chunk, plain);
        }
        if whole {
            let need = self.slot_bytes() / self.shards() * k;
            buffer.resize(buffer.len().max(need), 0);
            buffer[body.clone()].copy_from_slice(&chunk.slot[body.clone()]);
        }
        seal.open(keys, chunk, &mut buffer[body.clone()])?;
        finish(worker, chunk, header, &buffer[body], plain)
    }
}

/// What a cipher put around a body.
struct Head {
    header: [u8; HEADER_BYTES],
    salt: [u8; SALT_BYTES],
    tag: [u8; TAG_BYTES],
}

impl Head {
    /// Of a sealed chunk, which was seen to be as long as its header says.
    fn new(sealed: &[u8], body: usize) -> Self {
        let (mut header, mut salt, mut tag) = ([0; HEADER_BYTES], [0; SALT_BYTES], [0; TAG_BYTES]);
        header.copy_from_slice(&sealed[..HEADER_BYTES]);
        salt.copy_from_slice(&sealed[HEADER_BYTES..][..SALT_BYTES]);
        tag.copy_from_slice(&sealed[HEADER_BYTES + SALT_BYTES + body..][..TAG_BYTES]);
        Self { header, salt, tag }
    }

    fn open(&self, keys: &Keys, chunk: &Chunk<'_>, body: &mut [u8]) -> Result<(), Error> {
        keys.open(&self.header, &self.salt, body, self.tag)
            .ok_or(Error::SealBroken {
                chunk: chunk.number,
            })
    }
}

/// From a body that is not encrypted any more.
fn finish(
    worker: &mut Worker,
    chunk: &Chunk<'_>,
    header: Header,
    body: &[u8],
    plain: &mut [u8],
) -> Result<(), Error> {
    if header.compressed {
        return worker
            .decompress(body, plain)?
            .map_err(|what| chunk.malformed(what));
    }
    plain.copy_from_slice(body);
    Ok(())
}

/// The data shards into `buffer`: those at hand copied, the others made from the k that are right.
fn gather(
    code: &Code,
    chunk: &Chunk<'_>,
    right: &[usize],
    worker: &mut Worker,
    buffer: &mut Vec<u8>,
) -> Result<(), Error> {
    let k = code.k();
    buffer.resize(k * chunk.bytes, 0);
    let mut lost = Vec::with_capacity(k);
    let mut targets = Vec::with_capacity(k);
    for (index, place) in buffer.chunks_exact_mut(chunk.bytes).enumerate() {
        if right.contains(&index) {
            place.copy_from_slice(chunk.shard(index));
        } else {
            lost.push(index);
            targets.push(Target::from(place));
        }
    }
    let repair = worker.repair(code, right, &lost)?;
    let sources = right
        .iter()
        .map(|index| Source::from(chunk.shard(*index)))
        .collect();
    let task = code.reconstruct(repair, (right, sources), (&lost, targets), 1)?;
    if let Some(task) = task {
        task.run(0..chunk.bytes)?;
    }
    Ok(())
}
