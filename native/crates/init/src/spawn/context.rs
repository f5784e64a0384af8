//! File systems made by the mount API: fsopen(2), fsconfig(2), fsmount(2), and where mounts go.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
};
use wire::WireError;

use super::failure::{Outcome, Step};

/// Attributes of what holds neither programs nor devices.
pub const INERT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// A file system that is being described. Failures carry `step` and what the file system itself says.
#[derive(Debug)]
pub struct Context {
    fd: OwnedFd,
    step: &'static str,
}

impl Context {
    /// Starts one of this type.
    pub fn open(kind: &str, step: &'static str) -> Outcome<Context> {
        let fd = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).step(step)?;
        Ok(Context { fd, step })
    }

    /// A flag.
    pub fn flag(&self, key: &str) -> Outcome<()> {
        self.explain(fsconfig_set_flag(&self.fd, key))
    }

    /// A flag that this kernel may not know (EINVAL); whether it does.
    pub fn flag_if_known(&self, key: &str) -> Outcome<bool> {
        match fsconfig_set_flag(&self.fd, key) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::INVAL) => Ok(false),
            Err(errno) => self.explain(Err(errno)),
        }
    }

    /// A value.
    pub fn set(&self, key: &str, value: &str) -> Outcome<()> {
        self.explain(fsconfig_set_string(&self.fd, key, value))
    }

    /// Makes the file system and a detached mount of it.
    pub fn mount(&self, attributes: MountAttrFlags) -> Outcome<OwnedFd> {
        self.explain(fsconfig_create(&self.fd))?;
        self.explain(fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes))
    }

    fn explain<T>(&self, result: rustix::io::Result<T>) -> Outcome<T> {
        result.map_err(|errno| {
            let mut error = WireError::step("spawn.step", self.step, &io::Error::from(errno));
            let said = linux::mount::context_messages(self.fd.as_fd());
            if !said.is_empty() {
                error.message = format!("{} ({said})", error.message);
            }
            error
        })
    }
}

/// `/proc/self/fd/N`, for interfaces that only take paths.
pub fn fd_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A detached copy of the mount that `fd` lies in, seen from `fd`.
pub fn clone_at(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(fd, "", flags)?)
}

/// Attaches a detached mount over `target`.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// Opens something below `directory` without leaving it and without following a single link.
pub fn beneath(directory: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(
        directory,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?)
}

/// Finds a path of the image as a process inside would: `root` is its `/`, links lead nowhere else.
pub fn in_root(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?)
}
