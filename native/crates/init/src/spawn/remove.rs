//! Removing a tree below the state directory: no link is followed, no mount is crossed, any depth is reached.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{mkdirat, openat2, renameat, unlinkat, AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::failure::{bad_path, Outcome, Step};
use super::place::Place;

/// Directories open at once. What lies deeper is moved up first, so that a container cannot dig too deep for us.
const DEPTH_MAX: usize = 64;

/// Removes `path`, a file or a directory with all that is in it; what is not there is as good as removed.
pub fn remove(place: &Place, path: &str) -> Outcome<()> {
    let (parent, name) = match path.rsplit_once('/') {
        Some((parent, name)) => (place.open(parent, OFlags::RDONLY | OFlags::DIRECTORY), name),
        None => (place.open(".", OFlags::RDONLY | OFlags::DIRECTORY), path),
    };
    let parent = match parent {
        Ok(parent) => parent,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).step("open-parent"),
    };
    let name = CString::new(name).map_err(|_| bad_path("a NUL byte in the path"))?;
    match unlinkat(&parent, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno).step("unlink"),
    }
    let Some(top) = enter(&parent, &name)? else {
        return Ok(());
    };
    empty(top)?;
    unlinkat(&parent, &name, AtFlags::REMOVEDIR).step("rmdir")
}

/// Opens a directory for listing; None if it has gone.
fn enter(parent: &OwnedFd, name: &CStr) -> Outcome<Option<OwnedFd>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat2(parent, name, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::XDEV) => Err(bad_path("a mount lies in the tree that is to be removed")),
        Err(errno) => Err(errno).step("open-directory"),
    }
}

/// A directory on the way down, and what of it is still to be done.
struct Level {
    fd: OwnedFd,
    name: CString,
    left: Vec<CString>,
}

fn list(fd: &OwnedFd) -> Outcome<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd.as_fd()).step("list")? {
        let entry = entry.step("list")?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Removes all that is in `top`.
fn empty(top: OwnedFd) -> Outcome<()> {
    let mut moved: u64 = 0;
    let left = list(&top)?;
    let mut levels = vec![Level {
        fd: top,
        name: CString::default(),
        left,
    }];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else {
            return Ok(());
        };
        let Some(name) = level.left.pop() else {
            if depth == 1 {
                // What was moved up meanwhile is in the list only now.
                let again = list(&levels[0].fd)?;
                if again.is_empty() {
                    return Ok(());
                }
                levels[0].left = again;
                continue;
            }
            let name = levels.pop().map(|done| done.name).unwrap_or_default();
            if let Some(parent) = levels.last() {
                unlinkat(&parent.fd, &name, AtFlags::REMOVEDIR).step("rmdir")?;
            }
            continue;
        };
        match unlinkat(&level.fd, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(errno).step("unlink"),
        }
        match unlinkat(&level.fd, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(errno).step("rmdir"),
        }
        if depth >= DEPTH_MAX {
            loop {
                moved += 1;
                let up = CString::new(format!(".zos-removed-{moved}")).unwrap_or_default();
                // A fresh directory, over which rename(2) puts the other: an existing name is never taken.
                match mkdirat(&levels[0].fd, &up, Mode::from(0o700)) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => continue,
                    Err(errno) => return Err(errno).step("move-up"),
                }
                renameat(&levels[depth - 1].fd, &name, &levels[0].fd, &up).step("move-up")?;
                break;
            }
            continue;
        }
        if let Some(fd) = enter(&level.fd, &name)? {
            let left = list(&fd)?;
            levels.push(Level { fd, name, left });
        }
    }
}
