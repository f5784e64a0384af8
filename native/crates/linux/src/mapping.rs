//! A memfd that is mapped and shared: the kernel reads pipes straight into it, so that what a process has taken is
//! there for its successor.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

/// A shared mapping of a whole file. Other processes may map it too, so it is only ever accessed by copies.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Map the first `len` bytes of a file that has exactly that size. All its pages are there when this returns, and
    /// are kept in memory where the caller may (RLIMIT_MEMLOCK): a copy by the kernel then never stops in the middle.
    ///
    /// `InvalidData` for a file of another size; mmap(2). The file must never be made shorter (seal it).
    pub fn shared(file: impl AsFd, len: usize) -> io::Result<Mapping> {
        let file = file.as_fd();
        if len == 0 || rustix::fs::fstat(file)?.st_size as u64 != len as u64 {
            let message = "a shared memory of another size";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        // SAFETY: a new mapping at an address of the kernel's choice; the file is as long as it.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range that was just mapped. A refusal only means that it may be swapped out.
        unsafe { libc::mlock(base, len) };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Mapping { base, len })
    }

    /// Copy bytes into it. Panics outside of the mapping.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        self.check(at, bytes.len());
        // SAFETY: the destination is within the mapping, and no reference into a mapping is ever made.
        unsafe { std::ptr::copy(bytes.as_ptr(), self.base.as_ptr().add(at), bytes.len()) };
    }

    /// Copy bytes out of it. Panics outside of the mapping.
    pub fn read(&self, at: usize, bytes: &mut [u8]) {
        self.check(at, bytes.len());
        // SAFETY: the source is within the mapping, and no reference into a mapping is ever made.
        unsafe { std::ptr::copy(self.base.as_ptr().add(at), bytes.as_mut_ptr(), bytes.len()) };
    }

    /// read(2) at most `len` bytes of `from` into it. Panics outside of the mapping.
    pub fn read_from(&mut self, from: impl AsFd, at: usize, len: usize) -> io::Result<usize> {
        self.check(at, len);
        let from = from.as_fd().as_raw_fd();
        // SAFETY: the kernel writes at most `len` bytes, which are within the mapping.
        let read = unsafe { libc::read(from, self.base.as_ptr().add(at).cast(), len) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// pwrite(2) at most `len` bytes of it at `offset` of `to`. Panics outside of the mapping.
    pub fn pwrite_to(
        &self,
        to: impl AsFd,
        at: usize,
        len: usize,
        offset: u64,
    ) -> io::Result<usize> {
        self.check(at, len);
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let to = to.as_fd().as_raw_fd();
        // SAFETY: the kernel reads at most `len` bytes, which are within the mapping.
        let written = unsafe { libc::pwrite64(to, self.base.as_ptr().add(at).cast(), len, offset) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    fn check(&self, at: usize, len: usize) {
        assert!(
            at.checked_add(len).is_some_and(|end| end <= self.len),
            "outside of the mapping"
        );
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `shared` with this length, and no reference into it exists.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;

    #[test]
    fn what_a_pipe_gave_is_there_for_the_next() {
        let memfd = rustix::fs::memfd_create("t", MemfdFlags::CLOEXEC).unwrap();
        assert!(Mapping::shared(&memfd, 4096).is_err());
        rustix::fs::ftruncate(&memfd, 4096).unwrap();
        let (out, into) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&into, b"hello").unwrap();
        let mut one = Mapping::shared(&memfd, 4096).unwrap();
        assert_eq!(one.read_from(&out, 100, 100).unwrap(), 5);
        one.write(99, b">");
        drop(one);
        let next = Mapping::shared(&memfd, 4096).unwrap();
        let mut bytes = [0; 6];
        next.read(99, &mut bytes);
        assert_eq!(&bytes, b">hello");
        let file = rustix::fs::memfd_create("f", MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(next.pwrite_to(&file, 100, 4, 2).unwrap(), 4);
        let mut bytes = [1; 6];
        rustix::io::pread(&file, &mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"\0\0hell");
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn bounds_are_checked() {
        let memfd = rustix::fs::memfd_create("t", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memfd, 4096).unwrap();
        Mapping::shared(&memfd, 4096)
            .unwrap()
            .write(4090, b"1234567");
    }
}
