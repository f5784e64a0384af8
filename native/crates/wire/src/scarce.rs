//! What happens when a process has no descriptor left: it says so, and goes on (FRAME-3, FRAME-10).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Resource;

use crate::{Channel, WireError};

/// Code of every error that says so.
pub const NO_DESCRIPTORS: &str = "frame.no-descriptors";
/// What new clients and new work leave to the work that is under way: a file to rotate, a frame's descriptors.
pub const RESERVED: u64 = 16;
/// How long nobody is accepted where not even a refusal can be sent.
pub const REST: Duration = Duration::from_millis(100);

/// How many descriptors this process may have; lowered or raised at any time (prlimit(2)), so it is asked each time.
pub fn limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current.unwrap_or(u64::MAX)
}

/// Whether a descriptor that was just made is among the last that this process may have.
///
/// The kernel gives the lowest free number, so all below it are taken.
pub fn is_scarce(newest: impl AsFd) -> bool {
    (newest.as_fd().as_raw_fd() as u64).saturating_add(RESERVED) >= limit()
}

/// Whether an error says that there is no descriptor left, for this process or for the machine.
pub fn is_exhausted(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

/// This process as people know it: hold tells its services their names.
fn process() -> String {
    std::env::var("ZOS_SERVICE").unwrap_or_else(|_| "hold".into())
}

impl WireError {
    /// `frame.too-many-clients`: names this process and how many it takes.
    pub fn too_many_clients(max: usize) -> WireError {
        let message = format!(
            "{} has {max} clients already, no more are let in",
            process()
        );
        WireError::new("frame.too-many-clients", message).with_hint("ask again when some have gone")
    }

    /// `frame.no-descriptors`: names this process, its limit and what could not be done.
    pub fn no_descriptors(step: &str) -> WireError {
        let (who, limit) = (process(), limit());
        let mut error = WireError::new(
            NO_DESCRIPTORS,
            format!("{who} has no descriptor left to {step}: its limit (RLIMIT_NOFILE) is {limit}"),
        );
        error.step = Some(step.to_owned());
        error.errno = Some(Errno::MFILE.raw_os_error());
        error.with_hint(
            "end containers or clients of the node, or start it with a higher limit: ulimit -n, or LimitNOFILE= of its unit",
        )
    }
}

/// A listening socket that answers whoever comes, also when there is no descriptor for them.
///
/// One descriptor is kept for that: it is closed, the client accepted in its place, told why and let go.
#[derive(Debug)]
pub struct Door {
    listener: OwnedFd,
    spare: Option<OwnedFd>,
}

impl Door {
    /// Take a listening socket.
    pub fn new(listener: OwnedFd) -> io::Result<Door> {
        let spare = Some(listener.try_clone()?);
        Ok(Door { listener, spare })
    }

    /// The next client; `None`: one was told why it is not let in.
    ///
    /// `WouldBlock` when a listener that does not block has nobody; [`is_exhausted`] when nobody can even be told,
    /// which is to be tried again after [`REST`].
    pub fn accept(&mut self) -> io::Result<Option<Channel>> {
        match Channel::accept(&self.listener) {
            Ok(channel) if is_scarce(&channel) => {
                channel.refuse(&WireError::no_descriptors("let a client in"));
                Ok(None)
            }
            Ok(channel) => Ok(Some(channel)),
            Err(error) if is_exhausted(&error) => {
                self.spare = None;
                let refused = Channel::accept(&self.listener)
                    .map(|channel| channel.refuse(&WireError::no_descriptors("let a client in")));
                self.spare = self.listener.try_clone().ok();
                refused.map(|()| None)
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
