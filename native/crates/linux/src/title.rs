//! The arguments that other processes see of this one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// Overwrites the program's arguments, as `ps` and /proc/self/cmdline show them, with `title` (cut to their length).
///
/// The arguments are gone for `std::env::args` too, which gives empty strings then.
///
/// # Errors
/// Without /proc.
pub fn set(title: &str) -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (start, end) = arguments(&stat).ok_or(io::ErrorKind::InvalidData)?;
    let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
    // NUL to the very end, or the kernel takes the environment that follows for more of the title.
    let mut bytes = vec![0; length];
    let shown = title.len().min(length.saturating_sub(1));
    bytes[..shown].copy_from_slice(&title.as_bytes()[..shown]);
    // These bytes are the kernel's copy of the strings of execve; nothing of Rust's lies there, and the standard
    // library reads them anew, up to the first NUL, whenever it is asked for the arguments.
    File::options()
        .write(true)
        .open("/proc/self/mem")?
        .write_all_at(&bytes, start)
}

/// arg_start and arg_end of /proc/PID/stat (proc(5), fields 48 and 49).
fn arguments(stat: &str) -> Option<(u64, u64)> {
    // The second field is a name in parentheses that may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(45);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        let stat = format!("1 (a) b) {}", fields.join(" "));
        assert_eq!(arguments(&stat), Some((48, 49)));
        assert_eq!(arguments("1 (a) S 1"), None);
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        let (start, end) = arguments(&own).unwrap();
        assert!(start < end);
    }
}
