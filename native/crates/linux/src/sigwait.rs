//! Signals taken one by one: all blocked, waited for with sigwaitinfo(2).

use std::io;
use std::mem::MaybeUninit;

/// _NSIG of every architecture that we know.
const KERNEL_SIGNALS: i32 = 64;
/// The kernel's own set of signals, one bit for each.
const SIGNAL_SET_BYTES: usize = 8;

fn full() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset(3) initializes the whole set.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn empty() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) initializes the whole set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn set_mask(set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `set` is initialized; the old mask is not asked for.
    match unsafe { libc::sigprocmask(libc::SIG_SETMASK, set, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Blocks every signal that can be blocked.
///
/// # Errors
/// None that can happen: sigprocmask(2).
pub fn block_all() -> io::Result<()> {
    set_mask(&full())
}

/// Blocks no signal.
///
/// # Errors
/// None that can happen: sigprocmask(2).
pub fn unblock_all() -> io::Result<()> {
    set_mask(&empty())
}

/// Lets the kernel reap the caller's children.
pub fn ignore_children() {
    // SAFETY: SIG_IGN is no function of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Gives every signal its default action, then blocks none: what a new program expects.
///
/// # Errors
/// sigprocmask(2).
pub fn reset_all() -> io::Result<()> {
    default_actions();
    unblock_all()
}

/// Gives every signal its default action: rt_sigaction(2).
///
/// The call itself and not glibc's function, which refuses the two real-time signals that it keeps for its threads;
/// somebody up the line may have left even these ignored, and a new program would inherit that.
pub fn default_actions() {
    // struct kernel_sigaction, at most four words on any architecture: SIG_DFL, no flags, nothing blocked.
    let default = [0_usize; 4];
    for number in 1..=KERNEL_SIGNALS {
        if number != libc::SIGKILL && number != libc::SIGSTOP {
            // SAFETY: the kernel reads a structure that is no longer than the array, and writes nothing.
            unsafe {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    number,
                    default.as_ptr(),
                    std::ptr::null_mut::<usize>(),
                    SIGNAL_SET_BYTES,
                )
            };
        }
    }
}

/// Waits for any (blocked) signal and takes it.
///
/// # Errors
/// None but `EINTR`, after a stop and continue.
pub fn wait_any() -> io::Result<i32> {
    // SAFETY: the set is initialized and no information is asked for.
    match unsafe { libc::sigwaitinfo(&full(), std::ptr::null_mut()) } {
        -1 => Err(io::Error::last_os_error()),
        number => Ok(number),
    }
}

/// Takes one child that has ended, without waiting: its id and raw wait(2) status.
#[must_use]
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) } {
        pid if pid > 0 => Some((pid, status)),
        _ => None,
    }
}

/// The status a shell would give: the exit code, or 128 and the number of the signal.
#[must_use]
pub fn shell_status(raw: i32) -> i32 {
    if libc::WIFSIGNALED(raw) {
        128 + libc::WTERMSIG(raw)
    } else {
        libc::WEXITSTATUS(raw)
    }
}

/// Sends a signal to a child of the caller that has not been reaped (so that its id is its own).
///
/// # Errors
/// kill(2).
pub fn send(pid: i32, number: i32) -> io::Result<()> {
    if pid <= 1 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: no memory is passed.
    match unsafe { libc::kill(pid, number) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
