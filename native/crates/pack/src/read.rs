//! Reading the bytes of a unit and compressing them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{fstat, open, openat, openat2, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::{Error, File, Stored, Unit, BLOCK, UNIT_MAX};

/// The directory that all paths are relative to.
pub struct Root(OwnedFd);

/// Opens the root of the tree.
pub fn open_root(path: &Path) -> Result<Root, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty())
        .map(Root)
        .map_err(|errno| Error::Read {
            path: path.as_os_str().as_bytes().to_vec(),
            source: errno.into(),
        })
}

/// Checks a unit against the limits before any of it is read.
pub fn check(unit: &Unit<'_>, files: &[File<'_>]) -> Result<(), Error> {
    let Some((last, before)) = unit.parts.split_last() else {
        return Err(Error::Argument("a unit has at least one part"));
    };
    let mut length = u64::from(last.length);
    for part in before {
        length += u64::from(part.length).next_multiple_of(BLOCK);
    }
    if length > UNIT_MAX as u64 {
        return Err(Error::Argument("a unit has at most 262,144 bytes"));
    }
    for part in unit.parts {
        let Some(file) = files.get(part.file as usize) else {
            return Err(Error::Argument("a part names a file that is not there"));
        };
        let end = part.offset.checked_add(u64::from(part.length));
        if part.length == 0 || end.is_none_or(|end| end > file.size) {
            return Err(Error::Argument("a part is empty or ends behind its file"));
        }
    }
    Ok(())
}

/// One thread's buffers.
pub struct Reader {
    plain: Vec<u8>,
    compressor: zstd::bulk::Compressor<'static>,
}

impl Reader {
    /// A reader that compresses at `level`.
    pub fn new(level: i32) -> Result<Self, Error> {
        let compressor =
            zstd::bulk::Compressor::new(level).map_err(|source| Error::Write { source })?;
        Ok(Self {
            plain: Vec::with_capacity(UNIT_MAX),
            compressor,
        })
    }

    /// The plain bytes of a unit: parts zero-padded to 4 KiB, the last one not.
    pub fn read(
        &mut self,
        root: &Root,
        files: &[File<'_>],
        unit: &Unit<'_>,
    ) -> Result<&[u8], Error> {
        self.plain.clear();
        for part in unit.parts {
            let start = self.plain.len().next_multiple_of(BLOCK as usize);
            self.plain.resize(start + part.length as usize, 0);
            let into = &mut self.plain[start..];
            read_part(root, &files[part.file as usize], part.offset, into)?;
        }
        Ok(&self.plain)
    }

    /// The bytes read last as they go into a pack: one zstd frame, or raw where that is not smaller.
    pub fn store(&mut self) -> Result<Stored, Error> {
        let bytes = self
            .compressor
            .compress(&self.plain)
            .map_err(|source| Error::Write { source })?;
        if bytes.len() < self.plain.len() {
            return Ok(Stored { bytes, raw: false });
        }
        Ok(Stored {
            bytes: self.plain.clone(),
            raw: true,
        })
    }
}

/// Reads `into.len()` bytes at `offset`, and makes sure before and after that the file is the one the walk saw.
fn read_part(root: &Root, file: &File<'_>, offset: u64, into: &mut [u8]) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Read {
        path: file.path.to_vec(),
        source,
    };
    let opened = match open_beneath(root, file.path) {
        Ok(opened) => std::fs::File::from(opened),
        // Gone, or its place taken by a symbolic link, a socket, a file in the place of a folder.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NOTDIR | Errno::XDEV) => {
            return Err(changed(file, "it was there a moment ago"));
        }
        Err(errno) => return Err(failed(errno.into())),
    };
    compare(&opened, file)?;
    match opened.read_exact_at(into, offset) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(changed(file, "it ends before the size it had"));
        }
        Err(error) => return Err(failed(error)),
    }
    compare(&opened, file)
}

fn changed(file: &File<'_>, what: &'static str) -> Error {
    Error::Changed {
        path: file.path.to_vec(),
        what,
    }
}

fn compare(opened: &std::fs::File, file: &File<'_>) -> Result<(), Error> {
    let stat = fstat(opened.as_fd()).map_err(|errno| Error::Read {
        path: file.path.to_vec(),
        source: errno.into(),
    })?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(changed(file, "it is not a regular file any more"));
    }
    if stat.st_size as u64 != file.size {
        return Err(changed(file, "its size changed"));
    }
    if stat.st_mtime as i64 != file.mtime_s || stat.st_mtime_nsec as u32 != file.mtime_ns {
        return Err(changed(file, "its time of modification changed"));
    }
    Ok(())
}

/// Opens a regular file below the root without following any symbolic link.
///
/// O_NONBLOCK, because a fifo may have taken the place of the file.
fn open_beneath(root: &Root, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let name = OsStr::from_bytes(path);
    match openat2(&root.0, name, flags, Mode::empty(), resolve) {
        // A sandbox that does not know the call (older container runtimes answer EPERM): step by step, the same rule.
        Err(Errno::NOSYS | Errno::PERM) => open_by_steps(root, path, flags),
        other => other,
    }
}

fn open_by_steps(root: &Root, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut directory: Option<OwnedFd> = None;
    let mut names = path.split(|&byte| byte == b'/').peekable();
    while let Some(name) = names.next() {
        if name.is_empty() || name == b"." || name == b".." {
            return Err(Errno::INVAL);
        }
        let from = directory.as_ref().unwrap_or(&root.0);
        let name = OsStr::from_bytes(name);
        if names.peek().is_none() {
            return openat(from, name, flags, Mode::empty());
        }
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        directory = Some(openat(from, name, folder, Mode::empty())?);
    }
    Err(Errno::INVAL)
}
