//! The run directory: the instance lock and the listening sockets (HOLD-TAKEOVER).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::table::{KEEPER_SOCKET, KEEPER_SOCKET_NEW, LOCK_FILE};

/// Connections that wait while a service is away; more wait in connect(2).
const BACKLOG: i32 = 512;
/// Somebody who only asks whether a hold lives has the lock for a moment, and a hold that ends takes the file away.
const LOCK_TRIES: u32 = 10;
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// The locked run directory; dropping it removes sockets and lock.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    lock: File,
    sockets: Vec<PathBuf>,
    left: bool,
}

impl RunDir {
    /// Check the directory and take its lock, which is held for life.
    pub fn lock(path: &Path) -> Result<RunDir, String> {
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        let meta = path.symlink_metadata().map_err(failed)?;
        if !meta.is_dir()
            || meta.mode() & 0o022 != 0
            || meta.uid() != rustix::process::geteuid().as_raw()
        {
            return Err(format!(
                "{} is not a directory of this user that nobody else can write to",
                path.display()
            ));
        }
        let mut busy = String::new();
        for _ in 0..LOCK_TRIES {
            match try_lock(&path.join(LOCK_FILE))? {
                Attempt::Locked(lock) => {
                    return Ok(RunDir {
                        path: path.to_owned(),
                        lock,
                        sockets: Vec::new(),
                        left: false,
                    })
                }
                Attempt::Gone => {}
                Attempt::Held(owner) => {
                    busy = owner;
                    std::thread::sleep(LOCK_INTERVAL);
                }
            }
        }
        Err(format!(
            "{} is held by process {busy}",
            path.join(LOCK_FILE).display()
        ))
    }

    /// Listen at a file name of the directory; a socket file of a dead owner is replaced.
    pub fn listen(&mut self, file: &str, stream: bool) -> Result<OwnedFd, String> {
        let path = self.path.join(file);
        let socket =
            listen(&path, stream).map_err(|error| format!("{}: {error}", path.display()))?;
        self.sockets.push(path);
        Ok(socket)
    }

    /// A socket that a predecessor listens at is ours to remove.
    pub fn adopt(&mut self, file: &str) {
        self.sockets.push(self.path.join(file));
    }

    /// Where the keeper answers.
    pub fn keeper_socket(&self) -> PathBuf {
        self.path.join(KEEPER_SOCKET)
    }

    /// Listen for whoever comes after us, not yet under the name that it looks for: the socket, its device and inode.
    pub fn listen_as_keeper(&mut self) -> Result<(OwnedFd, (u64, u64)), String> {
        let socket = self.listen(KEEPER_SOCKET_NEW, false)?;
        let path = self.path.join(KEEPER_SOCKET_NEW);
        let meta = path
            .symlink_metadata()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok((socket, (meta.dev(), meta.ino())))
    }

    /// Our keeper is in charge from now on, and a predecessor's no more.
    pub fn publish_keeper(&mut self) -> Result<(), String> {
        let (from, to) = (self.path.join(KEEPER_SOCKET_NEW), self.keeper_socket());
        std::fs::rename(&from, &to).map_err(|error| format!("{}: {error}", to.display()))?;
        self.sockets.push(to);
        Ok(())
    }

    /// Leave everything in place, for whoever takes over.
    pub fn leave(mut self) {
        self.sockets.clear();
        self.left = true;
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        for path in &self.sockets {
            let _ = std::fs::remove_file(path);
        }
        // Last, and while it is still locked: whoever opens it now sees that it is not the file of that name.
        let _ = std::fs::remove_file(self.path.join(LOCK_FILE));
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

/// What became of an attempt to lock.
enum Attempt {
    /// The locked file, with our process id in it.
    Locked(File),
    /// The process that has the lock.
    Held(String),
    /// The file is no longer the one of that name.
    Gone,
}

fn try_lock(path: &Path) -> Result<Attempt, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC).bits() as i32;
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags);
    let mut lock = options.open(path).map_err(failed)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            let owner = std::fs::read_to_string(path).unwrap_or_default();
            return Ok(Attempt::Held(owner.trim().to_owned()));
        }
        other => other.map_err(|error| failed(error.into()))?,
    }
    let ours = lock.metadata().map_err(failed)?;
    match path.symlink_metadata() {
        Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {}
        _ => return Ok(Attempt::Gone),
    }
    let pid = format!("{}\n", std::process::id());
    lock.set_len(0)
        .and_then(|()| lock.write_all(pid.as_bytes()))
        .map_err(failed)?;
    Ok(Attempt::Locked(lock))
}

fn listen(path: &Path, stream: bool) -> io::Result<OwnedFd> {
    match path.symlink_metadata() {
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::other("exists and is no socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let kind = if stream {
        SocketType::STREAM
    } else {
        SocketType::SEQPACKET
    };
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    // The umask of hold makes it 0600 from the first moment; fchmod of a socket would change nothing on disk.
    rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&socket, &SocketAddrUnix::new(path)?);
    rustix::process::umask(Mode::from_raw_mode(0o077));
    bound?;
    if let Err(error) = rustix::net::listen(&socket, BACKLOG) {
        let _ = std::fs::remove_file(path);
        return Err(error.into());
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::DirBuilderExt;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("zos-hold-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .unwrap();
        path
    }

    #[test]
    fn one_owner_and_nothing_left() {
        let path = directory("owner");
        let mut dir = RunDir::lock(&path).unwrap();
        let refused = RunDir::lock(&path).unwrap_err();
        assert!(
            refused.contains(&format!("held by process {}", std::process::id())),
            "{refused}"
        );
        dir.listen("a.sock", false).unwrap();
        dir.listen("b.sock", true).unwrap();
        let mode = path.join("a.sock").symlink_metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(dir);
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        std::fs::remove_dir(&path).unwrap();
    }

    #[test]
    fn stale_sockets_are_taken_over_and_files_are_not() {
        let path = directory("stale");
        let stale = listen(&path.join("a.sock"), false).unwrap();
        drop(stale);
        std::fs::write(path.join("b.sock"), b"precious").unwrap();
        let mut dir = RunDir::lock(&path).unwrap();
        dir.listen("a.sock", false).unwrap();
        assert!(dir.listen("b.sock", false).is_err());
        assert!(
            dir.listen(&"c".repeat(120), false).is_err(),
            "longer than a socket's address"
        );
        drop(dir);
        assert_eq!(std::fs::read(path.join("b.sock")).unwrap(), b"precious");
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn open_directories_are_refused() {
        let path = directory("open");
        let mode = Mode::from_raw_mode(0o770);
        rustix::fs::chmod(&path, mode).unwrap();
        assert!(RunDir::lock(&path).is_err());
        std::fs::remove_dir(&path).unwrap();
        assert!(RunDir::lock(&path).is_err());
    }
}
