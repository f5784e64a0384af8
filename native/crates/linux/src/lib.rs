//! The kernel interfaces that rustix lacks. Each module wraps a few system calls, owns its `unsafe` blocks and is
//! used by the programs that run without Python; nothing in here decides anything.

pub mod fd;
pub mod memfd;
pub mod pidfd;
pub mod process;
pub mod signal;
pub mod wait;
