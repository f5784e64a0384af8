//! What this machine's kernel can do, found by trying each once on a file or directory of a few bytes.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{mkdirat, openat, Mode, OFlags, CWD};
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use super::context::{clone_at, fd_path, Context};
use super::failure::{Outcome, Step};
use super::image::{self, Layers};
use super::place::Place;
use super::remove::remove;

/// The reason for what `--without` names.
const SWITCHED_OFF: &str = "switched off by --without";

/// Directory of the trials, below the state directory.
const TRIAL: &str = ".spawn-probe";

/// Reply of `probe`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    /// Release, as uname(2) says.
    pub kernel: String,
    /// A one-file FUSE can be mounted.
    pub fuse: bool,
    /// EROFS is there.
    pub erofs: bool,
    /// EROFS mounts a regular file of the state directory (6.12).
    pub erofs_file_backed: bool,
    /// Loop devices can be had.
    pub loop_control: bool,
    /// Overlay takes a detached mount as a layer (6.15).
    pub detached_layers: bool,
    /// Overlay can have its upper directory in the state directory.
    pub overlay: bool,
    /// Why what is false is false.
    pub reasons: BTreeMap<String, String>,
}

/// Tries everything but `layers`, which is known; `without` are the names that are to be taken as missing.
pub fn probe(place: &Place, without: &[String], layers: &Layers) -> Outcome<Probe> {
    remove(place, TRIAL)?;
    mkdirat(&place.state, TRIAL, Mode::from(0o700)).step("probe-directory")?;
    let mut reasons = BTreeMap::new();
    let mut tried = |name: &str, outcome: Outcome<()>| {
        let reason = match outcome {
            _ if without.iter().any(|other| other == name) => SWITCHED_OFF.into(),
            Ok(()) => return true,
            Err(error) => error.message,
        };
        reasons.insert(name.to_owned(), reason);
        false
    };
    let probe = Probe {
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        fuse: tried("fuse", image::fuse_open().map(drop)),
        erofs: tried("erofs", Context::open("erofs", "erofs").map(drop)),
        erofs_file_backed: tried("erofs_file_backed", erofs_file_backed(place)),
        loop_control: tried("loop_control", loop_control()),
        detached_layers: *layers == Layers::Detached,
        overlay: tried("overlay", overlay(place)),
        reasons: BTreeMap::new(),
    };
    if let Layers::Attached { reason } = layers {
        reasons.insert("detached_layers".into(), reason.clone());
    }
    remove(place, TRIAL)?;
    Ok(Probe { reasons, ..probe })
}

/// Only whether layers may be detached: what spawn needs to know itself. Tried once, because a kernel that cannot says
/// so in its log each time.
pub fn layers(place: &Place, without: &[String]) -> Outcome<Layers> {
    if without.iter().any(|name| name == "detached_layers") {
        let reason = SWITCHED_OFF.into();
        return Ok(Layers::Attached { reason });
    }
    remove(place, TRIAL)?;
    mkdirat(&place.state, TRIAL, Mode::from(0o700)).step("probe-directory")?;
    let outcome = detached_layers(place);
    remove(place, TRIAL)?;
    Ok(match outcome {
        Ok(()) => Layers::Detached,
        Err(error) => Layers::Attached {
            reason: error.message,
        },
    })
}

fn erofs_file_backed(place: &Place) -> Outcome<()> {
    let path = format!("{TRIAL}/empty.erofs");
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&place.state, &path, flags, Mode::from(0o600)).step("write-erofs")?;
    let mut file = std::fs::File::from(file);
    std::io::Write::write_all(&mut file, &empty_erofs()).step("write-erofs")?;
    let file = place.open(&path, OFlags::RDONLY).step("open-erofs")?;
    let context = Context::open("erofs", "mount-erofs")?;
    context.set("source", &fd_path(file.as_fd()))?;
    context.flag("ro")?;
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY).map(drop)
}

/// The smallest image that the kernel mounts: superblock, and a root directory without entries.
fn empty_erofs() -> Vec<u8> {
    const SUPERBLOCK: usize = 1_024;
    const ROOT: usize = 1_152;
    let mut image = vec![0; 4_096];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(SUPERBLOCK, &0xE0F5_E1E2_u32.to_le_bytes());
    // blkszbits, then (at 14) the root's nid in units of 32 bytes, and (at 16) the number of inodes.
    put(SUPERBLOCK + 12, &[12]);
    put(SUPERBLOCK + 14, &(ROOT as u16 / 32).to_le_bytes());
    put(SUPERBLOCK + 16, &1u64.to_le_bytes());
    put(SUPERBLOCK + 36, &1u32.to_le_bytes());
    // A compact inode, layout plain: i_format 0, i_xattr_icount 0, i_mode, i_nlink, i_size 0.
    put(ROOT + 4, &0o040_755_u16.to_le_bytes());
    put(ROOT + 6, &2u16.to_le_bytes());
    image
}

fn loop_control() -> Outcome<()> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    openat(CWD, "/dev/loop-control", flags, Mode::empty())
        .step("open-loop-control")
        .map(drop)
}

/// `upper` and `work` of a trial.
fn writable(place: &Place, name: &str) -> Outcome<[OwnedFd; 2]> {
    let make = |layer: &str| {
        let path = format!("{TRIAL}/{name}-{layer}");
        mkdirat(&place.state, &path, Mode::from(0o700)).step("probe-directory")?;
        place
            .open(&path, OFlags::PATH | OFlags::DIRECTORY)
            .step("probe-directory")
    };
    Ok([make("upper")?, make("work")?])
}

fn overlay_over(lower: &OwnedFd, [upper, work]: [OwnedFd; 2]) -> Outcome<()> {
    let overlay = Context::open("overlay", "mount-overlay")?;
    overlay.set("lowerdir", &fd_path(lower.as_fd()))?;
    overlay.set("upperdir", &fd_path(upper.as_fd()))?;
    overlay.set("workdir", &fd_path(work.as_fd()))?;
    overlay.mount(MountAttrFlags::empty()).map(drop)
}

fn detached_layers(place: &Place) -> Outcome<()> {
    let [lower, spare] = writable(place, "detached-lower")?;
    drop(spare);
    let lower = clone_at(lower.as_fd(), false).step("detached-mount")?;
    overlay_over(&lower, writable(place, "detached")?)
}

fn overlay(place: &Place) -> Outcome<()> {
    let [lower, spare] = writable(place, "lower")?;
    drop(spare);
    overlay_over(&lower, writable(place, "attached")?)
}
