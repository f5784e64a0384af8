//! What hold knows, written down in shared memory at each change, for a successor (HOLD-RECORD): names with the numbers
//! of their descriptors, children, exits, services.
//!
//! One slot for each, in a memfd that the keeper has too. A slot is written with kind 0 and then gets its kind by a
//! write of four bytes, which SIGKILL does not divide; what a slot says is true from before anybody is told until
//! after its descriptor's name was given up.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use rustix::fs::MemfdFlags;
use wire::hold::{Child, Exit};

const MAGIC: [u8; 8] = *b"ZOSHOLD1";
/// Bytes of a slot; eight to a page, so that none lies in two.
const SLOT: u64 = 512;
/// Slots begin behind the first page.
const FIRST: u64 = 4096;
/// Names, children, exits and services that hold has at most, and room for what one request puts beside the old.
const SLOTS_MAX: u32 = 16_384 + 65_536 + 1_024;

const LAST_SEQ_AT: u64 = 8;
const SOCKET_AT: u64 = 16;
/// How many slots were ever used.
const USED_AT: u64 = 32;

const FREE: u32 = 0;
/// A name of a descriptor.
const NAME: u32 = 1;
/// A name that counts if the child of the same number does: `register` is all or nothing.
const PENDING: u32 = 2;
const CHILD: u32 = 3;
const EXIT: u32 = 4;
const SERVICE: u32 = 5;

const NAME_AT: usize = 64;
const NAME_MAX: usize = 255;

/// A place in the record; `None` in a record that is not kept.
pub type Slot = Option<u32>;

/// The record as store, children and hold share it.
pub type SharedRecord = Rc<RefCell<Record>>;

/// Writes down what is to outlive this process.
#[derive(Debug)]
pub struct Record {
    file: Option<File>,
    free: BTreeSet<u32>,
    used: u32,
    number: u64,
}

/// One slot's content; what a kind does not use is 0.
#[derive(Debug, Default, Clone)]
struct Entry<'a> {
    fd: i32,
    number: u64,
    generation: u64,
    pid: i32,
    start_ns: u64,
    name: &'a str,
}

impl Record {
    /// A record that keeps nothing: for a hold without a keeper.
    pub fn none() -> SharedRecord {
        Rc::new(RefCell::new(Record {
            file: None,
            free: BTreeSet::new(),
            used: 0,
            number: 0,
        }))
    }

    /// An empty record.
    pub fn create() -> io::Result<SharedRecord> {
        let memfd = rustix::fs::memfd_create("zos-hold-record", MemfdFlags::CLOEXEC)?;
        let file = File::from(memfd);
        file.set_len(FIRST + u64::from(SLOTS_MAX) * SLOT)?;
        file.write_all_at(&MAGIC, 0)?;
        Ok(Rc::new(RefCell::new(Record {
            file: Some(file),
            free: BTreeSet::new(),
            used: 0,
            number: 0,
        })))
    }

    /// The memory itself, if there is one.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Device and inode of the keeper's socket file: whose file has that name is the keeper.
    pub fn set_socket(&self, device: u64, inode: u64) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&device.to_le_bytes());
        bytes[8..].copy_from_slice(&inode.to_le_bytes());
        file.write_all_at(&bytes, SOCKET_AT)
    }

    /// A number above all that were given out: of two slots with one name the higher counts.
    pub fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// A descriptor has a name from now on.
    pub fn add_name(&mut self, name: &str, fd: i32) -> io::Result<Slot> {
        let number = self.next_number();
        let entry = Entry {
            fd,
            number,
            name,
            ..Entry::default()
        };
        self.add(NAME, &entry)
    }

    /// As [`Record::add_name`], once the child `number` is there; [`Record::settle`] makes it independent of that.
    pub fn add_pending(&mut self, name: &str, fd: i32, number: u64) -> io::Result<Slot> {
        let entry = Entry {
            fd,
            number,
            name,
            ..Entry::default()
        };
        self.add(PENDING, &entry)
    }

    /// A pending name counts by itself.
    pub fn settle(&mut self, slot: Slot) {
        self.set_kind(slot, NAME);
    }

    /// A child is registered, and with it the names that wait for `number`.
    pub fn add_child(&mut self, child: &Child, pidfd: i32, number: u64) -> io::Result<Slot> {
        let entry = Entry {
            fd: pidfd,
            number,
            generation: child.generation,
            pid: child.pid,
            start_ns: child.start_ns,
            name: &child.name,
        };
        self.add(CHILD, &entry)
    }

    /// A service's process runs.
    pub fn add_service(
        &mut self,
        name: &str,
        generation: u64,
        pid: i32,
        pidfd: i32,
    ) -> io::Result<Slot> {
        let number = self.next_number();
        let entry = Entry {
            fd: pidfd,
            number,
            generation,
            pid,
            name,
            ..Entry::default()
        };
        self.add(SERVICE, &entry)
    }

    /// A child has ended: its slot becomes that of its exit.
    pub fn child_ended(&mut self, slot: Slot, exit: &Exit) {
        let (Some(file), Some(slot)) = (&self.file, slot) else {
            return;
        };
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&exit.code.unwrap_or_default().to_le_bytes());
        bytes[4..8].copy_from_slice(&exit.signal.unwrap_or_default().to_le_bytes());
        let flags = u32::from(exit.code.is_some()) | u32::from(exit.signal.is_some()) << 1;
        bytes[8..12].copy_from_slice(&flags.to_le_bytes());
        bytes[16..24].copy_from_slice(&exit.time_ns.to_le_bytes());
        bytes[24..].copy_from_slice(&exit.seq.to_le_bytes());
        // These pages exist, so that writing to them does not fail for want of memory.
        let _ = file.write_all_at(&bytes, at(slot) + EXIT_AT as u64);
        let _ = file.write_all_at(&exit.seq.to_le_bytes(), LAST_SEQ_AT);
        self.set_kind(Some(slot), EXIT);
    }

    /// An exit as it was, from a predecessor.
    pub fn add_exit(&mut self, exit: &Exit) -> io::Result<Slot> {
        let number = self.next_number();
        let slot = self.reserve()?;
        let entry = Entry {
            fd: -1,
            number,
            generation: exit.generation,
            pid: exit.pid,
            name: &exit.name,
            ..Entry::default()
        };
        self.write(slot, &entry)?;
        self.child_ended(slot, exit);
        Ok(slot)
    }

    /// The highest sequence number that a predecessor gave to an exit.
    pub fn set_last_seq(&self, seq: u64) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| {
            file.write_all_at(&seq.to_le_bytes(), LAST_SEQ_AT)
        })
    }

    /// What was in the slot is no more.
    pub fn remove(&mut self, slot: Slot) {
        self.set_kind(slot, FREE);
        self.free.extend(slot);
    }

    fn add(&mut self, kind: u32, entry: &Entry<'_>) -> io::Result<Slot> {
        let slot = self.reserve()?;
        if let Err(error) = self.write(slot, entry) {
            self.free.extend(slot);
            return Err(error);
        }
        self.set_kind(slot, kind);
        Ok(slot)
    }

    fn reserve(&mut self) -> io::Result<Slot> {
        if self.file.is_none() {
            return Ok(None);
        }
        if let Some(slot) = self.free.pop_first() {
            return Ok(Some(slot));
        }
        if self.used == SLOTS_MAX {
            return Err(io::Error::other("the record of hold is full"));
        }
        // Before it is used, so that a reader never stops short.
        if let Some(file) = &self.file {
            file.write_all_at(&(self.used + 1).to_le_bytes(), USED_AT)?;
        }
        self.used += 1;
        Ok(Some(self.used - 1))
    }

    fn write(&self, slot: Slot, entry: &Entry<'_>) -> io::Result<()> {
        let (Some(file), Some(slot)) = (&self.file, slot) else {
            return Ok(());
        };
        let mut bytes = [0; SLOT as usize];
        bytes[4..8].copy_from_slice(&entry.fd.to_le_bytes());
        bytes[8..16].copy_from_slice(&entry.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&entry.generation.to_le_bytes());
        bytes[24..28].copy_from_slice(&entry.pid.to_le_bytes());
        bytes[32..40].copy_from_slice(&entry.start_ns.to_le_bytes());
        let name = &entry.name.as_bytes()[..entry.name.len().min(NAME_MAX)];
        bytes[60..64].copy_from_slice(&(name.len() as u32).to_le_bytes());
        bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
        file.write_all_at(&bytes, at(slot))
    }

    fn set_kind(&mut self, slot: Slot, kind: u32) {
        if let (Some(file), Some(slot)) = (&self.file, slot) {
            // The page exists since the slot was written.
            let _ = file.write_all_at(&kind.to_le_bytes(), at(slot));
        }
    }
}

/// Behind the longest name.
const EXIT_AT: usize = 320;

fn at(slot: u32) -> u64 {
    FIRST + u64::from(slot) * SLOT
}

/// A service's process as the record has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptService {
    /// Its name in the table.
    pub name: String,
    /// Starts so far.
    pub generation: u64,
    /// Its process id.
    pub pid: i32,
    /// Number of its pidfd.
    pub pidfd: i32,
}

/// What a dead hold had written down; descriptors are numbers in its table.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Names and their descriptors.
    pub names: BTreeMap<String, i32>,
    /// Registered children and their pidfds.
    pub children: Vec<(Child, i32)>,
    /// Exits that nobody has acknowledged, in the order of `seq`.
    pub exits: Vec<Exit>,
    /// Processes of services.
    pub services: Vec<KeptService>,
    /// The highest `seq` of all.
    pub last_seq: u64,
    /// Device and inode of the keeper's socket file.
    pub socket: (u64, u64),
}

impl Kept {
    /// Read a record. Its writer is dead, or it is of no use.
    pub fn read(memfd: &OwnedFd) -> io::Result<Kept> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "no record of hold");
        let file = File::from(memfd.try_clone()?);
        let mut head = [0; 40];
        file.read_exact_at(&mut head, 0)?;
        if head[..8] != MAGIC {
            return Err(invalid());
        }
        let mut kept = Kept {
            last_seq: u64_at(&head, 8),
            socket: (u64_at(&head, 16), u64_at(&head, 24)),
            ..Kept::default()
        };
        let mut names: BTreeMap<String, (u64, i32)> = BTreeMap::new();
        let mut pending: Vec<(String, u64, i32)> = Vec::new();
        let mut begun: BTreeSet<u64> = BTreeSet::new();
        let slots = u64::from(u32_at(&head, USED_AT as usize).min(SLOTS_MAX));
        let mut page = [0; FIRST as usize];
        let per_page = FIRST / SLOT;
        for first in (0..slots).step_by(per_page as usize) {
            file.read_exact_at(&mut page, FIRST + first * SLOT)?;
            for bytes in page.chunks_exact(SLOT as usize) {
                let kind = u32_at(bytes, 0);
                if kind == FREE {
                    continue;
                }
                let fd = u32_at(bytes, 4) as i32;
                let number = u64_at(bytes, 8);
                let length = u32_at(bytes, 60) as usize;
                let name = bytes
                    .get(NAME_AT..NAME_AT + length.min(NAME_MAX))
                    .and_then(|name| std::str::from_utf8(name).ok())
                    .ok_or_else(invalid)?
                    .to_owned();
                let child = || Child {
                    name: name.clone(),
                    generation: u64_at(bytes, 16),
                    pid: u32_at(bytes, 24) as i32,
                    start_ns: u64_at(bytes, 32),
                };
                match kind {
                    NAME => newer(&mut names, name, number, fd),
                    PENDING => pending.push((name, number, fd)),
                    CHILD => {
                        begun.insert(number);
                        kept.children.push((child(), fd));
                    }
                    EXIT => {
                        begun.insert(number);
                        kept.exits.push(exit(child(), bytes));
                    }
                    SERVICE => kept.services.push(KeptService {
                        name,
                        generation: u64_at(bytes, 16),
                        pid: u32_at(bytes, 24) as i32,
                        pidfd: fd,
                    }),
                    _ => return Err(invalid()),
                }
            }
        }
        for (name, number, fd) in pending {
            if begun.contains(&number) {
                newer(&mut names, name, number, fd);
            }
        }
        kept.names = names
            .into_iter()
            .map(|(name, (_, fd))| (name, fd))
            .collect();
        kept.exits.sort_by_key(|exit| exit.seq);
        let highest = kept.exits.last().map_or(0, |exit| exit.seq);
        kept.last_seq = kept.last_seq.max(highest);
        Ok(kept)
    }

    /// The numbers of every descriptor that the record names.
    pub fn descriptors(&self) -> BTreeSet<i32> {
        let of_children = self.children.iter().map(|(_, fd)| *fd);
        let of_services = self.services.iter().map(|service| service.pidfd);
        let names = self.names.values().copied();
        names.chain(of_children).chain(of_services).collect()
    }
}

fn newer(names: &mut BTreeMap<String, (u64, i32)>, name: String, number: u64, fd: i32) {
    let entry = names.entry(name).or_insert((number, fd));
    if entry.0 < number {
        *entry = (number, fd);
    }
}

fn exit(child: Child, bytes: &[u8]) -> Exit {
    let flags = u32_at(bytes, EXIT_AT + 8);
    let given = |bit: u32, value: usize| (flags & bit != 0).then(|| u32_at(bytes, value) as i32);
    Exit {
        seq: u64_at(bytes, EXIT_AT + 24),
        name: child.name,
        generation: child.generation,
        pid: child.pid,
        code: given(1, EXIT_AT),
        signal: given(2, EXIT_AT + 4),
        time_ns: u64_at(bytes, EXIT_AT + 16),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|four| four.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|eight| eight.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(name: &str, pid: i32) -> Child {
        Child {
            name: name.into(),
            generation: 3,
            pid,
            start_ns: 9,
        }
    }

    fn read(record: &SharedRecord) -> Kept {
        let record = record.borrow();
        Kept::read(&record.fd().unwrap().try_clone_to_owned().unwrap()).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let record = Record::create().unwrap();
        {
            let mut record = record.borrow_mut();
            record.set_socket(7, 8).unwrap();
            let gone = record.add_name("listen/a", 5).unwrap();
            record.add_name("listen/a", 6).unwrap();
            record.remove(gone);
            record.add_service("blockd", 2, 40, 9).unwrap();
            let number = record.next_number();
            record.add_pending("log/c/stdout", 11, number).unwrap();
            let slot = record.add_child(&child("c", 41), 12, number).unwrap();
            record.add_child(&child("d", 42), 13, 0).unwrap();
            record.child_ended(
                slot,
                &Exit {
                    seq: 17,
                    name: "c".into(),
                    generation: 3,
                    pid: 41,
                    code: None,
                    signal: Some(9),
                    time_ns: 99,
                },
            );
        }
        let kept = read(&record);
        let expected = [("listen/a", 6), ("log/c/stdout", 11)];
        assert_eq!(
            kept.names,
            expected.map(|(name, fd)| (name.to_owned(), fd)).into()
        );
        assert_eq!(kept.children, [(child("d", 42), 13)]);
        assert_eq!((kept.exits[0].signal, kept.exits[0].time_ns), (Some(9), 99));
        assert_eq!((kept.exits[0].code, kept.last_seq), (None, 17));
        assert_eq!((kept.services[0].pid, kept.socket), (40, (7, 8)));
        assert_eq!(kept.descriptors(), [6, 9, 11, 13].into());
    }

    #[test]
    fn a_register_counts_as_a_whole_or_not_at_all() {
        let record = Record::create().unwrap();
        record.borrow_mut().add_name("log/c/stdout", 5).unwrap();
        let number = record.borrow_mut().next_number();
        let pending = record
            .borrow_mut()
            .add_pending("log/c/stdout", 6, number)
            .unwrap();
        assert_eq!(read(&record).names["log/c/stdout"], 5);
        let slot = record
            .borrow_mut()
            .add_child(&child("c", 41), 7, number)
            .unwrap();
        assert_eq!(read(&record).names["log/c/stdout"], 6);
        record.borrow_mut().settle(pending);
        record.borrow_mut().remove(slot);
        assert_eq!(read(&record).names["log/c/stdout"], 6);
    }

    #[test]
    fn every_slot_is_used_again_and_there_is_an_end() {
        let record = Record::create().unwrap();
        let mut record = record.borrow_mut();
        let slots: Vec<Slot> = (0..SLOTS_MAX)
            .map(|fd| record.add_name("a", fd as i32).unwrap())
            .collect();
        assert!(record.add_name("a", 1).is_err());
        record.remove(slots[7]);
        assert_eq!(record.add_name("a", 1).unwrap(), slots[7]);
    }

    #[test]
    fn other_bytes_are_refused() {
        let memfd = linux::memfd::sealed("t", &[0; 8192]).unwrap();
        assert!(Kept::read(&memfd).is_err());
        assert!(Kept::read(&linux::memfd::sealed("t", b"").unwrap()).is_err());
    }
}
