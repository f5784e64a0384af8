//! waitid(2): looking at a child's end before reaping it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its process id, as the caller sees it.
    pub pid: i32,
    /// How it ended.
    pub status: Status,
}

/// Look at any ended child without reaping it. `None`: no child has ended. ECHILD: there are no children.
pub fn peek_any() -> io::Result<Option<Ended>> {
    waitid(libc::P_ALL, 0, libc::WNOWAIT)
}

/// Reap one child that has ended; `None` if it still runs.
pub fn reap(pid: i32) -> io::Result<Option<Ended>> {
    waitid(libc::P_PID, pid as libc::id_t, 0)
}

/// Whether the process is a child of the caller, running or not yet reaped.
pub fn is_child(pidfd: impl AsFd) -> io::Result<bool> {
    let id = pidfd.as_fd().as_raw_fd() as libc::id_t;
    match waitid(libc::P_PIDFD, id, libc::WNOWAIT) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(false),
        Err(error) => Err(error),
    }
}

fn waitid(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> io::Result<Option<Ended>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: `info` is a whole siginfo_t that the kernel may write.
        let result = unsafe {
            libc::waitid(
                kind,
                id,
                info.as_mut_ptr(),
                libc::WEXITED | libc::WNOHANG | flags,
            )
        };
        if result == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: all zeros is a valid siginfo_t, and waitid fills it or leaves si_pid 0.
    let info = unsafe { info.assume_init() };
    // SAFETY: these fields are those of SIGCHLD, which waitid fills; they are zero when nothing has ended.
    let (pid, value) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let status = match info.si_code {
        libc::CLD_EXITED => Status::Exited(value),
        _ => Status::Signaled(value),
    };
    Ok(Some(Ended { pid, status }))
}
