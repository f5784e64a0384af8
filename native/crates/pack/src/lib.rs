//! The hot loop of an flist build: read, hash, drop duplicates, compress, write packs.
//!
//! A *unit* (docs/spec/flist-v1.md) is a bundle of small files or a piece of a large one. The caller plans units from
//! names and sizes alone; this crate reads them, gives every unit that was not seen before the next address of the
//! blob, compresses it and appends it to the current pack. Everything that a caller can observe, the bytes of the packs
//! included, depends on the order of the units only: threads read, hash and compress ahead of one writer, which goes
//! through the units in order.

#![forbid(unsafe_code)]

mod error;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub use error::Error;
pub use write::{Emitted, KNOWN_PACK};

use read::Reader;
use write::Writer;

/// Granularity of the blob's addresses in bytes (FLIST-BLOB-1).
pub const BLOCK: u64 = 4096;
/// Largest plain length of a unit in bytes (FLIST-UNIT-5).
pub const UNIT_MAX: usize = 262_144;
/// Largest size of a pack in bytes (FLIST-PACK-2).
pub const PACK_MAX: u64 = 1 << 30;
/// Address that stands for a hole: an all-zero piece, which occupies nothing.
pub const HOLE: u32 = u32::MAX;
/// More threads than this only contend for one writer.
pub const THREADS_MAX: usize = 64;
/// Units that may be read ahead of the writer: bounds memory (two buffers each) and still keeps threads busy.
const WINDOW: usize = 64;

/// A digest.
pub type Hash = [u8; 32];

/// A regular file as the walk saw it.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// Path relative to the root, raw bytes, without NUL.
    pub path: &'a [u8],
    /// Size in bytes; another size at reading time is [`Error::Changed`].
    pub size: u64,
    /// Seconds of the time of modification; another time at reading time is [`Error::Changed`].
    pub mtime_s: i64,
    /// Nanoseconds of the same.
    pub mtime_ns: u32,
}

/// A run of bytes of one file.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Index into the files of the same call.
    pub file: u32,
    /// Length in bytes.
    pub length: u32,
    /// First byte within the file.
    pub offset: u64,
}

/// The parts of one unit: each but the last is zero-padded to 4 KiB.
#[derive(Debug, Clone, Copy)]
pub struct Unit<'a> {
    /// At least one part.
    pub parts: &'a [Part],
    /// A piece of a large file: a hole when all its bytes are zero (FLIST-UNIT-7).
    pub piece: bool,
}

/// How to pack.
#[derive(Debug, Clone)]
pub struct Options {
    /// zstd level.
    pub level: i32,
    /// Threads that read, hash and compress, 1 to [`THREADS_MAX`].
    pub threads: usize,
    /// A new pack begins when this size would be exceeded; at most [`PACK_MAX`].
    pub pack_max: u64,
}

/// What a finished run leaves.
#[derive(Debug, Default)]
pub struct Finished {
    /// Digest of each pack in order; the file is `DIRECTORY/<hex>`.
    pub packs: Vec<Hash>,
    /// Every unit of the blob in the order of addresses.
    pub units: Vec<Emitted>,
    /// Size of the blob in blocks.
    pub blocks: u64,
}

/// Packs units into files below one directory.
pub struct Packer {
    readers: Vec<Reader>,
    claimed: HashSet<Hash>,
    known: HashSet<Hash>,
    writer: Writer,
}

/// What a thread found out about a unit.
enum Outcome {
    Hole,
    Data(Hash, u32),
    Failed(Error),
}

/// Bytes of a unit as they go into a pack.
struct Stored {
    bytes: Vec<u8>,
    raw: bool,
}

/// What threads and writer share during one call.
struct Board<'a> {
    next: usize,
    written: usize,
    stop: bool,
    outcomes: HashMap<usize, Outcome>,
    fresh: HashMap<Hash, Stored>,
    claimed: &'a mut HashSet<Hash>,
    fatal: Option<Error>,
}

/// The lock and its condition; every change wakes everybody, there are few.
struct Shared<'a> {
    board: Mutex<Board<'a>>,
    changed: Condvar,
}

impl<'a> Shared<'a> {
    fn lock(&self) -> MutexGuard<'_, Board<'a>> {
        // A panic elsewhere ends the call anyway; the data is only counters and finished buffers.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'g>(&self, guard: MutexGuard<'g, Board<'a>>) -> MutexGuard<'g, Board<'a>> {
        self.changed
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Packer {
    /// A packer that writes below `directory`, which must exist and be private to it.
    ///
    /// `known` are digests of units that the store already has: they get an address, but are not written; their
    /// [`Emitted::pack`] is [`KNOWN_PACK`].
    pub fn new(
        directory: &Path,
        options: Options,
        known: impl IntoIterator<Item = Hash>,
    ) -> Result<Self, Error> {
        if options.threads == 0 || options.threads > THREADS_MAX {
            return Err(Error::Argument("threads must be 1 to 64"));
        }
        if options.pack_max < UNIT_MAX as u64 || options.pack_max > PACK_MAX {
            return Err(Error::Argument("pack_max must be 256 KiB to 1 GiB"));
        }
        if !zstd::compression_level_range().contains(&options.level) {
            return Err(Error::Argument("zstd has no such level"));
        }
        let readers = (0..options.threads)
            .map(|_| Reader::new(options.level))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            readers,
            claimed: HashSet::new(),
            known: known.into_iter().collect(),
            writer: Writer::new(directory, options.pack_max),
        })
    }

    /// Packs `units` of files below `root`; returns the first block of each, or [`HOLE`].
    ///
    /// After an error the packer must be dropped.
    pub fn add(
        &mut self,
        root: &Path,
        files: &[File<'_>],
        units: &[Unit<'_>],
    ) -> Result<Vec<u32>, Error> {
        for unit in units {
            read::check(unit, files)?;
        }
        let root = read::open_root(root)?;
        let shared = Shared {
            board: Mutex::new(Board {
                next: 0,
                written: 0,
                stop: false,
                outcomes: HashMap::new(),
                fresh: HashMap::new(),
                claimed: &mut self.claimed,
                fatal: None,
            }),
            changed: Condvar::new(),
        };
        let known = &self.known;
        let writer = &mut self.writer;
        std::thread::scope(|scope| {
            for reader in &mut self.readers {
                let (shared, root) = (&shared, &root);
                scope.spawn(move || {
                    let work = || run(reader, shared, root, files, units, known);
                    // A panic must wake the writer, which would wait for ever.
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
                        let mut board = shared.lock();
                        board
                            .fatal
                            .get_or_insert(Error::Argument("a thread panicked"));
                        shared.changed.notify_all();
                    }
                });
            }
            let result = write_in_order(&shared, writer, known, units.len());
            shared.lock().stop = true;
            shared.changed.notify_all();
            result
        })
    }

    /// Closes the last pack and gives what was written.
    pub fn finish(self) -> Result<Finished, Error> {
        self.writer.finish()
    }
}

/// Takes units one after another until there is none: read, hash, compress.
fn run(
    reader: &mut Reader,
    shared: &Shared<'_>,
    root: &read::Root,
    files: &[File<'_>],
    units: &[Unit<'_>],
    known: &HashSet<Hash>,
) {
    loop {
        let index = {
            let mut board = shared.lock();
            while !board.stop && board.next < units.len() && board.next >= board.written + WINDOW {
                board = shared.wait(board);
            }
            if board.stop || board.next >= units.len() {
                return;
            }
            board.next += 1;
            board.next - 1
        };
        let unit = &units[index];
        let outcome = match reader.read(root, files, unit) {
            Err(error) => Outcome::Failed(error),
            Ok(plain) if unit.piece && plain.iter().all(|&byte| byte == 0) => Outcome::Hole,
            Ok(plain) => Outcome::Data(*blake3::hash(plain).as_bytes(), plain.len() as u32),
        };
        let mut claim = None;
        {
            let mut board = shared.lock();
            if let Outcome::Data(hash, _) = &outcome {
                if !known.contains(hash) && board.claimed.insert(*hash) {
                    claim = Some(*hash);
                }
            }
            board.outcomes.insert(index, outcome);
            shared.changed.notify_all();
        }
        if let Some(hash) = claim {
            let stored = reader.store();
            let mut board = shared.lock();
            match stored {
                Ok(stored) => {
                    board.fresh.insert(hash, stored);
                }
                Err(error) => {
                    board.fatal.get_or_insert(error);
                }
            }
            shared.changed.notify_all();
        }
    }
}

/// Gives addresses and writes, strictly in the order of units.
///
/// The bytes of a unit may be held by a later one with the same content, whose thread was faster: that thread has
/// already begun, so waiting for it cannot deadlock.
fn write_in_order(
    shared: &Shared<'_>,
    writer: &mut Writer,
    known: &HashSet<Hash>,
    count: usize,
) -> Result<Vec<u32>, Error> {
    let mut addresses = Vec::with_capacity(count);
    for index in 0..count {
        let mut board = shared.lock();
        let outcome = loop {
            if let Some(error) = board.fatal.take() {
                return Err(error);
            }
            if let Some(outcome) = board.outcomes.remove(&index) {
                break outcome;
            }
            board = shared.wait(board);
        };
        let address = match outcome {
            Outcome::Failed(error) => return Err(error),
            Outcome::Hole => HOLE,
            Outcome::Data(hash, length) => {
                if let Some(address) = writer.address(&hash) {
                    address
                } else if known.contains(&hash) {
                    writer.refer(hash, length)?
                } else {
                    let stored = loop {
                        if let Some(error) = board.fatal.take() {
                            return Err(error);
                        }
                        if let Some(stored) = board.fresh.remove(&hash) {
                            break stored;
                        }
                        board = shared.wait(board);
                    };
                    drop(board);
                    let address = writer.append(hash, length, &stored)?;
                    board = shared.lock();
                    address
                }
            }
        };
        addresses.push(address);
        board.written = index + 1;
        shared.changed.notify_all();
    }
    Ok(addresses)
}
