//! Whole objects of a store, fetched to a file: a metadata image, an extracted pack.

use crate::error::{Code, Error, Result};
use crate::layout::Hash;
use crate::source::{Body, Source, SourceSpec};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Log2 of the largest window of a frame that is decoded: zstd's level 19 uses 8 MiB.
const WINDOW_LOG_MAX: u32 = 24;
/// The largest object.
const OBJECT_MAX: u64 = 1 << 34;
const CHUNK: usize = 128 * 1024;
/// Pause between rounds over all sources, when waiting may help.
const PAUSE: Duration = Duration::from_millis(200);

/// An object and what must be true of it.
#[derive(Debug, Clone)]
pub struct Object {
    /// Where a store keeps it, such as `meta/<hash>`.
    pub path: String,
    /// Hash of the plain bytes.
    pub hash: Hash,
    /// Plain bytes.
    pub size: u64,
    /// Stored as one zstd frame.
    pub zstd: bool,
}

/// Fetches `object` from the first source that has it right, to `to`: written to a temporary name beside it, hashed,
/// fsynced, renamed. Ends soon after `cancelled` is set. Returns the bytes that came over the wire.
pub fn fetch_object(
    sources: &[SourceSpec],
    object: &Object,
    to: &Path,
    deadline: Instant,
    cancelled: &AtomicBool,
) -> Result<u64> {
    if object.size > OBJECT_MAX || !path_is_plain(&object.path) {
        return Err(Error::new(Code::BadPlan, "no such object can be"));
    }
    let (Some(dir), Some(name)) = (to.parent(), to.file_name()) else {
        return Err(Error::new(Code::BadPlan, "no file name to write to"));
    };
    let sources = sources
        .iter()
        .cloned()
        .map(Source::new)
        .collect::<Result<Vec<_>>>()?;
    let temporary = dir.join(format!(".{}.partial", name.to_string_lossy()));
    let mut file = take(&temporary, deadline, cancelled)?;
    let fetched = 'fetch: loop {
        let mut failed = Error::new(Code::Missing, "the request names no source");
        for source in &sources {
            match fetch_once(source, object, &mut file, deadline, cancelled) {
                Ok(()) => break 'fetch Ok(()),
                Err(error) if error.code.is_local() => break 'fetch Err(error),
                Err(error) if failed.source.is_empty() || error.weight() > failed.weight() => {
                    failed = error;
                }
                Err(_) => {}
            }
        }
        if !failed.code.retryable() || Instant::now() + PAUSE >= deadline {
            break Err(failed);
        }
        std::thread::sleep(PAUSE);
    };
    let placed = fetched.and_then(|()| {
        std::fs::rename(&temporary, to).map_err(|error| Error::local("rename", error))
    });
    if placed.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    placed?;
    sync_dir(dir)?;
    Ok(sources.iter().map(Source::bytes).sum())
}

/// Opens the temporary file, which whoever died before may have left, and locks it against who does the same.
fn take(path: &Path, deadline: Instant, cancelled: &AtomicBool) -> Result<File> {
    use rustix::fs::{fstat, stat, FlockOperation, Stat};
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let same = |one: Stat, other: Stat| (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino);
    loop {
        let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))
            .map_err(|error| Error::local("temporary file", error))?;
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        // Who had it before may have renamed or removed it.
        let named = || fstat(&file).is_ok_and(|one| stat(path).is_ok_and(|other| same(one, other)));
        if locked && named() {
            return Ok(File::from(file));
        }
        check(cancelled)?;
        if Instant::now() + PAUSE >= deadline {
            let message = format!("{} is being written by another", path.display());
            return Err(Error::new(Code::Busy, message));
        }
        if !locked {
            std::thread::sleep(PAUSE);
        }
    }
}

fn check(cancelled: &AtomicBool) -> Result<()> {
    if cancelled.load(Ordering::Relaxed) {
        return Err(Error::new(Code::Closed, "given up"));
    }
    Ok(())
}

/// Whether a path names an object of a store and nothing outside it.
fn path_is_plain(path: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    path.len() <= 256 && path.split('/').all(plain)
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Error::local("directory: sync", error))
}

fn fetch_once(
    source: &Source,
    object: &Object,
    file: &mut File,
    deadline: Instant,
    cancelled: &AtomicBool,
) -> Result<()> {
    let wire_max = if object.zstd {
        object.size + object.size / 128 + 1024
    } else {
        object.size
    };
    let body = source.open(&object.path, wire_max, deadline)?;
    file.set_len(0)
        .and_then(|()| file.rewind())
        .map_err(|error| Error::local("temporary file", error))?;
    let mut wire = Wire { body, error: None };
    let copied = if object.zstd {
        let decoder = zstd::stream::read::Decoder::new(&mut wire)
            .map_err(|error| Error::local("zstd", error))?;
        let mut decoder = decoder.single_frame();
        decoder
            .window_log_max(WINDOW_LOG_MAX)
            .map_err(|error| Error::local("zstd", error))?;
        copy(&mut decoder, file, object, cancelled).and_then(|()| {
            if decoder.finish().buffer().is_empty() {
                Ok(())
            } else {
                Err(Error::new(Code::Long, "bytes behind the object's end"))
            }
        })
    } else {
        copy(&mut wire, file, object, cancelled)
    };
    // What the source did wrong says more than what the decoder made of it.
    if let Some(error) = wire.error.take() {
        return Err(error);
    }
    copied.map_err(|error| error.at(source.name()))?;
    let mut one = [0];
    if wire.body.read(&mut one)? != 0 {
        return Err(Error::new(Code::Long, "bytes behind the object's end").at(source.name()));
    }
    file.sync_all()
        .map_err(|error| Error::local("file: sync", error))
}

/// Copies exactly the object's bytes and compares their hash.
fn copy(from: &mut dyn Read, to: &mut File, object: &Object, cancelled: &AtomicBool) -> Result<()> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    loop {
        check(cancelled)?;
        let n = from.read(&mut buffer).map_err(|error| {
            Error::new(
                Code::Corrupt,
                format!("{}: does not decode: {error}", object.path),
            )
        })?;
        if n == 0 {
            break;
        }
        done += n as u64;
        if done > object.size {
            return Err(Error::new(
                Code::Long,
                format!("{}: more bytes than there may be", object.path),
            ));
        }
        hasher.update(&buffer[..n]);
        to.write_all(&buffer[..n])
            .map_err(|error| Error::local("file: write", error))?;
    }
    if done < object.size {
        return Err(Error::new(
            Code::Short,
            format!("{}: {done} bytes of {}", object.path, object.size),
        ));
    }
    if hasher.finalize().as_bytes() != &object.hash {
        return Err(Error::new(
            Code::Corrupt,
            format!("{}: not the bytes that its name says", object.path),
        ));
    }
    Ok(())
}

/// An answer as a reader that keeps its own error for later.
struct Wire<'a> {
    body: Body<'a>,
    error: Option<Error>,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.body.read(buffer).map_err(|error| {
            let told = std::io::Error::other(error.message.clone());
            self.error = Some(error);
            told
        })
    }
}
