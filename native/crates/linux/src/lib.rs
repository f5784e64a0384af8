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
