//! Registered children and their exits: each exit exactly once. Bookkeeping, and the record of it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use linux::wait::Status;
use wire::hold::{Child, Exit, EXITS_REPLY_MAX};
use wire::WireError;

use super::record::{SharedRecord, Slot};
use super::store::Shared;

/// Exits that nobody has acknowledged, and children that will become such.
const EXITS_MAX: usize = 65_536;
/// Ended processes that nobody has registered (yet). Between clone and register lies a millisecond.
const STRANGERS_MAX: usize = 1_024;

/// A registered child that has not ended.
#[derive(Debug)]
pub struct Registered {
    /// What `children` reports.
    pub child: Child,
    /// Shared with the store's `pidfd/<name>`.
    pub pidfd: Shared,
    slot: Slot,
}

/// An end that was seen before its process had a name.
#[derive(Debug)]
struct Stranger {
    pid: i32,
    status: Status,
    time_ns: u64,
}

/// The record of all children.
#[derive(Debug)]
pub struct Children {
    by_name: BTreeMap<String, Registered>,
    names: HashMap<i32, String>,
    strangers: VecDeque<Stranger>,
    exits: VecDeque<(Exit, Slot)>,
    last_seq: u64,
    record: SharedRecord,
}

impl Children {
    /// No children.
    pub fn new(record: SharedRecord) -> Children {
        Children {
            by_name: BTreeMap::new(),
            names: HashMap::new(),
            strangers: VecDeque::new(),
            exits: VecDeque::new(),
            last_seq: 0,
            record,
        }
    }

    /// The exits of a predecessor, in the order of `seq`, and the highest that it gave.
    pub fn restore_exits(&mut self, exits: &[Exit], last_seq: u64) -> io::Result<()> {
        self.record.borrow().set_last_seq(last_seq)?;
        self.last_seq = last_seq;
        for exit in exits {
            let slot = self.record.borrow_mut().add_exit(exit)?;
            self.exits.push_back((exit.clone(), slot));
        }
        Ok(())
    }

    /// Whether a child with this name and process id could be registered.
    pub fn check_new(&self, name: &str, pid: i32) -> Result<(), WireError> {
        if let Some(known) = self.by_name.get(name) {
            let child = &known.child;
            let message = format!(
                "{name} runs as generation {}, pid {}",
                child.generation, child.pid
            );
            return Err(WireError::new("hold.exists", message));
        }
        if let Some(name) = self.names.get(&pid) {
            return Err(WireError::new(
                "hold.exists",
                format!("pid {pid} is {name}"),
            ));
        }
        if self.exits.len() + self.by_name.len() >= EXITS_MAX {
            let hint = "acknowledge exits";
            return Err(
                WireError::new("hold.full", "too many exits that nobody has acknowledged")
                    .with_hint(hint),
            );
        }
        Ok(())
    }

    /// Whether the end of this process is waiting for its name.
    pub fn has_stranger(&self, pid: i32) -> bool {
        self.strangers.iter().any(|stranger| stranger.pid == pid)
    }

    /// Add a child that [`Children::check_new`] accepted; in the record, the names that wait for `number` count now.
    pub fn add(&mut self, child: Child, pidfd: Shared, number: u64) -> io::Result<()> {
        let slot = self
            .record
            .borrow_mut()
            .add_child(&child, pidfd.as_raw_fd(), number)?;
        self.names.insert(child.pid, child.name.clone());
        let known = Registered { child, pidfd, slot };
        self.by_name.insert(known.child.name.clone(), known);
        Ok(())
    }

    /// The end of a stranger that now has a name: its exit.
    pub fn adopt(&mut self, pid: i32) -> Option<(Exit, Shared)> {
        // The newest, should the number have been used twice.
        let at = self
            .strangers
            .iter()
            .rposition(|stranger| stranger.pid == pid)?;
        let stranger = self.strangers.remove(at)?;
        self.ended(pid, Some(stranger.status), stranger.time_ns)
    }

    /// A process has ended (`None`: nobody knows how). Its exit and its pidfd if it is registered; else remembered.
    pub fn ended(
        &mut self,
        pid: i32,
        status: Option<Status>,
        time_ns: u64,
    ) -> Option<(Exit, Shared)> {
        let Some(name) = self.names.remove(&pid) else {
            if let Some(status) = status {
                if self.strangers.len() == STRANGERS_MAX {
                    self.strangers.pop_front();
                }
                self.strangers.push_back(Stranger {
                    pid,
                    status,
                    time_ns,
                });
            }
            return None;
        };
        let Registered { child, pidfd, slot } = self.by_name.remove(&name)?;
        self.last_seq += 1;
        let (code, signal) = match status {
            Some(Status::Exited(code)) => (Some(code), None),
            Some(Status::Signaled(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        let exit = Exit {
            seq: self.last_seq,
            name,
            generation: child.generation,
            pid,
            code,
            signal,
            time_ns,
        };
        self.record.borrow_mut().child_ended(slot, &exit);
        self.exits.push_back((exit.clone(), slot));
        Some((exit, pidfd))
    }

    /// Exits with a greater `seq`, the first [`EXITS_REPLY_MAX`].
    pub fn exits(&self, after: u64) -> Vec<Exit> {
        let from = self.exits.partition_point(|(exit, _)| exit.seq <= after);
        self.exits
            .iter()
            .skip(from)
            .take(EXITS_REPLY_MAX)
            .map(|(exit, _)| exit.clone())
            .collect()
    }

    /// Forget exits up to and including `seq`.
    pub fn acknowledge(&mut self, seq: u64) {
        let until = self.exits.partition_point(|(exit, _)| exit.seq <= seq);
        for (_, slot) in self.exits.drain(..until) {
            self.record.borrow_mut().remove(slot);
        }
    }

    /// Whether this pidfd is that of the registered child `pid`.
    pub fn is_registered(&self, pid: i32, pidfd: &Shared) -> bool {
        let name = self.names.get(&pid);
        let known = name.and_then(|name| self.by_name.get(name));
        known.is_some_and(|known| Rc::ptr_eq(&known.pidfd, pidfd))
    }

    /// A registered child.
    pub fn get(&self, name: &str) -> Option<&Registered> {
        self.by_name.get(name)
    }

    /// All registered children in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Registered> {
        self.by_name.values()
    }

    /// How many are registered.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;

    fn fd() -> Shared {
        Rc::new(linux::memfd::sealed("t", b"").unwrap())
    }

    fn child(name: &str, pid: i32) -> Child {
        Child {
            name: name.into(),
            generation: 3,
            pid,
            start_ns: 1,
        }
    }

    #[test]
    fn an_exit_is_reported_once_until_acknowledged() {
        let mut children = Children::new(Record::none());
        let pidfd = fd();
        children.check_new("a", 10).unwrap();
        children.add(child("a", 10), pidfd.clone(), 0).unwrap();
        assert!(children.is_registered(10, &pidfd));
        assert!(!children.is_registered(10, &fd()));
        assert!(!children.is_registered(11, &pidfd));
        assert_eq!(children.check_new("a", 11).unwrap_err().code, "hold.exists");
        assert_eq!(children.check_new("b", 10).unwrap_err().code, "hold.exists");
        let (exit, _) = children.ended(10, Some(Status::Exited(5)), 99).unwrap();
        assert_eq!(
            (exit.seq, exit.code, exit.signal, exit.generation),
            (1, Some(5), None, 3)
        );
        assert!(
            children.ended(10, Some(Status::Exited(5)), 99).is_none(),
            "the pid is a stranger's now"
        );
        assert_eq!(children.exits(0), [exit]);
        assert!(children.exits(1).is_empty());
        children.acknowledge(0);
        assert_eq!(children.exits(0).len(), 1);
        children.acknowledge(u64::MAX);
        assert!(children.exits(0).is_empty());
    }

    #[test]
    fn a_child_that_ends_before_it_has_a_name() {
        let mut children = Children::new(Record::none());
        assert!(children.ended(10, Some(Status::Signaled(9)), 98).is_none());
        assert!(children.has_stranger(10));
        children.add(child("a", 10), fd(), 0).unwrap();
        let (exit, _) = children.adopt(10).unwrap();
        assert_eq!((exit.signal, exit.time_ns), (Some(9), 98));
        assert!(!children.has_stranger(10));
        assert_eq!(children.len(), 0);
    }

    #[test]
    fn strangers_and_replies_are_bounded() {
        let mut children = Children::new(Record::none());
        for pid in 1..=STRANGERS_MAX as i32 + 1 {
            children.ended(pid, Some(Status::Exited(0)), 0);
        }
        assert!(!children.has_stranger(1));
        assert!(children.has_stranger(2));
        for pid in 1..=EXITS_MAX as i32 {
            children.check_new("a", pid).unwrap();
            children.add(child("a", pid), fd(), 0).unwrap();
            children.ended(pid, None, 0);
        }
        assert_eq!(children.check_new("a", 1).unwrap_err().code, "hold.full");
        let exits = children.exits(10);
        assert_eq!(
            (exits.len(), exits[0].seq, exits[0].code),
            (EXITS_REPLY_MAX, 11, None)
        );
    }
}
