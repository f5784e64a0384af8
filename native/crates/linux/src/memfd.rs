//! Anonymous files, sealed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

/// Nobody can write, shrink, grow or unseal.
pub const ALL_SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// A sealed memfd with what `from` has left, close-on-exec and executable.
pub fn sealed_copy(name: &str, mut from: impl Read) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        // Before 6.3 there is no MFD_EXEC, and every memfd is executable.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
        other => other?,
    };
    let mut file = File::from(memfd);
    io::copy(&mut from, &mut file)?;
    file.flush()?;
    rustix::fs::fcntl_add_seals(&file, ALL_SEALS)?;
    Ok(file.into())
}

/// A sealed memfd with these bytes.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    sealed_copy(name, bytes)
}

/// Whether `fd` is a memfd that nobody can change any more.
pub fn is_sealed(fd: impl AsFd) -> bool {
    rustix::fs::fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(ALL_SEALS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_means_no_more_writes() {
        let memfd = sealed("t", b"hello").unwrap();
        assert!(is_sealed(&memfd));
        assert!(rustix::io::write(&memfd, b"x").is_err());
        let (pipe, _) = rustix::pipe::pipe().unwrap();
        assert!(!is_sealed(pipe));
    }
}
