//! The parts of the mount API that rustix lacks: mount_setattr(2), the messages of a file system context.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Read-only.
pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// Set-user-id bits have no effect.
pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
/// Device nodes cannot be opened.
pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
/// Nothing can be executed.
pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Adds attributes to the mount whose root `fd` is, and to all below it when `recursive`.
///
/// # Errors
/// mount_setattr(2) (5.12): `EINVAL` when `fd` is no mount's root, `EPERM`.
pub fn set_attributes(fd: BorrowedFd<'_>, add: u64, recursive: bool) -> io::Result<()> {
    change(fd, add, 0, recursive)
}

/// Makes the mount whose root `fd` is, and all below it, private.
///
/// # Errors
/// mount_setattr(2).
pub fn make_private(fd: BorrowedFd<'_>) -> io::Result<()> {
    change(fd, 0, libc::MS_PRIVATE, true)
}

fn change(fd: BorrowedFd<'_>, add: u64, propagation: u64, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: add,
        attr_clr: 0,
        propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let here: &CStr = c"";
    // SAFETY: the path and `attr` live for the call, and the size given is that of `attr`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            here.as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a file system says about the last failure in its context (fsopen(2)), without the level letters; may be empty.
#[must_use]
pub fn context_messages(context: BorrowedFd<'_>) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut buffer = [0u8; 512];
    // A bound, should a file system never come to an end; the kernel keeps 8 messages.
    for _ in 0..16 {
        // SAFETY: the buffer is valid for its length.
        let n = unsafe {
            libc::read(
                context.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        };
        let Ok(n) = usize::try_from(n) else { break };
        let line = String::from_utf8_lossy(&buffer[..n]);
        let line = line.trim_end();
        let text = if line.as_bytes().get(1) == Some(&b' ') {
            &line[2..]
        } else {
            line
        };
        lines.push(text.to_owned());
    }
    lines.join("; ")
}
