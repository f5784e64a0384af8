//! Work that may block, in a forked child that shares everything but descriptors, and answers over a socket pair.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use wire::Channel;

use super::failure::{Outcome, Step};
use super::fault::{self, Side};

/// What a helper has done: an encoded reply body and descriptors.
#[derive(Debug)]
pub struct Done {
    /// The map of the reply, id 0.
    pub reply: Vec<u8>,
    /// New descriptors.
    pub fds: Vec<OwnedFd>,
}

impl Done {
    /// A body with descriptors.
    pub fn new<T: serde::Serialize>(body: &T, fds: Vec<OwnedFd>) -> Done {
        Done {
            reply: wire::reply(0, body),
            fds,
        }
    }

    /// `{}`.
    pub fn empty() -> Done {
        Done::new(&wire::Empty {}, Vec::new())
    }
}

/// A helper at work.
#[derive(Debug)]
pub struct Helper {
    /// Where it answers.
    pub channel: Channel,
    /// The process.
    pub pidfd: OwnedFd,
}

/// Forks and runs `work` there, with the descriptors of `keep` and no others; it is killed when spawn ends.
pub fn start(keep: &[BorrowedFd<'_>], work: impl FnOnce() -> Outcome<Done>) -> Outcome<Helper> {
    run(0, None, keep, |_| work())
}

/// Likewise, as a child of hold and in this cgroup, so that what it clones with CLONE_PARENT is hold's child and lies
/// there. Nothing kills it with spawn: it has to be short. `work` gets the socket on which its answer will go.
pub fn start_sibling(
    cgroup: BorrowedFd<'_>,
    keep: &[BorrowedFd<'_>],
    work: impl FnOnce(BorrowedFd<'_>) -> Outcome<Done>,
) -> Outcome<Helper> {
    run(linux::clone::PARENT, Some(cgroup), keep, work)
}

fn run(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    keep: &[BorrowedFd<'_>],
    work: impl FnOnce(BorrowedFd<'_>) -> Outcome<Done>,
) -> Outcome<Helper> {
    let (ours, theirs) = Channel::pair().step("socketpair")?;
    let us = rustix::process::getpid();
    let (_, pidfd) = super::launch::fork(flags, cgroup, "fork", || {
        fault::enter(Side::Helper);
        if flags == 0 {
            let _ = linux::privilege::die_with_parent();
            if rustix::process::getppid() != Some(us) {
                linux::clone::exit_now(1);
            }
        }
        let mut keep = keep.to_vec();
        keep.push(theirs.as_fd());
        if linux::clone::close_all_but(&keep).is_err() {
            linux::clone::exit_now(1);
        }
        let sent = match work(theirs.as_fd()) {
            Ok(done) => {
                let fds: Vec<_> = done.fds.iter().map(AsFd::as_fd).collect();
                theirs.send(&done.reply, &fds)
            }
            Err(error) => theirs.send(&wire::error(0, &error), &[]),
        };
        linux::clone::exit_now(i32::from(sent.is_err()))
    })?;
    Ok(Helper {
        channel: ours,
        pidfd,
    })
}
