//! Where spawn lives: a mount namespace with hardly anything in it, because every container starts as a copy of it.
//!
//! `/` tmpfs, `/proc` `/dev` `/state` bound, `/root` the mount point of a container that is being made, `/images` mount
//! points of images on kernels that take no detached layers. The cgroup tree is a descriptor and not a mount.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{mkdirat, openat, Mode, OFlags, CWD};
use rustix::mount::{
    mount_change, open_tree, unmount, MountAttrFlags, MountPropagationFlags, OpenTreeFlags,
    UnmountFlags,
};

use super::context::{self, attach, Context};
use super::failure::{bad_path, Outcome, Step};

/// Device numbers of the nodes that a container gets (devices.txt).
pub const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Descriptors of what the namespace is made of.
#[derive(Debug)]
pub struct Place {
    /// cgroup2 trees by their mount points on the host, the longest first.
    cgroups: Vec<(PathBuf, OwnedFd)>,
    /// `/state`.
    pub state: OwnedFd,
}

impl Place {
    /// Moves the process there for good.
    pub fn enter(state: &Path) -> Outcome<Place> {
        linux::clone::unshare(linux::clone::NEWNS).step("unshare")?;
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .step("private")?;
        let proc = bound(Path::new("/proc"), false).step("bind-proc")?;
        let state_mount = bound(state, false).step("bind-state")?;
        let cgroups = cgroups().step("find-cgroup")?;
        let mut dev = bound(Path::new("/dev"), false).step("bind-dev")?;
        if open_node(dev.as_fd(), "null", 1, 3).is_err() {
            // Where each node is a mount of its own, as in a container.
            dev = bound(Path::new("/dev"), true).step("bind-dev")?;
        }

        let tmpfs = Context::open("tmpfs", "tmpfs")?;
        tmpfs.set("size", "1048576")?;
        tmpfs.set("mode", "0755")?;
        let root = tmpfs.mount(context::INERT)?;
        let over = openat(
            CWD,
            state,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        attach(root.as_fd(), over.step("open-state")?.as_fd()).step("attach-root")?;
        for (name, mount) in [
            ("proc", Some(&proc)),
            ("dev", Some(&dev)),
            ("state", Some(&state_mount)),
            ("root", None),
        ] {
            let at = make_directory(root.as_fd(), name).step(name)?;
            if let Some(mount) = mount {
                attach(mount.as_fd(), at.as_fd()).step(name)?;
            }
        }
        mkdirat(&root, "images", Mode::from(0o755)).step("images")?;
        enter_root(root.as_fd())?;
        let state = openat(
            CWD,
            "/state",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        Ok(Place {
            cgroups,
            state: state.step("open-state")?,
        })
    }

    /// Opens a cgroup by its path on the host.
    pub fn cgroup(&self, path: &str) -> Outcome<OwnedFd> {
        for (at, root) in &self.cgroups {
            if let Ok(rest) = Path::new(path).strip_prefix(at) {
                let rest = rest.to_str().filter(|rest| !rest.is_empty()).unwrap_or(".");
                return context::beneath(root.as_fd(), rest, OFlags::PATH | OFlags::DIRECTORY)
                    .step("open-cgroup");
            }
        }
        Err(bad_path(format!(
            "{path:?} is in no cgroup2 tree of this machine"
        )))
    }

    /// Opens a path below the state directory, without following links.
    pub fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        context::beneath(self.state.as_fd(), path, flags)
    }
}

/// Makes the mount at `root` the root of the namespace and lets go of everything else.
pub fn enter_root(root: BorrowedFd<'_>) -> Outcome<()> {
    rustix::process::fchdir(root).step("fchdir-root")?;
    // Both arguments the same: the old root comes to lie over the new one, from where it is taken (pivot_root(2)).
    rustix::process::pivot_root(".", ".").step("pivot_root")?;
    unmount(".", UnmountFlags::DETACH).step("detach-old-root")?;
    rustix::process::chdir("/").step("chdir-root")
}

/// Makes a directory if need be and opens it: a real one, never a link to one.
pub fn make_directory(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::from(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    context::beneath(
        parent,
        name,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW,
    )
}

/// Opens (O_PATH) a character device node, and makes sure that it is the one.
pub fn open_node(dev: BorrowedFd<'_>, name: &str, major: u32, minor: u32) -> io::Result<OwnedFd> {
    let node = context::beneath(dev, name, OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = rustix::fs::fstat(&node)?;
    let is_character = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device();
    if !is_character || stat.st_rdev != rustix::fs::makedev(major, minor) {
        return Err(io::Error::from_raw_os_error(19)); // ENODEV
    }
    Ok(node)
}

fn bound(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(CWD, path, flags)?)
}

/// Detached copies of the cgroup2 mounts in sight.
fn cgroups() -> io::Result<Vec<(PathBuf, OwnedFd)>> {
    let mut found = Vec::new();
    for path in cgroup2_mount_points(&std::fs::read("/proc/self/mountinfo")?) {
        if let Ok(fd) = bound(&path, false) {
            found.push((path, fd));
        }
    }
    found.sort_by_key(|(path, _)| std::cmp::Reverse(path.as_os_str().len()));
    Ok(found)
}

/// Mount points of type cgroup2 in the text of /proc/self/mountinfo (proc(5)).
fn cgroup2_mount_points(mountinfo: &[u8]) -> Vec<PathBuf> {
    let point = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let dash = fields.iter().position(|field| *field == b"-")?;
        (fields.get(dash + 1) == Some(&&b"cgroup2"[..])).then(|| unescape(fields[4]))
    };
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(point)
        .collect()
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
}

/// The attributes of a bound device node: it works, and nobody inside can change its mode or owner.
pub const NODE: u64 = linux::mount::RDONLY | linux::mount::NOSUID | linux::mount::NOEXEC;

/// Attributes of every image and overlay: set-user-id programs work, device nodes do not.
pub const LAYER: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;

/// Reads a small file below an open directory; None if it is not there.
pub fn read_small(
    directory: BorrowedFd<'_>,
    name: &str,
    bytes_max: u64,
) -> io::Result<Option<Vec<u8>>> {
    let file = match context::beneath(directory, name, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(fd) => File::from(fd),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > bytes_max {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, bytes_max), &mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_mounts() {
        let text = b"24 1 0:22 / /sys rw,relatime - sysfs sysfs rw\n\
            30 24 0:26 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n\
            31 24 0:27 / /odd\\040name rw - cgroup2 none rw\n\
            32 24 0:28 / /cgroup2 rw - tmpfs cgroup2 rw\nnonsense\n";
        let found = cgroup2_mount_points(text);
        assert_eq!(
            found,
            [
                PathBuf::from("/sys/fs/cgroup/unified"),
                PathBuf::from("/odd name")
            ]
        );
    }
}
