//! Addresses, and the bytes of packs.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Finished, Hash, Stored, BLOCK, HOLE};

/// [`Emitted::pack`] of a unit that the store already had.
pub const KNOWN_PACK: u32 = u32::MAX;
/// Bit 31 of [`Emitted::stored`]: the unit lies raw in its pack (FLIST-LOC-4).
pub const RAW: u32 = 1 << 31;

/// A unit of the blob and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitted {
    /// BLAKE3 of the plain bytes.
    pub hash: Hash,
    /// Length of the plain bytes.
    pub length: u32,
    /// Number of the pack, or [`KNOWN_PACK`].
    pub pack: u32,
    /// First byte within the pack.
    pub offset: u32,
    /// Bytes in the pack; bit 31: raw.
    pub stored: u32,
}

struct OpenPack {
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    size: u64,
}

/// The only one who gives addresses and writes.
pub struct Writer {
    directory: PathBuf,
    pack_max: u64,
    open: Option<OpenPack>,
    addresses: HashMap<Hash, u32>,
    finished: Finished,
}

impl Writer {
    /// A writer of packs below `directory`.
    pub fn new(directory: &Path, pack_max: u64) -> Self {
        Self {
            directory: directory.to_path_buf(),
            pack_max,
            open: None,
            addresses: HashMap::new(),
            finished: Finished::default(),
        }
    }

    /// The address of a unit that was emitted before.
    pub fn address(&self, hash: &Hash) -> Option<u32> {
        self.addresses.get(hash).copied()
    }

    /// Gives a unit that the store already has its address.
    pub fn refer(&mut self, hash: Hash, length: u32) -> Result<u32, Error> {
        self.emit(Emitted {
            hash,
            length,
            pack: KNOWN_PACK,
            offset: 0,
            stored: 0,
        })
    }

    /// Appends a unit to the current pack and gives it its address.
    pub fn append(&mut self, hash: Hash, length: u32, stored: &Stored) -> Result<u32, Error> {
        let size = stored.bytes.len() as u64;
        if self
            .open
            .as_ref()
            .is_some_and(|pack| pack.size + size > self.pack_max)
        {
            self.close()?;
        }
        let number = self.finished.packs.len() as u32;
        let pack = match &mut self.open {
            Some(pack) => pack,
            None => self.open.insert(start(&self.directory, number)?),
        };
        let offset = pack.size as u32;
        pack.file
            .write_all(&stored.bytes)
            .map_err(|source| Error::Write { source })?;
        pack.hasher.update(&stored.bytes);
        pack.size += size;
        self.emit(Emitted {
            hash,
            length,
            pack: number,
            offset,
            stored: stored.bytes.len() as u32 | if stored.raw { RAW } else { 0 },
        })
    }

    fn emit(&mut self, unit: Emitted) -> Result<u32, Error> {
        let address = self.finished.blocks;
        let blocks = address + u64::from(unit.length).div_ceil(BLOCK);
        // The last address is the mark of a hole, in chunk indexes too.
        if blocks >= u64::from(HOLE) {
            return Err(Error::BlobTooLarge);
        }
        self.finished.blocks = blocks;
        self.addresses.insert(unit.hash, address as u32);
        self.finished.units.push(unit);
        Ok(address as u32)
    }

    fn close(&mut self) -> Result<(), Error> {
        let Some(pack) = self.open.take() else {
            return Ok(());
        };
        pack.file
            .sync_all()
            .map_err(|source| Error::Write { source })?;
        let hash = pack.hasher.finalize();
        std::fs::rename(&pack.path, self.directory.join(hash.to_hex().as_str()))
            .map_err(|source| Error::Write { source })?;
        self.finished.packs.push(*hash.as_bytes());
        Ok(())
    }

    /// Closes the last pack.
    pub fn finish(mut self) -> Result<Finished, Error> {
        self.close()?;
        Ok(self.finished)
    }
}

fn start(directory: &Path, number: u32) -> Result<OpenPack, Error> {
    let path = directory.join(format!("pack.{number}"));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|source| Error::Write { source })?;
    Ok(OpenPack {
        path,
        file,
        hasher: blake3::Hasher::new(),
        size: 0,
    })
}
