//! The presence file: which units of a blob are on the local disk (docs/spec/blockd.md).

use crate::error::{Code, Error, Result};
use crate::layout::Hash;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: &[u8; 8] = b"ZOSPRES1";
const VERSION: u16 = 1;
const HEAD: usize = 48;
const STATE_AT: u64 = 10;

/// What the file says about the blob as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Closed in order.
    Clean,
    /// In use, or its user died.
    InUse,
    /// Every unit was verified in one pass.
    Full,
}

impl Kept {
    fn from_word(word: u16) -> Option<Self> {
        match word {
            0 => Some(Kept::Clean),
            1 => Some(Kept::InUse),
            2 => Some(Kept::Full),
            _ => None,
        }
    }

    fn word(self) -> u16 {
        match self {
            Kept::Clean => 0,
            Kept::InUse => 1,
            Kept::Full => 2,
        }
    }
}

/// An open presence file, locked against every other process.
pub struct Presence {
    file: File,
    bits: Vec<u8>,
    kept: Kept,
}

impl Presence {
    /// Opens `path`, or begins a new one where it is absent, damaged or of another image.
    pub fn open(path: &Path, units: u32, root: &Hash) -> Result<Self> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| Error::local("presence file", error))?;
        let file = File::from(file);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let message = format!("{} is used by another process", path.display());
                return Err(Error::new(Code::Busy, message));
            }
            Err(error) => return Err(Error::local("presence file: lock", error)),
        }
        let size = HEAD + units.div_ceil(8) as usize;
        let mut data = vec![0; size + 1];
        let found = read_up_to(&file, &mut data)
            .map_err(|error| Error::local("presence file: read", error))?;
        data.truncate(found);
        let (bits, kept) = match parse(&data, units, root) {
            Some((kept, bits)) => (bits, kept),
            None => {
                let fresh = vec![0; units.div_ceil(8) as usize];
                file.set_len(0)
                    .and_then(|()| file.write_all_at(&encode(Kept::InUse, units, root, &fresh), 0))
                    .and_then(|()| file.sync_data())
                    .map_err(|error| Error::local("presence file: write", error))?;
                (fresh, Kept::InUse)
            }
        };
        Ok(Self { file, bits, kept })
    }

    /// What the file says about the blob as a whole.
    pub fn kept(&self) -> Kept {
        self.kept
    }

    /// Whether the file says that `unit` is there.
    pub fn has(&self, unit: u32) -> bool {
        self.bits[unit as usize / 8] & 1 << (unit % 8) != 0
    }

    /// Gives the lock up; nothing must be written any more.
    pub fn unlock(&self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }

    /// Writes the bits of `units`; the caller has made their bytes durable (or unimportant, when `present` is false).
    pub fn write(&mut self, units: &[u32], present: bool) -> Result<()> {
        let (Some(first), Some(last)) = (units.iter().min(), units.iter().max()) else {
            return Ok(());
        };
        for unit in units {
            let bit = 1 << (unit % 8);
            let byte = &mut self.bits[*unit as usize / 8];
            *byte = if present { *byte | bit } else { *byte & !bit };
        }
        let (from, to) = (*first as usize / 8, *last as usize / 8);
        self.file
            .write_all_at(&self.bits[from..=to], (HEAD + from) as u64)
            .map_err(|error| Error::local("presence file: write", error))
    }

    /// Writes the state and waits until it is durable.
    pub fn set_kept(&mut self, kept: Kept) -> Result<()> {
        self.file
            .sync_data()
            .and_then(|()| self.file.write_all_at(&kept.word().to_le_bytes(), STATE_AT))
            .and_then(|()| self.file.sync_data())
            .map_err(|error| Error::local("presence file: state", error))?;
        self.kept = kept;
        Ok(())
    }
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn encode(kept: Kept, units: u32, root: &Hash, bits: &[u8]) -> Vec<u8> {
    let mut data = MAGIC.to_vec();
    data.extend(VERSION.to_le_bytes());
    data.extend(kept.word().to_le_bytes());
    data.extend(units.to_le_bytes());
    data.extend(root);
    data.extend(bits);
    data
}

/// State and bits of a presence file that belongs to this image, or None.
fn parse(data: &[u8], units: u32, root: &Hash) -> Option<(Kept, Vec<u8>)> {
    if data.len() != HEAD + units.div_ceil(8) as usize || &data[..8] != MAGIC {
        return None;
    }
    let word = |at: usize| u16::from_le_bytes([data[at], data[at + 1]]);
    let kept = Kept::from_word(word(10))?;
    if word(8) != VERSION || data[12..16] != units.to_le_bytes() || &data[16..HEAD] != root {
        return None;
    }
    let bits = data[HEAD..].to_vec();
    let tail = units % 8;
    if tail != 0 && bits.last().is_some_and(|byte| byte >> tail != 0) {
        return None;
    }
    Some((kept, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_takes_only_its_own() {
        let root = [3; 32];
        let good = encode(Kept::Clean, 10, &root, &[0xff, 3]);
        assert_eq!(parse(&good, 10, &root), Some((Kept::Clean, vec![0xff, 3])));
        for cut in 0..good.len() {
            assert_eq!(parse(&good[..cut], 10, &root), None);
        }
        assert_eq!(parse(&good, 11, &root), None);
        assert_eq!(parse(&good, 10, &[4; 32]), None);
        assert_eq!(
            parse(&encode(Kept::Clean, 10, &root, &[0xff, 4]), 10, &root),
            None,
            "bit behind the end"
        );
        let mut state = good.clone();
        state[10] = 3;
        assert_eq!(parse(&state, 10, &root), None);
    }

    #[test]
    fn file_keeps_bits_and_state() {
        let dir = crate::testing::scratch("presence");
        let path = dir.path().join("presence");
        let root = [1; 32];
        {
            let mut presence = Presence::open(&path, 20, &root).unwrap();
            assert_eq!(presence.kept(), Kept::InUse);
            presence.write(&[3, 19], true).unwrap();
            assert_eq!(
                Presence::open(&path, 20, &root).err().unwrap().code,
                Code::Busy
            );
            presence.set_kept(Kept::Clean).unwrap();
        }
        {
            let mut presence = Presence::open(&path, 20, &root).unwrap();
            assert_eq!(presence.kept(), Kept::Clean);
            assert!(presence.has(3) && presence.has(19) && !presence.has(4));
            presence.write(&[3], false).unwrap();
        }
        std::fs::write(&path, b"short").unwrap();
        let presence = Presence::open(&path, 20, &root).unwrap();
        assert!(!presence.has(19), "a damaged file begins anew");
    }
}
