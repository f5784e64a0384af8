//! Hold's own log and the files that catch what services print. Nothing in here can fail or block hold for long:
//! without a log the work goes on.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// A log above this is moved to `.1` before more is written.
const LOG_BYTES_MAX: u64 = 1024 * 1024;

/// Hold's own log, `log_dir/hold.log`.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Log {
    /// Open it, or go on without.
    pub fn open(dir: &Path) -> Log {
        let mut log = Log {
            path: dir.join("hold.log"),
            file: None,
            bytes: 0,
        };
        log.reopen();
        log
    }

    /// Write a line with the time in front.
    pub fn say(&mut self, text: &str) {
        let now_ns = super::now_ns();
        let line = format!(
            "{}.{:03} {text}\n",
            now_ns / 1_000_000_000,
            now_ns / 1_000_000 % 1_000
        );
        self.bytes += line.len() as u64;
        if self.bytes > LOG_BYTES_MAX {
            self.reopen();
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(line.as_bytes());
        }
    }

    fn reopen(&mut self) {
        self.file = open_rotated(&self.path).ok();
        self.bytes = self
            .file
            .as_ref()
            .and_then(|file| file.metadata().ok())
            .map_or(0, |meta| meta.size());
    }
}

/// A log file opened for appending, moved aside first if it is large.
pub fn open_rotated(path: &Path) -> std::io::Result<File> {
    if path
        .symlink_metadata()
        .is_ok_and(|meta| meta.is_file() && meta.size() >= LOG_BYTES_MAX)
    {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        std::fs::rename(path, aside)?;
    }
    let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK).bits() as i32;
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_bounded() {
        let dir = std::env::temp_dir().join(format!("zos-hold-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut log = Log::open(&dir);
        let line = "x".repeat(1024);
        for _ in 0..3000 {
            log.say(&line);
        }
        let sizes: Vec<u64> = ["hold.log", "hold.log.1"]
            .map(|name| dir.join(name).metadata().unwrap().size())
            .into();
        assert!(
            sizes.iter().all(|size| *size <= LOG_BYTES_MAX + 2048),
            "{sizes:?}"
        );
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2);
        std::fs::remove_dir_all(&dir).unwrap();
        log.say("without a directory nothing happens");
    }
}
