//! Images as mounts: the one-file FUSE, EROFS over it by file, loop device or complete blob, or an extracted tree.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{openat, unlinkat, AtFlags, MemfdFlags, Mode, OFlags, SealFlags, CWD};
use rustix::mount::{unmount, MountAttrFlags, UnmountFlags};

use super::context::{self, attach, clone_at, fd_path, Context};
use super::failure::{Outcome, Step};
use super::place::{make_directory, Place, LAYER};
use super::request::{MountImage, Provider};

/// SLOT-1: slots of one image.
const SLOTS: u32 = 32;
/// SLOT-1: bytes of one slot.
const SLOT_BYTES: u32 = 16_384;
/// SLOT-1: bytes before the first slot.
const SLOTS_HEAD_BYTES: u64 = 4_096;

/// Opens /dev/fuse, makes a detached mount of it whose root is a regular file, and the slots: three descriptors.
pub fn fuse_open() -> Outcome<Vec<OwnedFd>> {
    let device = openat(
        CWD,
        "/dev/fuse",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("open-dev-fuse")?;
    let fuse = Context::open("fuse", "fuse")?;
    fuse.set("source", "zos")?;
    fuse.set("fd", &std::os::fd::AsRawFd::as_raw_fd(&device).to_string())?;
    // S_IFREG in octal: no mount point is needed, and there is nothing to look up.
    fuse.set("rootmode", "100000")?;
    fuse.set("user_id", "0")?;
    fuse.set("group_id", "0")?;
    // The reader is whoever reads below EROFS, of any user.
    fuse.flag("allow_other")?;
    let mount = fuse.mount(context::INERT | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    Ok(vec![device, mount, slots()?])
}

/// The memfd in which blockd's requests lie (SLOT-1).
fn slots() -> Outcome<OwnedFd> {
    let memfd =
        rustix::fs::memfd_create("zos-slots", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .step("memfd")?;
    rustix::fs::ftruncate(
        &memfd,
        SLOTS_HEAD_BYTES + u64::from(SLOTS) * u64::from(SLOT_BYTES),
    )
    .step("slots-size")?;
    let mut head = [0; 16];
    head[..8].copy_from_slice(b"ZOSSLOT1");
    head[8..12].copy_from_slice(&SLOTS.to_le_bytes());
    head[12..].copy_from_slice(&SLOT_BYTES.to_le_bytes());
    rustix::io::pwrite(&memfd, &head, 0).step("slots-head")?;
    rustix::fs::fcntl_add_seals(
        &memfd,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )
    .step("slots-seal")?;
    Ok(memfd)
}

/// How the layers of a kernel may be given to overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// As detached mounts (6.15).
    Detached,
    /// Only mounts of the caller's own namespace: below `/images`, a detached copy is given to hold.
    Attached {
        /// What the kernel said to a detached one.
        reason: String,
    },
}

/// Makes the mount: detached, or attached as `/images/<image>` with a detached copy for hold.
pub fn mount(
    place: &Place,
    ask: &MountImage,
    fuse: Option<BorrowedFd<'_>>,
    layers: &Layers,
    file_backed: bool,
) -> Outcome<OwnedFd> {
    let mount = match ask.provider {
        Provider::Extract => tree(place, path(&ask.tree)?)?,
        Provider::File => erofs(
            place,
            path(&ask.meta)?,
            &Blob::Fuse(fuse_file(fuse)?),
            false,
        )?,
        Provider::Loop => erofs(place, path(&ask.meta)?, &Blob::Fuse(fuse_file(fuse)?), true)?,
        Provider::Full => {
            let blob = place
                .open(path(&ask.blob)?, OFlags::RDONLY)
                .step("open-blob")?;
            erofs(place, path(&ask.meta)?, &Blob::Local(blob), !file_backed)?
        }
    };
    match layers {
        Layers::Detached => Ok(mount),
        Layers::Attached { .. } => attach_image(&ask.image, mount),
    }
}

fn path(path: &Option<String>) -> Outcome<&str> {
    path.as_deref()
        .ok_or_else(|| super::failure::bad_value("a path is missing"))
}

fn fuse_file(fuse: Option<BorrowedFd<'_>>) -> Outcome<OwnedFd> {
    let not_open = || {
        wire::WireError::new(
            "spawn.image-not-mounted",
            "no fusemnt of this image: ask fuse_open first",
        )
    };
    let mount = fuse.ok_or_else(not_open)?;
    // The root of the mount is the file itself. Opening it asks the server, so it waits for blockd.
    let file = openat(
        CWD,
        fd_path(mount),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("open-fuse-file")?;
    // The kernel learns the size by GETATTR alone. Until then it is 0: a loop device stays empty, and EROFS's direct
    // reads end before they begin, which a reader sees as EIO.
    rustix::fs::fstat(&file).step("stat-fuse-file")?;
    Ok(file)
}

/// Where device 1 comes from.
enum Blob {
    Fuse(OwnedFd),
    Local(OwnedFd),
}

fn erofs(place: &Place, meta: &str, source: &Blob, by_loop: bool) -> Outcome<OwnedFd> {
    let meta = place.open(meta, OFlags::RDONLY).step("open-meta")?;
    let (Blob::Fuse(blob) | Blob::Local(blob)) = source;
    let context = Context::open("erofs", "erofs")?;
    // Held until the mount holds them; then they go when it goes (LO_FLAGS_AUTOCLEAR).
    let mut devices = Vec::new();
    for (key, file, step) in [
        ("source", &meta, "loop-meta"),
        ("device", blob, "loop-blob"),
    ] {
        if by_loop {
            let device = linux::loopdev::attach(file.as_fd(), "zos").step(step)?;
            context.set(key, &device.path)?;
            devices.push(device);
        } else {
            context.set(key, &fd_path(file.as_fd()))?;
        }
    }
    // A read-only loop device refuses anything else with EACCES.
    context.flag("ro")?;
    if matches!(source, Blob::Local(_)) && !by_loop {
        // Without it every page is cached twice, as the blob's and as the file's, and read ahead for both (6.15).
        context.flag_if_known("directio")?;
    }
    context.mount(LAYER | MountAttrFlags::MOUNT_ATTR_RDONLY)
}

fn tree(place: &Place, path: &str) -> Outcome<OwnedFd> {
    let directory = place
        .open(path, OFlags::PATH | OFlags::DIRECTORY)
        .step("open-tree")?;
    let mount = clone_at(directory.as_fd(), false).step("bind-tree")?;
    linux::mount::set_attributes(
        mount.as_fd(),
        linux::mount::RDONLY | linux::mount::NODEV,
        false,
    )
    .step("tree-ro")?;
    Ok(mount)
}

/// `/images/<image>`, as seen by spawn and by a container that is being made.
pub fn attached_path(image: &str) -> String {
    format!("/images/{image}")
}

/// A detached copy of what `attach_image` has attached.
pub fn copy_image(image: &str) -> Outcome<OwnedFd> {
    let at = openat(
        CWD,
        attached_path(image),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    );
    clone_at(at.step("open-image")?.as_fd(), false).step("copy-image")
}

/// Attaches a mount in spawn's namespace, over nothing, and gives a detached copy of it.
pub fn attach_image(image: &str, mount: OwnedFd) -> Outcome<OwnedFd> {
    detach_image(image)?;
    let images = openat(
        CWD,
        "/images",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let at = make_directory(images.step("open-images")?.as_fd(), image).step("make-mount-point")?;
    attach(mount.as_fd(), at.as_fd()).step("attach-image")?;
    clone_at(mount.as_fd(), false).step("copy-image")
}

/// Takes `/images/<image>` away, if it is there.
pub fn detach_image(image: &str) -> Outcome<()> {
    let path = attached_path(image);
    match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
        Err(errno) => return Err(errno).step("detach-image"),
    }
    match unlinkat(CWD, &path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).step("remove-mount-point"),
    }
}
