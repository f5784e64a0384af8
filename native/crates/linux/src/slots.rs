//! Shared memory for FUSE requests in flight (SLOT-1, docs/spec/blockd.md): the kernel copies a request straight into a
//! slot, so a successor of whoever read it finds it there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Slots of one memory.
pub const COUNT: usize = 32;
/// Bytes of a slot.
pub const SLOT_SIZE: usize = 16_384;
/// Bytes before the first slot.
pub const HEAD_SIZE: usize = 4096;
/// Bytes of the whole memory.
pub const SIZE: usize = HEAD_SIZE + COUNT * SLOT_SIZE;

const MAGIC: [u8; 8] = *b"ZOSSLOT1";
const COUNT_AT: usize = 8;
const SIZE_AT: usize = 12;
const SETTLED_AT: usize = 16;
const INITIALIZED_AT: usize = 36;

/// What FUSE_INIT settled, in the order of page 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Major version of the protocol.
    pub major: u32,
    /// Minor version of the protocol.
    pub minor: u32,
    /// Flags agreed on.
    pub flags: u32,
    /// Bytes of read-ahead.
    pub max_readahead: u32,
    /// Pages of the largest request.
    pub max_pages: u32,
}

/// The mapped memory.
pub struct Slots {
    base: NonNull<u8>,
}

// SAFETY: the memory is shared with other processes anyway, so it is only ever accessed by copies, by atomic words and
// by the kernel; nothing in the struct belongs to a thread.
unsafe impl Send for Slots {}
// SAFETY: as above; two threads never use one slot at once (the caller's free list), and page 0 is written by whoever
// answers FUSE_INIT, once.
unsafe impl Sync for Slots {}

impl Slots {
    /// Maps a memfd of [`SIZE`] bytes. One that is all zero gets its page 0.
    pub fn map(memfd: impl AsFd) -> io::Result<Slots> {
        let memfd = memfd.as_fd();
        let size = rustix::fs::fstat(memfd)?.st_size;
        if size != SIZE as i64 {
            return Err(invalid("slots have another size"));
        }
        // SAFETY: a fresh shared mapping of SIZE bytes at an address of the kernel's choice; the file is that long.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                memfd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A page that is not there when SIGKILL comes would break the kernel's copy off, and the reader would hear EIO.
        // SAFETY: the range that was just mapped. A refusal (RLIMIT_MEMLOCK) leaves that small chance.
        unsafe { libc::mlock(base, SIZE) };
        let base = NonNull::new(base.cast()).ok_or_else(|| invalid("mapped at zero"))?;
        let slots = Slots { base };
        let mut magic = [0; 8];
        slots.copy_out(0, &mut magic);
        if magic == [0; 8] {
            slots.word(COUNT_AT).store(COUNT as u32, Ordering::Relaxed);
            slots
                .word(SIZE_AT)
                .store(SLOT_SIZE as u32, Ordering::Relaxed);
            // SAFETY: eight bytes at the start of the mapping.
            unsafe {
                std::ptr::copy_nonoverlapping(MAGIC.as_ptr(), slots.base.as_ptr(), MAGIC.len())
            };
        } else if magic != MAGIC
            || slots.word(COUNT_AT).load(Ordering::Relaxed) != COUNT as u32
            || slots.word(SIZE_AT).load(Ordering::Relaxed) != SLOT_SIZE as u32
        {
            return Err(invalid("slots of another version"));
        }
        Ok(slots)
    }

    /// What FUSE_INIT settled, if it was answered.
    pub fn settled(&self) -> Option<Settled> {
        if self.word(INITIALIZED_AT).load(Ordering::Acquire) == 0 {
            return None;
        }
        let field = |i: usize| self.word(SETTLED_AT + 4 * i).load(Ordering::Relaxed);
        Some(Settled {
            major: field(0),
            minor: field(1),
            flags: field(2),
            max_readahead: field(3),
            max_pages: field(4),
        })
    }

    /// Writes what FUSE_INIT settled.
    pub fn settle(&self, settled: &Settled) {
        let fields = [
            settled.major,
            settled.minor,
            settled.flags,
            settled.max_readahead,
            settled.max_pages,
        ];
        for (i, field) in fields.iter().enumerate() {
            self.word(SETTLED_AT + 4 * i)
                .store(*field, Ordering::Relaxed);
        }
        self.word(INITIALIZED_AT).store(1, Ordering::Release);
    }

    /// Reads one request from /dev/fuse into slot `slot`; its size.
    pub fn read_request(&self, slot: usize, device: BorrowedFd<'_>) -> io::Result<usize> {
        assert!(slot < COUNT);
        // SAFETY: the kernel writes at most SLOT_SIZE bytes into the slot, which lies within the mapping.
        let read = unsafe {
            let to = self.base.as_ptr().add(HEAD_SIZE + slot * SLOT_SIZE);
            libc::read(device.as_raw_fd(), to.cast(), SLOT_SIZE)
        };
        if read < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(read as usize)
    }

    /// The length of the request in slot `slot`, 0 if it is free.
    pub fn len(&self, slot: usize) -> u32 {
        self.word(HEAD_SIZE + slot * SLOT_SIZE)
            .load(Ordering::Acquire)
    }

    /// Copies the first bytes of slot `slot`.
    pub fn copy(&self, slot: usize, buffer: &mut [u8]) {
        assert!(slot < COUNT && buffer.len() <= SLOT_SIZE);
        self.copy_out(HEAD_SIZE + slot * SLOT_SIZE, buffer);
    }

    /// Marks slot `slot` free.
    pub fn free(&self, slot: usize) {
        self.word(HEAD_SIZE + slot * SLOT_SIZE)
            .store(0, Ordering::Release);
    }

    fn copy_out(&self, at: usize, buffer: &mut [u8]) {
        assert!(at + buffer.len() <= SIZE);
        // SAFETY: source within the mapping (asserted), destination exclusive.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.base.as_ptr().add(at),
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at + 4 <= SIZE && at.is_multiple_of(4));
        // SAFETY: aligned, within the mapping that lives as long as self, and only accessed atomically through here.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(at).cast()) }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this size, and no reference into it outlives self.
        unsafe { libc::munmap(self.base.as_ptr().cast(), SIZE) };
    }
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;
    use std::os::fd::OwnedFd;

    fn memfd(size: usize) -> OwnedFd {
        let fd = rustix::fs::memfd_create("t", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, size as u64).unwrap();
        fd
    }

    #[test]
    fn a_successor_finds_what_was_read() {
        let memory = memfd(SIZE);
        let (out, into) = rustix::pipe::pipe().unwrap();
        let settled = Settled {
            major: 7,
            minor: 41,
            flags: 1,
            max_readahead: 2,
            max_pages: 3,
        };
        {
            let slots = Slots::map(&memory).unwrap();
            assert_eq!(slots.settled(), None);
            slots.settle(&settled);
            rustix::io::write(&into, &[8, 0, 0, 0, 1, 2, 3, 4]).unwrap();
            assert_eq!(slots.read_request(31, out.as_fd()).unwrap(), 8);
        }
        let slots = Slots::map(&memory).unwrap();
        assert_eq!(slots.settled(), Some(settled));
        let taken: Vec<usize> = (0..COUNT).filter(|slot| slots.len(*slot) != 0).collect();
        assert_eq!(taken, [31]);
        let mut request = [0; 8];
        slots.copy(31, &mut request);
        assert_eq!(request, [8, 0, 0, 0, 1, 2, 3, 4]);
        slots.free(31);
        assert_eq!(slots.len(31), 0);
    }

    #[test]
    fn another_file_is_refused() {
        assert!(Slots::map(memfd(SIZE - 1)).is_err());
        let other = memfd(SIZE);
        rustix::io::write(&other, b"ZOSSLOT2").unwrap();
        assert!(Slots::map(other).is_err());
    }
}
