//! The kernel interfaces that rustix lacks. Each module wraps a few system calls, owns its `unsafe` blocks and is
//! used by the programs that run without Python; nothing in here decides anything.

pub mod clone;
pub mod fd;
pub mod loopdev;
pub mod mapping;
pub mod memfd;
pub mod mount;
pub mod netif;
pub mod pidfd;
pub mod privilege;
pub mod process;
pub mod signal;
pub mod sigwait;
pub mod slots;
pub mod title;
pub mod wait;
pub mod wipe;

/// A line to stderr, which is the service's log; lost where it cannot be written: `eprintln!` panics on a full disk, and
/// the thread that does leaves undone what others wait for.
#[macro_export]
macro_rules! complain {
    ($($argument:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::writeln!(::std::io::stderr(), $($argument)*);
    }};
}
