//! Processes as descriptors.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::wait::Status;

/// Send a signal; 0 only asks whether the process still exists (ESRCH once it has been reaped, EBADF for no pidfd).
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: plain integers and a null pointer, which asks for the siginfo of kill(2).
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The process id behind a pidfd, from /proc: `None` without /proc, -1 once the process has been reaped.
pub fn pid(pidfd: impl AsFd) -> Option<i32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    line.trim().parse().ok()
}

/// PIDFD_GET_INFO with its first version's 64 bytes (linux/pidfd.h, 6.13; exit status 6.15).
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;
const PIDFD_INFO_EXIT: u64 = 1 << 3;
const _: () = assert!(size_of::<Info>() == 64);

/// How a process ended that somebody else reaps. `None`: it has not been reaped yet. An error where the kernel cannot
/// say: ENOTTY before 6.13, ESRCH (it has been reaped) before 6.15.
pub fn exit_status(pidfd: impl AsFd) -> io::Result<Option<Status>> {
    match ask_exit_status(&pidfd) {
        // The kernel looks for the status first and for the process then; it may have been reaped in between, and
        // its status is there now (6.15).
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => ask_exit_status(&pidfd),
        answer => answer,
    }
}

fn ask_exit_status(pidfd: impl AsFd) -> io::Result<Option<Status>> {
    let mut info = Info {
        mask: PIDFD_INFO_EXIT,
        ..Info::default()
    };
    // SAFETY: the request's number says 64 bytes, which is the size of `info`, all of them plain integers.
    let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO, &mut info) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if info.mask & PIDFD_INFO_EXIT == 0 {
        return Ok(None);
    }
    Ok(Some(match info.exit_code & 0x7f {
        0 => Status::Exited((info.exit_code >> 8) & 0xff),
        signal => Status::Signaled(signal),
    }))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{pidfd_open, Pid, PidfdFlags};

    use super::*;

    #[test]
    fn the_status_is_there_however_the_reaping_falls() {
        for round in 0..400 {
            let mut child = Command::new("/bin/sh")
                .args(["-c", "exit 7"])
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
            let reaper = std::thread::spawn(move || child.wait().unwrap());
            let answer = loop {
                match exit_status(&pidfd) {
                    Ok(None) => {}
                    other => break other,
                }
            };
            assert_eq!(reaper.join().unwrap().code(), Some(7));
            match answer {
                Ok(status) => assert_eq!(status, Some(Status::Exited(7))),
                // Before 6.15, where the next question gets no answer either.
                Err(error) => {
                    assert!(exit_status(&pidfd).is_err(), "round {round}: {error}");
                    return;
                }
            }
        }
    }
}
