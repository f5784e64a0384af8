//! The bytes of a sealed chunk: a header, with a cipher a salt, the body, with a cipher a tag (PIPELINE-CHUNK-2).

use crate::cipher::{Cipher, SALT_BYTES, TAG_BYTES};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 16;
/// The only version that there is.
const VERSION: u8 = 1;
/// Bit of the flags: the body is a frame of zstd.
const FLAG_ZSTD: u8 = 1;
/// The cipher's number is in the flags from this bit on.
const CIPHER_SHIFT: u32 = 1;

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The body is a frame of zstd.
    pub compressed: bool,
    /// The cipher of the body.
    pub cipher: Option<Cipher>,
    /// Bytes of the plain chunk.
    pub plain: usize,
    /// Bytes of the body.
    pub body: usize,
}

impl Header {
    /// Its bytes. Lengths are at most [`crate::CHUNK_BYTES_MAX`].
    pub fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = VERSION;
        bytes[1] =
            (u8::from(self.compressed) * FLAG_ZSTD) | (Cipher::number(self.cipher) << CIPHER_SHIFT);
        bytes[4..8].copy_from_slice(&(self.plain as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&(self.body as u32).to_le_bytes());
        bytes
    }

    /// Of the bytes at the beginning of `sealed`; the error says what is wrong with them.
    pub fn parse(sealed: &[u8]) -> Result<Self, &'static str> {
        let Some(bytes) = sealed.first_chunk::<HEADER_BYTES>() else {
            return Err("it has no whole header");
        };
        if bytes[0] != VERSION {
            return Err("its version is not 1");
        }
        let cipher = Cipher::from_number(bytes[1] >> CIPHER_SHIFT).ok_or("unknown flags")?;
        if bytes[2..4] != [0; 2] || bytes[12..] != [0; 4] {
            return Err("what is reserved is not zero");
        }
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
        };
        let header = Self {
            compressed: bytes[1] & FLAG_ZSTD != 0,
            cipher,
            plain: number(4),
            body: number(8),
        };
        let fits = if header.compressed {
            (1..header.plain).contains(&header.body)
        } else {
            header.body == header.plain
        };
        if !fits {
            return Err("the length of its body is out of the limits");
        }
        Ok(header)
    }
}

/// Where the parts of a sealed chunk are.
#[derive(Clone, Copy)]
pub struct Layout {
    /// The cipher, which adds a salt and a tag.
    pub cipher: Option<Cipher>,
}

impl Layout {
    /// The first byte of the body.
    pub fn body_at(self) -> usize {
        HEADER_BYTES + self.cipher.map_or(0, |_| SALT_BYTES)
    }

    /// All that is not body.
    pub fn overhead(self) -> usize {
        self.body_at() + self.cipher.map_or(0, |_| TAG_BYTES)
    }
}
