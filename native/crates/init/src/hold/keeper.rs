//! The keeper: a child of hold that shares hold's table of descriptors and does nothing until hold has died (HOLD-KEEP).
//!
//! The kernel keeps an open descriptor as long as any process has the table it is in, so nothing has to be copied for
//! it, at no time: whatever hold had when it was killed is still there, under the same number. The keeper then closes
//! what the record does not name (channels, so that services learn of the end; the lock), and gives the rest to the
//! next hold, whom it knows as whoever may open its socket in the run directory.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use linux::clone::{close_all_but_numbers, copy_of, exit_now, fork_sharing_files, Forked};
use rustix::event::{poll, PollFd, PollFlags};
use serde::{Deserialize, Serialize};
use wire::hold::GET_MAX;
use wire::{Channel, Empty, WireError};

use super::record::Kept;

/// Title and `comm` of the keeper.
const TITLE: &str = "zos-keep";
/// A client that says nothing for this long makes room for the next.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Waiting for the keeper's answers: it has nothing else to do.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A running keeper of this hold.
#[derive(Debug)]
pub struct Keeper {
    /// Its process id.
    pub pid: i32,
    /// When it was started.
    pub since: Instant,
    _pidfd: OwnedFd,
}

/// What a keeper works with: descriptors of hold's table.
#[derive(Debug, Clone, Copy)]
pub struct Post<'a> {
    /// The record.
    pub record: BorrowedFd<'a>,
    /// The socket that it answers at.
    pub listener: BorrowedFd<'a>,
    /// Hold's own pidfd.
    pub hold: BorrowedFd<'a>,
    /// The file of the socket.
    pub path: &'a Path,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbers {
    numbers: Vec<i32>,
}

/// Start a keeper.
pub fn start(post: Post<'_>) -> io::Result<Keeper> {
    match fork_sharing_files()? {
        Forked::Parent { pid, pidfd } => Ok(Keeper {
            pid,
            since: Instant::now(),
            _pidfd: pidfd,
        }),
        Forked::Child => {
            let _ = std::panic::catch_unwind(|| keep(post));
            exit_now(0)
        }
    }
}

fn keep(post: Post<'_>) {
    linux::process::set_name(TITLE);
    let _ = linux::title::set(TITLE);
    wait_for_end(post.hold);
    let Ok(record) = post.record.try_clone_to_owned() else {
        return;
    };
    // A hold that ended in order has taken its socket files away; one that died before it had taken over everything
    // has not put its own in place.
    let Ok(kept) = Kept::read(&record) else {
        return;
    };
    if !is_ours(post.path, kept.socket) {
        return;
    }
    let known = kept.descriptors();
    let mut numbers = known.clone();
    numbers.extend([record.as_raw_fd(), post.listener.as_raw_fd()]);
    if close_all_but_numbers(&numbers).is_err() {
        return;
    }
    while is_ours(post.path, kept.socket) {
        let channel = match Channel::accept(post.listener) {
            Ok(channel) => channel,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        // FRAME-8
        let uid = channel.peer_uid().unwrap_or(u32::MAX);
        let welcome = uid == 0 || uid == rustix::process::geteuid().as_raw();
        if welcome && serve(&channel, record.as_fd(), &known) {
            return;
        }
    }
}

fn wait_for_end(hold: BorrowedFd<'_>) {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(hold, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(1..) => return,
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn is_ours(path: &Path, socket: (u64, u64)) -> bool {
    path.symlink_metadata()
        .is_ok_and(|meta| (meta.dev(), meta.ino()) == socket)
}

/// One client to its end; true when it has taken over.
fn serve(channel: &Channel, record: BorrowedFd<'_>, known: &BTreeSet<i32>) -> bool {
    while let Ok(Some(received)) = channel.recv_timeout(CLIENT_TIMEOUT) {
        let Ok(head) = wire::head(&received.map) else {
            return false;
        };
        let Some((id, op)) = head.request() else {
            return false;
        };
        let done = wire::reply(id, &Empty {});
        let sent = match op {
            "record" => channel.send(&done, &[record]),
            "get" => match copies(&received.map, known) {
                Ok(fds) => {
                    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                    channel.send(&done, &fds)
                }
                Err(error) => channel.send(&wire::error(id, &error), &[]),
            },
            "done" => {
                let _ = channel.send(&done, &[]);
                return true;
            }
            other => channel.send(&wire::error(id, &WireError::unknown_op(other)), &[]),
        };
        if sent.is_err() {
            return false;
        }
    }
    false
}

fn copies(map: &[u8], known: &BTreeSet<i32>) -> Result<Vec<OwnedFd>, WireError> {
    let Numbers { numbers } = wire::body(map).map_err(|error| WireError::bad_body(&error))?;
    let good = |number: &i32| known.contains(number);
    if !(1..=GET_MAX).contains(&numbers.len()) || !numbers.iter().all(good) {
        let message = format!("1 to {GET_MAX} numbers that the record names");
        return Err(WireError::new("frame.bad-body", message));
    }
    let copied: io::Result<Vec<_>> = numbers.iter().map(|number| copy_of(*number)).collect();
    copied.map_err(|error| WireError::step("hold.step", "dup", &error))
}

/// A new hold's connection to the keeper of a dead one.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    last_id: u64,
}

impl Client {
    /// Connect to the keeper at `path`; `None` when there is none.
    pub fn connect(path: &Path) -> io::Result<Option<Client>> {
        match Channel::connect(path) {
            Ok(channel) => Ok(Some(Client {
                channel,
                last_id: 0,
            })),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What the dead hold had written down.
    pub fn record(&mut self) -> io::Result<Kept> {
        let mut fds = self.request("record", &Empty {})?;
        match (fds.pop(), fds.is_empty()) {
            (Some(record), true) => Kept::read(&record),
            _ => Err(io::Error::other("the keeper sent no record")),
        }
    }

    /// Copies of descriptors, by the numbers that the record has.
    pub fn get(&mut self, numbers: &[i32]) -> io::Result<Vec<OwnedFd>> {
        let mut all = Vec::with_capacity(numbers.len());
        for group in numbers.chunks(GET_MAX) {
            let numbers = group.to_vec();
            let fds = self.request("get", &Numbers { numbers })?;
            if fds.len() != group.len() {
                return Err(io::Error::other(
                    "the keeper sent another number of descriptors",
                ));
            }
            all.extend(fds);
        }
        Ok(all)
    }

    /// Everything is taken: the keeper ends.
    pub fn done(mut self) -> io::Result<()> {
        self.request("done", &Empty {}).map(drop)
    }

    fn request<T: Serialize>(&mut self, op: &str, body: &T) -> io::Result<Vec<OwnedFd>> {
        self.last_id += 1;
        self.channel
            .send(&wire::request(self.last_id, op, body), &[])?;
        let received = self
            .channel
            .recv_timeout(ANSWER_TIMEOUT)?
            .ok_or_else(|| io::Error::other("the keeper has gone"))?;
        let head =
            wire::head(&received.map).map_err(|error| io::Error::other(error.to_string()))?;
        match head.error {
            Some(error) => Err(io::Error::other(error.to_string())),
            None => Ok(received.fds),
        }
    }
}
