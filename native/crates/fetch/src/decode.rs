//! zstd decoding of units, with contexts that are used again.

use crate::error::{Code, Error, Result};
use crate::sync::lock;
use std::sync::Mutex;
use zstd::bulk::Decompressor;

/// Contexts that wait for their next unit; a context takes about 160 KiB.
pub struct Decoders {
    free: Mutex<Vec<Decompressor<'static>>>,
    max: usize,
}

impl Decoders {
    /// Keeps at most `max` contexts.
    pub fn new(max: usize) -> Self {
        Self {
            free: Mutex::new(Vec::new()),
            max,
        }
    }

    /// Decodes frames that must give exactly `len` bytes into `plain`.
    pub fn decode(&self, wire: &[u8], len: usize, plain: &mut Vec<u8>) -> Result<()> {
        let kept = lock(&self.free).pop();
        let mut decoder = match kept {
            Some(decoder) => decoder,
            None => Decompressor::new().map_err(|error| Error::local("zstd", error))?,
        };
        plain.resize(len, 0);
        let outcome = decoder.decompress_to_buffer(wire, plain.as_mut_slice());
        let mut free = lock(&self.free);
        if free.len() < self.max {
            free.push(decoder);
        }
        match outcome {
            Ok(n) if n == len => Ok(()),
            Ok(n) => Err(Error::new(
                Code::Corrupt,
                format!("unit decodes to {n} bytes, not {len}"),
            )),
            Err(error) => Err(Error::new(
                Code::Corrupt,
                format!("unit does not decode: {error}"),
            )),
        }
    }
}
