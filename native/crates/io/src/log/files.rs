//! One log on disk: its files, their rotation, and the slot that says how far it is written (LOG-FILE, LOG-SLOT).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::MemfdFlags;

use super::buffer::{frame_header, Buffer, CHUNK_MAX, FRAME_HEADER};
use super::record::{Slot, SLOT_SIZE};

const FILE_MAGIC: &[u8; 8] = b"ZOSLOG1\0";
const FILE_HEADER: u64 = 16;
/// Stream of a note by logd itself.
const NOTE: u8 = 3;
/// Kind of an end: the next file goes on.
const CONTINUES: u8 = 0;
/// Kind of an end: both pipes have ended.
const ENDED: u8 = 3;
/// Room for a header, notes, the largest frame and an end.
pub const FILE_BYTES_MIN: u64 = 2 * CHUNK_MAX as u64;
/// So that a log is never more than a disk of today.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// So that a directory stays quick to list.
pub const FILES_MAX: u32 = 1024;

/// Limits of a log, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file.
    pub file_bytes_max: u64,
    /// Files that are kept.
    pub files_max: u32,
}

impl Limits {
    /// Of a log that nobody has asked for yet: logd was killed before the first `attach`.
    pub const DEFAULT: Limits = Limits {
        file_bytes_max: 16 << 20,
        files_max: 4,
    };

    /// Whether logd takes them.
    pub fn are_valid(&self) -> bool {
        (FILE_BYTES_MIN..=FILE_BYTES_MAX).contains(&self.file_bytes_max)
            && (1..=FILES_MAX).contains(&self.files_max)
    }
}

/// The files and the slot of one log.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
    memfd: OwnedFd,
    slot: Slot,
    file: Option<File>,
}

impl Files {
    /// A log that hold has no slot of; files of an earlier one in its directory are kept, and count.
    pub fn create(directory: PathBuf, limits: Limits) -> io::Result<Files> {
        let found = list(&directory).unwrap_or_default();
        let last = found.last().copied().unwrap_or(0);
        let size = fs::metadata(directory.join(format!("{last}.log"))).map_or(0, |data| data.len());
        let slot = Slot {
            file_bytes_max: limits.file_bytes_max,
            files_max: limits.files_max,
            seq: last,
            offset: size,
            oldest: found.first().copied().unwrap_or(1),
            ..Slot::default()
        };
        let memfd = rustix::fs::memfd_create("zos-logslot", MemfdFlags::CLOEXEC)?;
        let mut files = Files {
            directory,
            memfd,
            slot,
            file: None,
        };
        files.commit(slot)?;
        Ok(files)
    }

    /// The log of a predecessor.
    pub fn open(directory: PathBuf, memfd: OwnedFd) -> io::Result<Files> {
        let mut bytes = [0; SLOT_SIZE];
        let read = rustix::io::pread(&memfd, &mut bytes, 0)?;
        let slot = Slot::decode(&bytes).filter(|_| read == SLOT_SIZE);
        let slot = slot.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "a log slot of another version")
        })?;
        let mut files = Files {
            directory,
            memfd,
            slot,
            file: None,
        };
        files.delete_old();
        // A next file that is not committed: a reader may be in it already, so nothing more goes to the present one.
        if slot.seq > 0 && !files.path(slot.seq.saturating_add(1)).exists() {
            files.reopen();
        }
        Ok(files)
    }

    /// For hold.
    pub fn memfd(&self) -> &OwnedFd {
        &self.memfd
    }

    /// How far it is written.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Other limits from the next chunk on.
    pub fn set_limits(&mut self, limits: Limits) -> io::Result<()> {
        let (file_bytes_max, files_max) = (limits.file_bytes_max, limits.files_max);
        self.commit(Slot {
            file_bytes_max,
            files_max,
            ..self.slot
        })
    }

    /// Where a chunk of `length` bytes goes: a file that has room for it, after the notes that are due.
    /// `(0, 0)` if nothing can be written now.
    pub fn place(&mut self, length: usize, time_ns: u64) -> (u32, u64) {
        match self.try_place(length, time_ns) {
            Ok(()) => (self.slot.seq, self.slot.offset),
            Err(_) => (0, 0),
        }
    }

    fn try_place(&mut self, length: usize, time_ns: u64) -> io::Result<()> {
        let needed = (FRAME_HEADER + length.next_multiple_of(8)) as u64;
        // Each place may add a note of at most 128 bytes, and a file needs room for its end.
        let fits =
            self.slot.offset + needed + 128 + FRAME_HEADER as u64 <= self.slot.file_bytes_max;
        if self.file.is_none() || !fits {
            self.rotate(time_ns)?;
        }
        let slot = self.slot;
        let note = match (
            slot.dropped_bytes > slot.dropped_noted,
            slot.deleted_bytes > slot.deleted_noted,
        ) {
            (false, false) => return Ok(()),
            (true, false) => format!(
                "zos: {} bytes in all could not be written here and are lost\n",
                slot.dropped_bytes
            ),
            (_, true) => format!(
                "zos: {} bytes in all of older output were deleted\n",
                slot.deleted_bytes
            ),
        };
        let mut frame = frame_header(note.len() as u32, NOTE, time_ns).to_vec();
        frame.extend(note.as_bytes());
        frame.resize(frame.len().next_multiple_of(8), 0);
        self.write_at(&frame, slot.offset)?;
        let offset = slot.offset + frame.len() as u64;
        let noted = match slot.deleted_bytes > slot.deleted_noted {
            true => Slot {
                deleted_noted: slot.deleted_bytes,
                ..slot
            },
            false => Slot {
                dropped_noted: slot.dropped_bytes,
                ..slot
            },
        };
        self.commit(Slot { offset, ..noted })
    }

    /// Settle the take that a predecessor left behind, if it is of this log; how many bytes it had read.
    pub fn recover(&mut self, buffer: &mut Buffer) -> io::Result<Option<usize>> {
        if self.slot.take >= buffer.last().number {
            return Ok(None);
        }
        let taken = buffer.taken();
        self.settle(buffer, taken)?;
        Ok(Some(taken))
    }

    /// Write, or drop, the `length` bytes that were taken; a successor may do it again.
    pub fn settle(&mut self, buffer: &mut Buffer, length: usize) -> io::Result<()> {
        let take = buffer.last();
        let (number, seq, offset) = (take.number, take.seq, take.offset);
        let slot = Slot {
            take: number,
            ..self.slot
        };
        if length == 0 {
            return self.commit(slot);
        }
        let right_place = (seq, offset) == (self.slot.seq, self.slot.offset) && seq > 0;
        let written = match self.file.as_ref().filter(|_| right_place) {
            Some(file) => buffer.write_frame(file, length),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        match written {
            Ok(size) => self.commit(Slot {
                offset: offset + size,
                ..slot
            }),
            Err(_) => {
                // Nothing of a frame that is not whole may stay.
                if let Some(file) = self.file.as_ref().filter(|_| right_place) {
                    let _ = file.set_len(offset);
                }
                let dropped_bytes = slot.dropped_bytes + length as u64;
                self.commit(Slot {
                    dropped_bytes,
                    ..slot
                })
            }
        }
    }

    /// Both pipes have ended: say so in the file. What comes after all (the container runs again) takes its place.
    pub fn end(&mut self, time_ns: u64) {
        let end = frame_header(0, ENDED, time_ns);
        if self.file.is_some() && self.write_at(&end, self.slot.offset).is_err() {
            let _ = self
                .file
                .as_ref()
                .map(|file| file.set_len(self.slot.offset));
        }
    }

    /// Close the present file and begin the next one, deleting the oldest where there are too many.
    ///
    /// The order makes each step repeatable: what is to be deleted is committed before it is, so it is counted once;
    /// the new file is only known once it has its header.
    fn rotate(&mut self, time_ns: u64) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let mut slot = self.slot;
        let next = slot.seq.checked_add(1).ok_or(io::ErrorKind::FileTooLarge)?;
        let first_kept = next.saturating_add(1).saturating_sub(slot.files_max).max(1);
        // Of the files that are there: between two numbers there may be any gap.
        let there = list(&self.directory).unwrap_or_default();
        for seq in there
            .into_iter()
            .filter(|seq| (slot.oldest..first_kept).contains(seq))
        {
            let size = fs::metadata(self.path(seq)).map_or(0, |data| data.len());
            slot.deleted_bytes += size.saturating_sub(FILE_HEADER);
        }
        slot.oldest = slot.oldest.max(first_kept);
        if slot != self.slot {
            self.commit(slot)?;
            self.delete_old();
        }
        if self.file.is_some() {
            // Without it a reader still finds the next file.
            let _ = self.write_at(&frame_header(0, CONTINUES, time_ns), slot.offset);
        }
        let path = self.path(next);
        let new = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        let mut header = FILE_MAGIC.to_vec();
        header.extend(next.to_le_bytes());
        header.extend([0; 4]);
        if let Err(error) = new.write_all_at(&header, 0) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.file = Some(new);
        self.commit(Slot {
            seq: next,
            offset: FILE_HEADER,
            ..slot
        })
    }

    /// The file that the slot names, if it is what it should be; otherwise the next chunk begins a new one.
    fn reopen(&mut self) {
        let open = || -> io::Result<File> {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.path(self.slot.seq))?;
            let mut header = [0; FILE_HEADER as usize];
            file.read_exact(&mut header)?;
            let is_ours =
                header.starts_with(FILE_MAGIC) && header[8..12] == self.slot.seq.to_le_bytes();
            match is_ours && file.metadata()?.len() >= self.slot.offset {
                true => Ok(file),
                false => Err(io::ErrorKind::InvalidData.into()),
            }
        };
        self.file = open().ok();
    }

    fn delete_old(&self) {
        // What cannot be listed or deleted is tried again at the next rotation.
        for seq in list(&self.directory).unwrap_or_default() {
            if seq < self.slot.oldest {
                let _ = fs::remove_file(self.path(seq));
            }
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let result = match &self.file {
            Some(file) => file.write_all_at(bytes, offset),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        if let (Err(_), Some(file)) = (&result, &self.file) {
            let _ = file.set_len(offset);
        }
        result
    }

    fn commit(&mut self, slot: Slot) -> io::Result<()> {
        if rustix::io::pwrite(self.memfd.as_fd(), &slot.encode(), 0)? != SLOT_SIZE {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.slot = slot;
        Ok(())
    }

    fn path(&self, seq: u32) -> PathBuf {
        self.directory.join(format!("{seq}.log"))
    }
}

/// The numbers of the log files in a directory, ascending; none if it is not there.
pub fn list(directory: &Path) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".log"));
        let seq = stem.and_then(|stem| {
            stem.parse::<u32>()
                .ok()
                .filter(|seq| seq.to_string() == stem && *seq > 0)
        });
        found.extend(seq);
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::record::Take;
    use super::*;

    /// A folder that goes away with its test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("zos-log-{}-{name}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Folder(path)
        }

        fn files(&self, limits: Limits) -> Files {
            Files::create(self.0.clone(), limits).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const LIMITS: Limits = Limits {
        file_bytes_max: FILE_BYTES_MIN,
        files_max: 3,
    };

    /// What a successor finds: the same memory, nothing else.
    fn successor(files: &Files, buffer: &Buffer) -> (Files, Buffer) {
        let slot = files.memfd().try_clone().unwrap();
        let memory = buffer.memfd().try_clone().unwrap();
        (
            Files::open(files.directory.clone(), slot).unwrap(),
            Buffer::open(memory, 3).unwrap(),
        )
    }

    fn begin(files: &mut Files, buffer: &mut Buffer, length: usize) {
        let (seq, offset) = files.place(length, 7);
        let take = Take {
            time_ns: 7,
            offset,
            seq,
            length: length as u32,
            stream: 1,
            ..Take::default()
        };
        buffer.begin(take).unwrap();
    }

    fn chunk(files: &mut Files, buffer: &mut Buffer, data: &[u8]) {
        let (out, into) = rustix::pipe::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&into, 2 * CHUNK_MAX).unwrap();
        rustix::io::write(&into, data).unwrap();
        begin(files, buffer, data.len());
        let read = buffer.read(&out).unwrap();
        files.settle(buffer, read).unwrap();
    }

    /// All frames of all files, oldest first; a place that is no frame ends a file.
    fn frames(folder: &Folder) -> Vec<(u8, Vec<u8>)> {
        let mut found = Vec::new();
        for seq in list(&folder.0).unwrap() {
            let bytes = fs::read(folder.0.join(format!("{seq}.log"))).unwrap();
            assert_eq!(bytes[..8], *FILE_MAGIC);
            let mut at = FILE_HEADER as usize;
            while let Some(header) = bytes.get(at..at + FRAME_HEADER) {
                let length =
                    u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
                if length == 0 {
                    break;
                }
                at += FRAME_HEADER;
                found.push((header[4], bytes[at..at + length].to_vec()));
                at += length.next_multiple_of(8);
            }
        }
        found
    }

    #[test]
    fn a_kill_at_any_step_neither_loses_nor_doubles() {
        for step in 0..=4 {
            let folder = Folder::new(&format!("kill-{step}"));
            let (mut files, mut buffer) = (folder.files(LIMITS), Buffer::create(1).unwrap());
            chunk(&mut files, &mut buffer, b"before");
            let (out, into) = rustix::pipe::pipe().unwrap();
            rustix::io::write(&into, b"the chunk").unwrap();
            if step >= 1 {
                begin(&mut files, &mut buffer, 9);
            }
            if step >= 2 {
                assert_eq!(buffer.read(&out).unwrap(), 9);
            }
            if step == 3 {
                // The frame is written, in part, but not committed.
                buffer.write_frame(files.file.as_ref().unwrap(), 9).unwrap();
                files
                    .file
                    .as_ref()
                    .unwrap()
                    .set_len(files.slot.offset + 20)
                    .unwrap();
            }
            if step == 4 {
                files.settle(&mut buffer, 9).unwrap();
            }
            let (mut files, mut buffer) = successor(&files, &buffer);
            let recovered = files.recover(&mut buffer).unwrap();
            assert_eq!(recovered, [None, Some(0), Some(9), Some(9), None][step]);
            assert_eq!(files.recover(&mut buffer).unwrap(), None, "once");
            if rustix::io::ioctl_fionread(&out).unwrap() > 0 {
                begin(&mut files, &mut buffer, 9);
                let read = buffer.read(&out).unwrap();
                files.settle(&mut buffer, read).unwrap();
            }
            chunk(&mut files, &mut buffer, b"after");
            let expected = [&b"before"[..], b"the chunk", b"after"].map(|data| (1, data.to_vec()));
            assert_eq!(frames(&folder), expected, "step {step}");
        }
    }

    #[test]
    fn files_stay_within_their_limits_and_losses_are_noted() {
        let folder = Folder::new("rotate");
        let (mut files, mut buffer) = (folder.files(LIMITS), Buffer::create(1).unwrap());
        let sizes = [1, 8, 100, 4095, CHUNK_MAX - 1, CHUNK_MAX, CHUNK_MAX];
        for size in sizes.into_iter().cycle().take(100) {
            chunk(&mut files, &mut buffer, &vec![b'x'; size]);
        }
        let kept = list(&folder.0).unwrap();
        assert_eq!(kept.len(), 3);
        assert_eq!((files.slot.oldest, files.slot.seq), (kept[0], kept[2]));
        for seq in kept {
            assert!(fs::metadata(files.path(seq)).unwrap().len() <= FILE_BYTES_MIN);
        }
        assert!(files.slot.deleted_bytes > 0);
        let notes: Vec<_> = frames(&folder)
            .into_iter()
            .filter(|(stream, _)| *stream == NOTE)
            .collect();
        let expected = format!(
            "zos: {} bytes in all of older output were deleted\n",
            files.slot.deleted_bytes
        );
        assert_eq!(notes.last().unwrap().1, expected.as_bytes());
    }

    #[test]
    fn a_new_log_goes_on_after_the_files_of_an_old_one() {
        let folder = Folder::new("old");
        let (mut files, mut buffer) = (folder.files(LIMITS), Buffer::create(1).unwrap());
        chunk(&mut files, &mut buffer, b"old");
        let mut files = folder.files(LIMITS);
        assert_eq!((files.slot.seq, files.slot.offset), (1, 16 + 16 + 8));
        chunk(&mut files, &mut buffer, b"new");
        assert_eq!(list(&folder.0).unwrap(), [1, 2]);
        assert_eq!(
            frames(&folder),
            [(1, b"old".to_vec()), (1, b"new".to_vec())]
        );
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_noted() {
        let folder = Folder::new("drop");
        let (mut files, mut buffer) = (folder.files(LIMITS), Buffer::create(1).unwrap());
        fs::remove_dir(&folder.0).unwrap();
        fs::write(&folder.0, b"in the way").unwrap();
        chunk(&mut files, &mut buffer, b"lost");
        assert_eq!((files.slot.dropped_bytes, files.slot.seq), (4, 0));
        fs::remove_file(&folder.0).unwrap();
        chunk(&mut files, &mut buffer, b"kept");
        let note = b"zos: 4 bytes in all could not be written here and are lost\n".to_vec();
        assert_eq!(frames(&folder), [(NOTE, note), (1, b"kept".to_vec())]);
        files.end(9);
        chunk(&mut files, &mut buffer, b"more");
        assert_eq!(
            frames(&folder).last(),
            Some(&(1, b"more".to_vec())),
            "in the place of the end"
        );
    }

    #[test]
    fn a_rotation_that_was_interrupted_is_finished() {
        let folder = Folder::new("rotating");
        let (mut files, mut buffer) = (folder.files(LIMITS), Buffer::create(1).unwrap());
        chunk(&mut files, &mut buffer, b"one");
        fs::write(files.path(2), b"ZOSL").unwrap();
        let (mut files, mut buffer) = successor(&files, &buffer);
        chunk(&mut files, &mut buffer, b"two");
        assert_eq!((files.slot.seq, files.slot.offset), (2, 16 + 24));
        assert_eq!(
            frames(&folder),
            [(1, b"one".to_vec()), (1, b"two".to_vec())]
        );
    }

    #[test]
    fn the_bytes_are_those_of_the_vector() {
        let folder = Folder::new("vector");
        let (mut files, mut buffer) = (folder.files(LIMITS), Buffer::create(1).unwrap());
        for data in [&b"hello\n"[..], b"12345678", b"\xff\0"] {
            chunk(&mut files, &mut buffer, data);
        }
        files.end(9);
        let vector = include_bytes!("../../../../../tests/vectors/log/1.log");
        assert_eq!(fs::read(files.path(1)).unwrap(), vector);
    }

    #[test]
    fn a_file_that_somebody_has_taken_away_is_replaced() {
        let folder = Folder::new("gone");
        let (mut files, mut buffer) = (folder.files(LIMITS), Buffer::create(1).unwrap());
        chunk(&mut files, &mut buffer, b"one");
        fs::remove_file(files.path(1)).unwrap();
        let (mut files, mut buffer) = successor(&files, &buffer);
        chunk(&mut files, &mut buffer, b"two");
        assert_eq!(list(&folder.0).unwrap(), [2]);
        assert_eq!(frames(&folder), [(1, b"two".to_vec())]);
    }
}
