//! Page lists and index pages in the directory of an image, named by their hashes.
//!
//! They need no lock: whoever reads one hashes it, and it is replaced whole.

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// `dir/index`, or nothing where the image is in memory.
pub struct IndexFiles(Option<PathBuf>);

impl IndexFiles {
    /// Of an image's directory, which need not be there yet.
    pub fn of(dir: Option<&Path>) -> Self {
        Self(dir.map(|dir| dir.join("index")))
    }

    /// What was kept under `name`, at most `max` bytes; the caller hashes it.
    pub fn get(&self, name: &str, max: usize) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::open(self.0.as_ref()?.join(name), flags, Mode::empty()).ok()?;
        let mut data = Vec::new();
        File::from(file)
            .take(max as u64 + 1)
            .read_to_end(&mut data)
            .ok()?;
        (data.len() <= max).then_some(data)
    }

    /// Keeps a file. A failure is not one of the caller: it is fetched again next time.
    pub fn keep(&self, name: &str, data: &[u8]) {
        let Some(dir) = &self.0 else { return };
        let temporary = dir.join(format!(".{name}.{}", std::process::id()));
        if std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&temporary, data))
            .and_then(|()| std::fs::rename(&temporary, dir.join(name)))
            .is_err()
        {
            let _ = std::fs::remove_file(&temporary);
        }
    }
}
