//! What a thread keeps from chunk to chunk.

use erasure::{Code, Repair};
use zstd::zstd_safe::{self, zstd_sys::ZSTD_ErrorCode, CCtx, CParameter, DCtx};

use crate::error::Error;

/// What `worth` looks at (PIPELINE-ZSTD-2).
const PROBE_BYTES: usize = 4096;
/// Of each so many bytes one is counted.
const PROBE_STEP: usize = 4;
/// A shorter chunk is compressed without a look at its beginning.
const PROBED_MIN: usize = 16_384;
/// What the frame of a beginning must save, or the chunk is not compressed.
const PROBE_SAVED_MIN: usize = 128;

/// zstd's contexts, a buffer, and the last repair. One thread at a time uses it.
#[derive(Default)]
pub struct Worker {
    repair: Option<Repair>,
    compressor: Option<(i32, CCtx<'static>)>,
    decompressor: Option<DCtx<'static>>,
    pub(crate) buffer: Vec<u8>,
}

impl Worker {
    /// The repair of the data shards that are not among the `right` ones. The last one is kept here, not in the code,
    /// whose lock a fork of the process could find closed for ever: its holder does not hold the interpreter.
    pub fn repair(
        &mut self,
        code: &Code,
        right: &[usize],
        lost: &[usize],
    ) -> Result<&Repair, Error> {
        let kept = self.repair.take_if(|kept| kept.serves(code, right));
        let repair = match kept {
            Some(kept) => kept,
            None => {
                let mut repair = code.plan(right, lost)?;
                code.solve(&mut repair)?;
                repair
            }
        };
        Ok(self.repair.insert(repair))
    }

    /// Compresses `plain` into one frame at the start of `room`; None where it would not be shorter.
    pub fn compress(
        &mut self,
        level: i32,
        plain: &[u8],
        room: &mut [u8],
    ) -> Result<Option<usize>, Error> {
        let context = self.compressor(level)?;
        if plain.len() >= PROBED_MIN && !worth(context, &plain[..PROBE_BYTES], room)? {
            return Ok(None);
        }
        let written = compress(context, plain, room)?;
        Ok(written.filter(|bytes| *bytes < plain.len()))
    }

    /// Decompresses the one frame of `body`, which must fill `plain` to the last byte; or says what is wrong.
    pub fn decompress(
        &mut self,
        body: &[u8],
        plain: &mut [u8],
    ) -> Result<Result<(), &'static str>, Error> {
        if zstd_safe::find_frame_compressed_size(body) != Ok(body.len()) {
            return Ok(Err("its body is not one frame of zstd"));
        }
        let context = match &mut self.decompressor {
            Some(context) => context,
            empty => empty.insert(DCtx::try_create().ok_or(Error::NoMemory)?),
        };
        Ok(match context.decompress(plain, body) {
            Ok(bytes) if bytes == plain.len() => Ok(()),
            Ok(_) => Err("its frame has not as many bytes as its header says"),
            Err(_) => Err("its frame cannot be decompressed"),
        })
    }

    fn compressor(&mut self, level: i32) -> Result<&mut CCtx<'static>, Error> {
        if self
            .compressor
            .as_ref()
            .is_none_or(|(other, _)| *other != level)
        {
            let mut context = CCtx::try_create().ok_or(Error::NoMemory)?;
            context
                .set_parameter(CParameter::CompressionLevel(level))
                .map_err(|_| Error::NoMemory)?;
            self.compressor = Some((level, context));
        }
        self.compressor
            .as_mut()
            .map(|(_, context)| context)
            .ok_or(Error::NoMemory)
    }
}

/// One frame into `room`; None if it does not fit.
fn compress(
    context: &mut CCtx<'static>,
    plain: &[u8],
    room: &mut [u8],
) -> Result<Option<usize>, Error> {
    match context.compress2(room, plain) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(code)
            if code.wrapping_neg() == ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize =>
        {
            Ok(None)
        }
        Err(_) => Err(Error::NoMemory),
    }
}

/// For benchmarks: zstd by itself, which the pipeline is measured against.
#[derive(Default)]
pub struct Bare(Worker);

impl Bare {
    /// A frame for each chunk, all into the same `out`; how many bytes they have together.
    ///
    /// # Errors
    ///
    /// There is no memory, or `out` is too short for a frame.
    pub fn compress(
        &mut self,
        data: &[u8],
        chunk_bytes: usize,
        level: i32,
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let context = self.0.compressor(level)?;
        let mut total = 0;
        for plain in data.chunks(chunk_bytes.max(1)) {
            let written = compress(context, plain, out)?;
            total += written.ok_or_else(|| Error::Setting("out is too short".into()))?;
        }
        Ok(total)
    }
}

/// Whether a chunk that begins like this is worth compressing: not if its bytes are all about as frequent and zstd
/// does not save anything either (PIPELINE-ZSTD-2). Counting a fourth costs a few thousandths of compressing.
fn worth(context: &mut CCtx<'static>, begin: &[u8], room: &mut [u8]) -> Result<bool, Error> {
    let mut counts = [[0u32; 256]; 4];
    for some in begin.chunks_exact(4 * PROBE_STEP) {
        // Four tables, so that the same byte again need not wait for its count.
        for (counts, byte) in counts.iter_mut().zip(some.iter().step_by(PROBE_STEP)) {
            counts[usize::from(*byte)] += 1;
        }
    }
    let squares: u32 = (0..256)
        .map(|byte| counts.iter().map(|counts| counts[byte]).sum::<u32>().pow(2))
        .sum();
    // Twice what it would be if each byte came equally often.
    let counted = PROBE_BYTES / PROBE_STEP;
    if squares as usize >= counted * counted / 128 {
        return Ok(true);
    }
    let written = compress(context, begin, room)?;
    Ok(written.is_some_and(|bytes| bytes + PROBE_SAVED_MIN <= PROBE_BYTES))
}
