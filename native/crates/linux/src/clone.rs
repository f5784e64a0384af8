//! Making processes and replacing them: clone3(2), execve(2), setns(2), close_range(2).
//!
//! All of it is for programs with one thread. After a fork of such a program the child may run any code.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// New mount namespace.
pub const NEWNS: u64 = libc::CLONE_NEWNS as u64;
/// New process-id namespace.
pub const NEWPID: u64 = libc::CLONE_NEWPID as u64;
/// New network namespace.
pub const NEWNET: u64 = libc::CLONE_NEWNET as u64;
/// New System V and POSIX message queue namespace.
pub const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
/// New host name namespace.
pub const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
/// New view of the cgroup tree.
pub const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
/// The child's parent is the caller's parent.
pub const PARENT: u64 = libc::CLONE_PARENT as u64;

const PIDFD: u64 = libc::CLONE_PIDFD as u64;
const INTO_CGROUP: u64 = 0x2_0000_0000;
/// Flags that leave the child with its own copy of everything: whatever shares memory, files or threads is refused.
const ALLOWED: u64 = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS | NEWCGROUP | PARENT;

/// struct clone_args of linux/sched.h, as of 5.7 (CLONE_ARGS_SIZE_VER2, 88 bytes).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// On which side of a fork the caller finds itself.
#[derive(Debug)]
pub enum Forked {
    /// In the new process.
    Child,
    /// In the old one.
    Parent {
        /// Process id, in the caller's namespace.
        pid: i32,
        /// The process itself; close-on-exec.
        pidfd: OwnedFd,
    },
}

/// Forks with `flags` (only the constants of this module), into `cgroup` if one is given (an open cgroup2 directory).
///
/// The parent is sent `SIGCHLD` at the end, or nothing with [`PARENT`], as the kernel demands.
///
/// # Errors
/// `EINVAL` for any other flag; else what clone3(2) says: `ENOENT` for a cgroup that was removed, `EBUSY`, `EAGAIN`.
pub fn fork(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    if flags & !ALLOWED != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | PIDFD,
        pidfd: &raw mut pidfd as u64,
        exit_signal: if flags & PARENT == 0 {
            libc::SIGCHLD as u64
        } else {
            0
        },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM, CLONE_FILES, CLONE_SETTLS and a stack (masked above) this is fork(2): the child goes on
    // with a copy of the whole address space. glibc's fork handlers are skipped; a program with one thread holds no lock
    // that they would release. `args` and `pidfd` outlive the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => {
            // SAFETY: with CLONE_PIDFD the kernel has stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent {
                pid: pid as i32,
                pidfd,
            })
        }
    }
}

/// Forks a child that shares this process's table of descriptors, which then outlives this process: the child of a
/// process that was killed still has all of them, under the same numbers.
///
/// Until this process has ended the child must close nothing, and it leaves by [`exit_now`]: its copies of values that
/// own a descriptor must never be dropped.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`: clone(2).
pub fn fork_sharing_files() -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: PIDFD | libc::CLONE_FILES as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: as in `fork`, but for the shared table: what the child does with it is the caller's promise above.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => {
            // SAFETY: with CLONE_PIDFD the kernel has stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent {
                pid: pid as i32,
                pidfd,
            })
        }
    }
}

/// Forks without a pidfd or flags; gives the child's id in the parent and 0 in the child.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`: fork(2).
pub fn fork_plain() -> io::Result<i32> {
    // SAFETY: fork(2) in a program with one thread; see the module's head.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// Enters the namespaces of kind `flags` of the process behind a pidfd, or the one namespace that `fd` is.
///
/// # Errors
/// setns(2): `ESRCH` when the process has ended, `EPERM`, `EINVAL`.
pub fn setns(fd: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    // SAFETY: no memory is passed.
    match unsafe { libc::setns(fd.as_raw_fd(), flags as i32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the namespaces of kind `flags` for new ones.
///
/// # Errors
/// unshare(2): `EPERM`, `ENOSPC`.
pub fn unshare(flags: u64) -> io::Result<()> {
    if flags & !ALLOWED != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: no memory is passed, and only namespace flags.
    match unsafe { libc::unshare(flags as i32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Replaces the program; returns only when that failed.
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| {
        list.iter()
            .map(|s| s.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both lists end with a null pointer, and their strings live until the call returns.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Closes every descriptor from 3 up, except those in `keep`.
///
/// An [`OwnedFd`] of a closed number must be forgotten, never dropped: this is for the child side of a fork, which leaves
/// by `_exit` or execve.
///
/// # Errors
/// close_range(2).
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    close_all_but_numbers(&keep.iter().map(AsRawFd::as_raw_fd).collect())
}

/// Closes every descriptor from 3 up, except those numbers.
///
/// # Errors
/// close_range(2).
pub fn close_all_but_numbers(keep: &BTreeSet<RawFd>) -> io::Result<()> {
    let mut first: u32 = 3;
    for fd in keep.iter().filter(|fd| **fd > 2) {
        let fd = *fd as u32;
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

/// A copy of a descriptor of this process by its number, close-on-exec.
///
/// # Errors
/// `EBADF` for a number that is not open.
pub fn copy_of(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with integers alone.
    match unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has made a new descriptor that nobody else owns.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: no memory is passed. Descriptors that Rust values still own are closed under them, which the caller has
    // been told about; no such value is used again in the child.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes `number` (0, 1 or 2) a copy of `fd` that stays open over execve.
///
/// # Errors
/// dup2(2).
pub fn dup_to(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    if !(0..=2).contains(&number) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the standard streams are not owned by any value of Rust.
    match unsafe { libc::dup2(fd.as_raw_fd(), number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Ends the process at once: no destructors, no exit handlers, no flushing.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) has no conditions.
    unsafe { libc::_exit(status) }
}
