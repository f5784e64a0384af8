//! Where verified units are kept: the sparse blob file with its presence file, or memory.

use crate::error::{Code, Error, Result};
use crate::layout::{Hash, BLOCK};
use crate::presence::{Kept, Presence};
use crate::sync::lock;
use rustix::fs::{Advice, FallocateFlags, Mode, OFlags};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A part of the blob that belongs to one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Number of the unit.
    pub unit: u32,
    /// Byte address in the blob.
    pub address: u64,
    /// Plain bytes.
    pub len: u32,
}

impl Span {
    /// The address behind the unit's last block.
    pub fn end(&self) -> u64 {
        self.address + u64::from(self.len).next_multiple_of(BLOCK)
    }
}

/// The keeping place of one image.
pub enum Keep {
    /// A blob file that outlives the process.
    Disk(Disk),
    /// Units in memory.
    Memory(Mutex<HashMap<u32, Arc<[u8]>>>),
}

/// A blob file and its presence file, in the image's directory.
pub struct Disk {
    blob: File,
    presence: Mutex<Presence>,
}

impl Keep {
    /// Opens `dir/blob` and `dir/presence`, making what is absent.
    pub fn on_disk(dir: &Path, units: u32, blocks: u32, root: &Hash) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| Error::local("image directory", error))?;
        let presence = Presence::open(&dir.join("presence"), units, root)?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let blob = rustix::fs::open(dir.join("blob"), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| Error::local("blob file", error))?;
        let blob = File::from(blob);
        let size = u64::from(blocks) * BLOCK;
        let data = blob
            .metadata()
            .map_err(|error| Error::local("blob file", error))?;
        if !data.is_file() {
            return Err(Error::new(Code::Local, "blob file: not a regular file"));
        }
        // A blob that was cut loses nothing but the units behind the cut: each is hashed before it counts.
        if data.len() != size {
            blob.set_len(size)
                .map_err(|error| Error::local("blob file: size", error))?;
        }
        Ok(Keep::Disk(Disk {
            blob,
            presence: Mutex::new(presence),
        }))
    }

    /// Units in memory alone.
    pub fn in_memory() -> Self {
        Keep::Memory(Mutex::new(HashMap::new()))
    }

    /// Whether a unit that an earlier process kept is on the disk, unverified in this one.
    pub fn has(&self, unit: u32) -> bool {
        match self {
            Keep::Disk(disk) => lock(&disk.presence).has(unit),
            Keep::Memory(_) => false,
        }
    }

    /// What the presence file says about the blob as a whole.
    pub fn kept(&self) -> Kept {
        match self {
            Keep::Disk(disk) => lock(&disk.presence).kept(),
            Keep::Memory(_) => Kept::InUse,
        }
    }

    /// Writes what the presence file says about the blob as a whole.
    pub fn set_kept(&self, kept: Kept) -> Result<()> {
        match self {
            Keep::Disk(disk) => lock(&disk.presence).set_kept(kept),
            Keep::Memory(_) => Ok(()),
        }
    }

    /// Lets another process open the directory, though this one still has its files open.
    pub fn release(&self) {
        if let Keep::Disk(disk) = self {
            lock(&disk.presence).unlock();
        }
    }

    /// Takes over the verified bytes of a unit.
    pub fn store(&self, span: &Span, plain: &[u8]) -> Result<()> {
        match self {
            Keep::Disk(disk) => disk
                .blob
                .write_all_at(plain, span.address)
                .map_err(|error| Error::local("blob file: write", error)),
            Keep::Memory(units) => {
                lock(units).insert(span.unit, plain.into());
                Ok(())
            }
        }
    }

    /// Copies the bytes of `spans`, which follow each other without a gap, from `offset` on; what lies between a
    /// unit's end and its last block's end is zero. False if a unit has left the memory.
    pub fn copy(&self, spans: &[Span], offset: u64, buffer: &mut [u8]) -> Result<bool> {
        match self {
            Keep::Disk(disk) => {
                disk.blob
                    .read_exact_at(buffer, offset)
                    .map_err(|error| Error::local("blob file: read", error))?;
                // Nobody hashed the padding, so nobody sees what the disk says of it (BLOCKD-READ-1).
                for span in spans {
                    let (from, to) = clip(
                        span.address + u64::from(span.len),
                        span.end(),
                        offset,
                        buffer.len(),
                    );
                    buffer[from..to].fill(0);
                }
            }
            Keep::Memory(units) => {
                let units = lock(units);
                for span in spans {
                    let Some(plain) = units.get(&span.unit) else {
                        return Ok(false);
                    };
                    let (from, to) = clip(span.address, span.end(), offset, buffer.len());
                    let begin = (offset + from as u64 - span.address) as usize;
                    let n = plain.len().saturating_sub(begin).min(to - from);
                    if n > 0 {
                        buffer[from..from + n].copy_from_slice(&plain[begin..begin + n]);
                    }
                    buffer[from + n..to].fill(0);
                }
            }
        }
        Ok(true)
    }

    /// Reads the bytes that an earlier process kept of a unit.
    pub fn recall(&self, span: &Span, buffer: &mut [u8]) -> Result<()> {
        match self {
            Keep::Disk(disk) => disk
                .blob
                .read_exact_at(buffer, span.address)
                .map_err(|error| Error::local("blob file: read", error)),
            Keep::Memory(_) => Err(Error::new(Code::Local, "not kept")),
        }
    }

    /// Lets the page cache forget the blob: what was read of it is in the cache of the file system above by now.
    pub fn drop_cache(&self) {
        if let Keep::Disk(disk) = self {
            let _ = rustix::fs::fadvise(&disk.blob, 0, None, Advice::DontNeed);
        }
    }

    /// Makes all bytes stored so far durable.
    pub fn sync(&self) -> Result<()> {
        match self {
            Keep::Disk(disk) => disk
                .blob
                .sync_data()
                .map_err(|error| Error::local("blob file: sync", error)),
            Keep::Memory(_) => Ok(()),
        }
    }

    /// Writes the presence bits of units whose bytes are durable.
    pub fn record(&self, units: &[u32]) -> Result<()> {
        match self {
            Keep::Disk(disk) => lock(&disk.presence).write(units, true),
            Keep::Memory(_) => Ok(()),
        }
    }

    /// Takes back the presence bits of `spans`, and with `free` their space too.
    pub fn discard(&self, spans: &[Span], free: bool) -> Result<()> {
        match self {
            Keep::Disk(disk) => {
                if spans.is_empty() {
                    return Ok(());
                }
                let units: Vec<u32> = spans.iter().map(|span| span.unit).collect();
                {
                    let mut presence = lock(&disk.presence);
                    if presence.kept() == Kept::Full {
                        presence.set_kept(Kept::InUse)?;
                    }
                    presence.write(&units, false)?;
                }
                if free {
                    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    for span in spans {
                        rustix::fs::fallocate(
                            &disk.blob,
                            flags,
                            span.address,
                            span.end() - span.address,
                        )
                        .map_err(|error| Error::local("blob file: punch", error))?;
                    }
                }
                Ok(())
            }
            Keep::Memory(units) => {
                let mut units = lock(units);
                for span in spans {
                    units.remove(&span.unit);
                }
                Ok(())
            }
        }
    }
}

/// The part of `from..to` that lies in a buffer of `len` bytes which begins at `offset`, as indices of the buffer.
fn clip(from: u64, to: u64, offset: u64, len: usize) -> (usize, usize) {
    let end = offset + len as u64;
    let from = from.clamp(offset, end);
    let to = to.clamp(from, end);
    ((from - offset) as usize, (to - offset) as usize)
}
