//! Starting programs, and what a process says about itself.

use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What to execute.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// A file by its path.
    Path(&'a CStr),
    /// A file by its descriptor (execveat with AT_EMPTY_PATH), which may be close-on-exec.
    Descriptor(BorrowedFd<'a>),
}

/// A program to start: everything that the child needs, prepared by the parent.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// What to execute.
    pub program: Program<'a>,
    /// Arguments, the first is the title.
    pub args: &'a [CString],
    /// `K=V` each.
    pub env: &'a [CString],
    /// Becomes descriptor 0, 1, 2 and so on of the program, which gets no other.
    pub fds: &'a [BorrowedFd<'a>],
}

/// Start a program in its own session, with default signals, none of them blocked, and umask 022. `(pid, pidfd)`.
///
/// Returns when the program runs: the error of a failed execve is that of this function, and no child is left.
/// For a process with one thread (the child of fork may only make system calls otherwise; it does no more anyway).
pub fn start(start: Start<'_>) -> io::Result<(i32, OwnedFd)> {
    let args = pointers(start.args);
    let env = pointers(start.env);
    let (failure, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // Above every number that dup2 writes to, so that no source is overwritten before it is used.
    let floor = start.fds.len() as RawFd;
    let mut sources = Vec::with_capacity(start.fds.len());
    for fd in start.fds {
        sources.push(rustix::io::fcntl_dupfd_cloexec(fd, floor)?);
    }
    let report_high = rustix::io::fcntl_dupfd_cloexec(&report, floor)?;
    let program_high = match start.program {
        Program::Path(_) => None,
        Program::Descriptor(fd) => Some(rustix::io::fcntl_dupfd_cloexec(fd, floor)?),
    };
    drop(report);
    let source_numbers: Vec<RawFd> = sources.iter().map(AsRawFd::as_raw_fd).collect();
    let no_signals = crate::signal::set_of(&[])?;
    // SAFETY: fork takes nothing. The child below makes system calls alone, on memory that was prepared above.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        let error = child(
            start.program,
            program_high.as_ref().map(AsRawFd::as_raw_fd),
            &args,
            &env,
            &source_numbers,
            &no_signals,
        );
        let bytes = error.to_ne_bytes();
        // SAFETY: the buffer has that length, and _exit never returns.
        unsafe {
            libc::write(report_high.as_raw_fd(), bytes.as_ptr().cast(), bytes.len());
            libc::_exit(127)
        }
    }
    drop(report_high);
    let pidfd = open(pid);
    let mut errno = [0; 4];
    let reported = std::fs::File::from(failure).read_exact(&mut errno).is_ok();
    match pidfd {
        Ok(pidfd) if !reported => Ok((pid, pidfd)),
        outcome => {
            // SAFETY: `pid` is our child, not reaped yet, so the number is still its own.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
            Err(outcome
                .err()
                .unwrap_or_else(|| io::Error::from_raw_os_error(i32::from_ne_bytes(errno))))
        }
    }
}

/// The child's way to execve; the errno of the step that failed.
fn child(
    program: Program<'_>,
    program_fd: Option<RawFd>,
    args: &[*const libc::c_char],
    env: &[*const libc::c_char],
    sources: &[RawFd],
    no_signals: &libc::sigset_t,
) -> i32 {
    // SAFETY: system calls on integers and on memory that the parent prepared: both pointer arrays end with null, and
    // their strings outlive this function, which ends in execve or in the caller's _exit.
    unsafe {
        libc::setsid();
        libc::umask(0o022);
        crate::sigwait::default_actions();
        if libc::sigprocmask(libc::SIG_SETMASK, no_signals, std::ptr::null_mut()) < 0 {
            return errno();
        }
        for (to, from) in sources.iter().enumerate() {
            if libc::dup2(*from, to as RawFd) < 0 {
                return errno();
            }
        }
        // Whatever this process was started with and did not ask for.
        let first = sources.len() as libc::c_uint;
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        match (program, program_fd) {
            (Program::Path(path), _) => {
                libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr());
            }
            (Program::Descriptor(_), fd) => {
                let fd = fd.unwrap_or(-1);
                let (args, env) = (args.as_ptr(), env.as_ptr());
                libc::syscall(
                    libc::SYS_execveat,
                    fd,
                    c"".as_ptr(),
                    args,
                    env,
                    libc::AT_EMPTY_PATH,
                );
            }
        }
        errno()
    }
}

/// A pidfd of a process, close-on-exec.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Become the parent of orphans among the descendants (PR_SET_CHILD_SUBREAPER).
pub fn set_child_subreaper() -> io::Result<()> {
    // SAFETY: plain integers.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Set the name that `ps -o comm` and /proc/self/comm show; cut to 15 bytes.
pub fn set_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // SAFETY: a string that ends with NUL; the kernel copies at most 16 bytes.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
}

/// The children of the calling thread that have not been reaped (`/proc/thread-self/children`), empty without /proc.
pub fn children() -> Vec<i32> {
    let text = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    text.split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
    pointers.push(std::ptr::null());
    pointers
}

fn errno() -> i32 {
    // SAFETY: the address of the calling thread's own errno.
    unsafe { *libc::__errno_location() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn strings(items: &[&str]) -> Vec<CString> {
        items
            .iter()
            .map(|item| CString::new(*item).unwrap())
            .collect()
    }

    #[test]
    fn a_program_gets_its_descriptors_and_environment() {
        let (from, to) = rustix::pipe::pipe().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let args = strings(&["title", "-c", "echo $0 $K >&3; exit 7"]);
        let env = strings(&["K=v"]);
        let fds = [null.as_fd(), null.as_fd(), null.as_fd(), to.as_fd()];
        let program = Program::Path(c"/bin/sh");
        let (pid, _pidfd) = start(Start {
            program,
            args: &args,
            env: &env,
            fds: &fds,
        })
        .unwrap();
        drop(to);
        let mut text = String::new();
        std::fs::File::from(from).read_to_string(&mut text).unwrap();
        assert_eq!(text, "title v\n");
        let ended = loop {
            if let Some(ended) = crate::wait::reap(pid).unwrap() {
                break ended;
            }
            std::thread::yield_now();
        };
        assert_eq!(ended.status, crate::wait::Status::Exited(7));
    }

    #[test]
    fn a_failed_execve_is_reported() {
        let program = Program::Path(c"/nowhere/program");
        let failed = start(Start {
            program,
            args: &[],
            env: &[],
            fds: &[],
        })
        .unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::ENOENT));
    }
}
