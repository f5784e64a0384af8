//! Descriptors that came from somewhere else.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// What this process has already taken.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Take ownership of a descriptor that this process was started with, and make it close-on-exec.
///
/// To be called early in `main`, before anything else opens descriptors. Fails for 0, 1, 2, for one that is not open
/// and for the second call with the same number.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    let mut taken = TAKEN
        .lock()
        .map_err(|_| io::Error::other("a thread panicked"))?;
    if fd < 3 || taken.contains(&fd) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: fcntl with F_SETFD takes plain integers; a number that is not open is EBADF.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    taken.insert(fd);
    // SAFETY: the descriptor is open, and TAKEN makes this the only OwnedFd made of an inherited number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_streams_and_closed_numbers_are_refused() {
        assert!(inherited(2).is_err());
        assert!(inherited(-1).is_err());
        assert_eq!(
            inherited(1_000_000).unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
    }
}
