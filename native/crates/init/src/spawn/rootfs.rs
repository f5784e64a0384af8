//! The file system of a container, made by its own first process in its own mount namespace.
//!
//! Everything is found by descriptors below the new root. The image's own directories are used as mount points only if
//! they are directories, and not links to some: what an image says about `/dev` or `/proc` leads nowhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    mkdirat, openat, symlinkat, unlinkat, AtFlags, FileType, Gid, Mode, OFlags, Uid, CWD,
};
use rustix::mount::MountAttrFlags;

use super::context::{attach, beneath, clone_at, fd_path, in_root, Context, INERT};
use super::failure::{bad_path, Outcome, Step};
use super::place::{self, make_directory, open_node, read_small, LAYER, NODE, NODES};
use super::request::Launch;

/// Longest of hostname, hosts, resolv.conf.
const ETC_FILE_BYTES_MAX: u64 = 65_536;
/// Group `tty` by the convention of every distribution, for pseudo terminals.
const TTY_GID: &str = "5";

/// The image's mount as this process can use it.
#[derive(Debug)]
pub enum Image<'a> {
    /// Detached.
    Detached(BorrowedFd<'a>),
    /// Below `/images`.
    Attached(String),
}

/// Makes the whole tree, enters it, and leaves nothing of spawn's own in sight.
pub fn build(launch: &Launch, image: &Image<'_>, unenforced: &mut Vec<String>) -> Outcome<()> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let state = openat(CWD, "/state", directory, Mode::empty()).step("open-state")?;
    let dev = openat(CWD, "/dev", directory, Mode::empty()).step("open-dev")?;
    let null = open_node(dev.as_fd(), "null", 1, 3).step("null-node")?;
    let at = openat(CWD, "/root", directory, Mode::empty()).step("open-root")?;

    let root = overlay(launch, image, state.as_fd())?;
    attach(root.as_fd(), at.as_fd()).step("overlay")?;
    let root = root.as_fd();
    let proc = Context::open("proc", "proc")?.mount(INERT)?;
    attach(proc.as_fd(), mount_point(root, "proc")?.as_fd()).step("proc")?;
    system(root)?;
    devices(root, dev.as_fd(), launch.shm_bytes, unenforced)?;
    etc(root, state.as_fd(), launch)?;
    mask(root, null.as_fd(), launch)?;
    read_only(root, launch)?;
    if launch.readonly_root {
        linux::mount::set_attributes(root, linux::mount::RDONLY, false).step("readonly-root")?;
    }
    place::enter_root(root)
}

/// A directory of the image to mount on.
fn mount_point(root: BorrowedFd<'_>, name: &str) -> Outcome<OwnedFd> {
    make_directory(root, name).map_err(|error| match error.raw_os_error() {
        // ELOOP, ENOTDIR: a link, or a file.
        Some(40 | 20) => bad_path(format!("/{name} of the image is no directory")),
        _ => wire::WireError::step("spawn.step", name, &error),
    })
}

/// The image below a writable layer.
fn overlay(launch: &Launch, image: &Image<'_>, state: BorrowedFd<'_>) -> Outcome<OwnedFd> {
    let opened;
    let lower = match image {
        Image::Detached(mount) => *mount,
        Image::Attached(path) => {
            // Found in this namespace: overlay takes only mounts of the caller's own.
            opened = openat(
                CWD,
                path,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .step("open-image")?;
            opened.as_fd()
        }
    };
    let upper = layer(state, &launch.upper, Some(lower)).step("upper")?;
    let work = layer(state, &launch.work, None).step("work")?;
    let overlay = Context::open("overlay", "overlay")?;
    overlay.set("source", "overlay")?;
    overlay.set("lowerdir", &fd_path(lower))?;
    overlay.set("upperdir", &fd_path(upper.as_fd()))?;
    overlay.set("workdir", &fd_path(work.as_fd()))?;
    // Said, and not left to how a kernel was built: an upper must mean the same on the next one.
    overlay.set("index", "off")?;
    overlay.set("metacopy", "off")?;
    overlay.set("redirect_dir", "on")?;
    if launch.volatile {
        // Else the end of its namespace, and with it the container's, waits until the upper's whole file system is
        // synced.
        overlay.flag("volatile")?;
    }
    overlay.mount(LAYER)
}

/// Opens a directory for overlay, made on first use with the mode and owner of the image's root.
fn layer(state: BorrowedFd<'_>, path: &str, like: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match beneath(state, path, flags) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    let parent = beneath(state, parent, flags)?;
    mkdirat(&parent, name, Mode::from(0o700))?;
    if let Some(like) = like {
        let stat = rustix::fs::statat(like, "", AtFlags::EMPTY_PATH)?;
        let made = beneath(parent.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fchown(
            &made,
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
        )?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    beneath(parent.as_fd(), name, flags)
}

fn system(root: BorrowedFd<'_>) -> Outcome<()> {
    let read_only = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let sys = Context::open("sysfs", "sys")?.mount(read_only)?;
    attach(sys.as_fd(), mount_point(root, "sys")?.as_fd()).step("sys")?;
    let cgroup = Context::open("cgroup2", "cgroup")?.mount(read_only)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let at = beneath(sys.as_fd(), "fs/cgroup", flags).step("cgroup")?;
    attach(cgroup.as_fd(), at.as_fd()).step("cgroup")
}

fn devices(
    root: BorrowedFd<'_>,
    host: BorrowedFd<'_>,
    shm_bytes: u64,
    unenforced: &mut Vec<String>,
) -> Outcome<()> {
    let tmpfs = Context::open("tmpfs", "dev")?;
    tmpfs.set("size", "65536")?;
    tmpfs.set("mode", "0755")?;
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let dev = tmpfs.mount(quiet)?;
    attach(dev.as_fd(), mount_point(root, "dev")?.as_fd()).step("dev")?;
    let dev = dev.as_fd();
    for (name, major, minor) in NODES {
        let node = open_node(host, name, major, minor).step("dev-node")?;
        let bound = clone_at(node.as_fd(), false).step("dev-node")?;
        linux::mount::set_attributes(bound.as_fd(), NODE, false).step("dev-node")?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let at = openat(dev, name, flags, Mode::from(0o666)).step("dev-node")?;
        attach(bound.as_fd(), at.as_fd()).step("dev-node")?;
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    for (name, to) in links {
        symlinkat(to, dev, name).step("dev-link")?;
    }

    let pts = Context::open("devpts", "pts")?;
    pts.flag("newinstance")?;
    pts.set("ptmxmode", "0666")?;
    pts.set("mode", "0620")?;
    pts.set("gid", TTY_GID)?;
    let pts = pts.mount(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
    attach(pts.as_fd(), make_directory(dev, "pts").step("pts")?.as_fd()).step("pts")?;

    let shm = Context::open("tmpfs", "shm")?;
    shm.set("size", &shm_bytes.to_string())?;
    shm.set("mode", "1777")?;
    attach(
        shm.mount(INERT)?.as_fd(),
        make_directory(dev, "shm").step("shm")?.as_fd(),
    )
    .step("shm")?;

    match Context::open("mqueue", "mqueue") {
        Ok(mqueue) => {
            let at = make_directory(dev, "mqueue").step("mqueue")?;
            attach(mqueue.mount(INERT)?.as_fd(), at.as_fd()).step("mqueue")
        }
        // ENODEV: a kernel without POSIX message queues.
        Err(error) if error.errno == Some(19) => {
            unenforced.push("no /dev/mqueue: the kernel has no POSIX message queues".into());
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Writes hostname and hosts anew, and what the supervisor has put into the `etc` directory.
fn etc(root: BorrowedFd<'_>, state: BorrowedFd<'_>, launch: &Launch) -> Outcome<()> {
    let given = match &launch.etc {
        Some(path) => {
            Some(beneath(state, path, OFlags::PATH | OFlags::DIRECTORY).step("open-etc")?)
        }
        None => None,
    };
    let etc = mount_point(root, "etc")?;
    for name in ["hostname", "hosts", "resolv.conf"] {
        let text = match &given {
            Some(given) => read_small(given.as_fd(), name, ETC_FILE_BYTES_MAX).step("etc-files")?,
            None => None,
        };
        let host = &launch.hostname;
        let text = match (text, name) {
            (Some(text), _) => text,
            (None, "hostname") => format!("{host}\n").into_bytes(),
            (None, "hosts") => {
                format!("127.0.0.1\tlocalhost {host}\n::1\tlocalhost ip6-localhost {host}\n")
                    .into_bytes()
            }
            _ => continue,
        };
        // The image's own may be a link to anywhere: it is replaced, not written through.
        match unlinkat(&etc, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno).step("etc-files"),
        }
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&etc, name, flags, Mode::from(0o644)).step("etc-files")?;
        let mut file = std::fs::File::from(file);
        io::Write::write_all(&mut file, &text).step("etc-files")?;
    }
    Ok(())
}

/// What the image, or the kernel, does not have need not be hidden.
fn find(root: BorrowedFd<'_>, path: &[u8], step: &str) -> Outcome<Option<OwnedFd>> {
    match in_root(root, path) {
        Ok(fd) => Ok(Some(fd)),
        // ENOENT, ENOTDIR
        Err(error) if matches!(error.raw_os_error(), Some(2 | 20)) => Ok(None),
        Err(error) => Err(error).step(step),
    }
}

fn mask(root: BorrowedFd<'_>, null: BorrowedFd<'_>, launch: &Launch) -> Outcome<()> {
    let mut empty: Option<OwnedFd> = None;
    for path in &launch.masked {
        let Some(target) = find(root, path, "mask")? else {
            continue;
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&target).step("mask")?.st_mode);
        let cover = match (&empty, kind.is_dir()) {
            (_, false) => {
                let cover = clone_at(null, false).step("mask")?;
                linux::mount::set_attributes(cover.as_fd(), NODE, false).step("mask")?;
                cover
            }
            (Some(attached), true) => clone_at(attached.as_fd(), false).step("mask")?,
            (None, true) => {
                let tmpfs = Context::open("tmpfs", "mask")?;
                tmpfs.set("size", "4096")?;
                tmpfs.set("mode", "0555")?;
                tmpfs.mount(INERT | MountAttrFlags::MOUNT_ATTR_RDONLY)?
            }
        };
        attach(cover.as_fd(), target.as_fd()).step("mask")?;
        if kind.is_dir() {
            empty.get_or_insert(cover);
        }
    }
    Ok(())
}

fn read_only(root: BorrowedFd<'_>, launch: &Launch) -> Outcome<()> {
    for path in &launch.readonly {
        let Some(target) = find(root, path, "read-only")? else {
            continue;
        };
        let copy = clone_at(target.as_fd(), true).step("read-only")?;
        linux::mount::set_attributes(copy.as_fd(), linux::mount::RDONLY, true).step("read-only")?;
        attach(copy.as_fd(), target.as_fd()).step("read-only")?;
    }
    Ok(())
}
