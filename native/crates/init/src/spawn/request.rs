//! The bodies of spawn's operations (docs/spec/spawn.md), and what is checked of each before anything is done.

use std::ffi::CString;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::failure::{bad_path, bad_value, Outcome};

/// Longest path, host name, or name that is looked at at all: PATH_MAX.
const PATH_MAX: usize = 4096;
/// Arguments and environment together; the kernel's own limit (a quarter of the stack limit) is often 2 MiB.
const STRINGS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Arguments, or variables, or masked paths.
const ITEMS_MAX: usize = 65_536;
/// Supplementary groups: NGROUPS_MAX.
const GROUPS_MAX: usize = 65_536;

/// `fuse_open`, `forget_image`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageName {
    /// Digest of the manifest, 64 hexadecimal digits.
    pub image: String,
}

/// What puts the bytes below the image's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// EROFS whose second device is the FUSE file itself (6.12).
    File,
    /// EROFS on two loop devices, the second over the FUSE file.
    Loop,
    /// EROFS whose second device is the complete local blob.
    Full,
    /// A directory that holds the extracted tree.
    Extract,
}

/// `mount_image`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountImage {
    /// Digest of the manifest.
    pub image: String,
    /// How.
    pub provider: Provider,
    /// The EROFS image; for all but `extract`.
    #[serde(default)]
    pub meta: Option<String>,
    /// The complete blob; for `full`.
    #[serde(default)]
    pub blob: Option<String>,
    /// The tree; for `extract`.
    #[serde(default)]
    pub tree: Option<String>,
}

/// Reply of `mount_image`, with the detached mount.
#[derive(Debug, Serialize, Deserialize)]
pub struct Mounted {
    /// As asked for.
    pub provider: Provider,
    /// Whether the mount is attached nowhere (6.15), or also in spawn's own namespace.
    pub detached: bool,
}

/// `netns`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Of the namespace.
    pub name: String,
}

/// `remove`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Below the state directory.
    pub path: String,
}

/// Who a process runs as.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups; the whole list.
    #[serde(default)]
    pub groups: Vec<u32>,
}

/// setrlimit(2).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// RLIMIT_ number of this architecture.
    pub resource: i32,
    /// Soft limit, `u64::MAX` for none.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// Which system calls are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// The filter that was compiled into this program.
    Default,
    /// All.
    Unconfined,
}

/// `launch`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// Container; the child is registered under it.
    pub name: String,
    /// Start counter.
    pub generation: u64,
    /// A mounted image.
    pub image: String,
    /// Overlay's upper directory, made if it is missing.
    pub upper: String,
    /// Overlay's work directory, likewise.
    pub work: String,
    /// Program and arguments.
    pub args: Vec<ByteBuf>,
    /// `K=V` each.
    pub env: Vec<ByteBuf>,
    /// Absolute, inside.
    pub cwd: ByteBuf,
    /// Who it runs as.
    pub user: User,
    /// Also written to /etc/hostname and /etc/hosts.
    pub hostname: String,
    /// Name given to `netns` before; nil: that of the host.
    pub netns: Option<String>,
    /// An existing cgroup2 directory, as a path of the host.
    pub cgroup: String,
    /// Whether the root is read-only.
    pub readonly_root: bool,
    /// In order.
    pub rlimits: Vec<Rlimit>,
    /// Numbers, capability.h.
    pub capabilities: Vec<u8>,
    /// Whether execve can never grant anything.
    pub no_new_privileges: bool,
    /// Filter.
    pub seccomp: Seccomp,
    /// Hidden: files behind /dev/null, directories behind an empty tmpfs.
    pub masked: Vec<ByteBuf>,
    /// Made read-only.
    pub readonly: Vec<ByteBuf>,
    /// Whether pid 1 is the reaper.
    pub init: bool,
    /// Of /dev/shm.
    pub shm_bytes: u64,
    /// Whether what is written to the root need not outlast the container.
    #[serde(default)]
    pub volatile: bool,
    /// A directory with any of hostname, hosts, resolv.conf, copied into /etc.
    #[serde(default)]
    pub etc: Option<String>,
}

/// `exec`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// `<container>/exec-<n>`.
    pub name: String,
    /// Start counter.
    pub generation: u64,
    /// A registered child whose namespaces are entered.
    pub target: String,
    /// Program and arguments.
    pub args: Vec<ByteBuf>,
    /// `K=V` each.
    pub env: Vec<ByteBuf>,
    /// Absolute, inside.
    pub cwd: ByteBuf,
    /// Who it runs as.
    pub user: User,
    /// Numbers.
    pub capabilities: Vec<u8>,
    /// As for `launch`.
    pub cgroup: String,
    /// As for `launch`.
    #[serde(default = "yes")]
    pub no_new_privileges: bool,
    /// As for `launch`.
    #[serde(default = "default_filter")]
    pub seccomp: Seccomp,
    /// As for `launch`.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
}

fn yes() -> bool {
    true
}

fn default_filter() -> Seccomp {
    Seccomp::Default
}

/// Reply of `launch` and `exec`, with the pidfd.
#[derive(Debug, Serialize)]
pub struct Launched {
    /// As hold sees it.
    pub pid: i32,
    /// As asked for.
    pub generation: u64,
    /// What was asked for and could not be had, one sentence each.
    pub unenforced: Vec<String>,
}

/// Whether `name` may be part of a descriptor's name (hold.md).
pub fn check_name(name: &str) -> Outcome<()> {
    let good = |c: u8| c.is_ascii_alphanumeric() || b"_.+:/@-".contains(&c);
    // `log/<name>/stdout` is the longest name that is made of it.
    if name.is_empty() || name.len() > 240 || !name.bytes().all(good) {
        return Err(bad_value(format!("{name:?} is no name")));
    }
    Ok(())
}

/// Whether `image` is a digest.
pub fn check_image(image: &str) -> Outcome<()> {
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if image.len() != 64 || !image.bytes().all(hex) {
        return Err(bad_value(format!("{image:?} is no digest in hexadecimal")));
    }
    Ok(())
}

/// Whether `path` is one below the state directory.
pub fn check_path(path: &str) -> Outcome<()> {
    let bad = path.is_empty()
        || path.len() >= PATH_MAX
        || path.starts_with('/')
        || path.contains('\0')
        || path
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..");
    if bad {
        return Err(bad_path(format!(
            "{path:?} is no path below the state directory"
        )));
    }
    Ok(())
}

fn check_absolute(what: &str, path: &[u8]) -> Outcome<()> {
    if path.first() != Some(&b'/') || path.len() >= PATH_MAX || path.contains(&0) {
        return Err(bad_path(format!(
            "{what} {:?} is not absolute",
            String::from_utf8_lossy(path)
        )));
    }
    Ok(())
}

impl MountImage {
    /// Checks the values; the paths of this provider are there.
    pub fn check(&self) -> Outcome<()> {
        check_image(&self.image)?;
        for path in [&self.meta, &self.blob, &self.tree].into_iter().flatten() {
            check_path(path)?;
        }
        let missing = match self.provider {
            Provider::File | Provider::Loop => self.meta.is_none(),
            Provider::Full => self.meta.is_none() || self.blob.is_none(),
            Provider::Extract => self.tree.is_none(),
        };
        if missing {
            return Err(bad_value(
                "file and loop need `meta`, full needs `meta` and `blob`, extract needs `tree`",
            ));
        }
        Ok(())
    }
}

/// The program of a container or of an exec, ready for execve.
#[derive(Debug)]
pub struct Program {
    /// `args[0]` and the rest.
    pub args: Vec<CString>,
    /// `K=V` each.
    pub env: Vec<CString>,
    /// Absolute.
    pub cwd: CString,
    /// Who it runs as.
    pub user: User,
    /// In order.
    pub rlimits: Vec<Rlimit>,
    /// Bits.
    pub capabilities: u64,
    /// Whether execve can never grant anything.
    pub no_new_privileges: bool,
    /// Filter.
    pub seccomp: Seccomp,
}

fn strings(what: &str, items: &[ByteBuf]) -> Outcome<Vec<CString>> {
    if items.len() > ITEMS_MAX
        || items.iter().map(|item| item.len() + 1).sum::<usize>() > STRINGS_BYTES_MAX
    {
        return Err(bad_value(format!("too many or too long {what}")));
    }
    let c = |item: &ByteBuf| {
        CString::new(item.as_slice()).map_err(|_| bad_value(format!("a NUL byte in {what}")))
    };
    items.iter().map(c).collect()
}

impl Program {
    #[allow(clippy::too_many_arguments)]
    fn new(
        args: &[ByteBuf],
        env: &[ByteBuf],
        cwd: &[u8],
        user: &User,
        rlimits: &[Rlimit],
        capabilities: &[u8],
        no_new_privileges: bool,
        seccomp: Seccomp,
    ) -> Outcome<Program> {
        if args.first().is_none_or(|first| first.is_empty()) {
            return Err(bad_value("args[0] is missing or empty"));
        }
        check_absolute("cwd", cwd)?;
        if user.groups.len() > GROUPS_MAX || [user.uid, user.gid].contains(&u32::MAX) {
            return Err(bad_value("user, group or groups out of range"));
        }
        if let Some(number) = capabilities.iter().find(|number| **number >= 64) {
            return Err(bad_value(format!("there is no capability {number}")));
        }
        let cwd = CString::new(cwd).map_err(|_| bad_path("a NUL byte in cwd"))?;
        Ok(Program {
            args: strings("args", args)?,
            env: strings("env", env)?,
            cwd,
            user: user.clone(),
            rlimits: rlimits.to_vec(),
            capabilities: linux::privilege::mask(capabilities),
            no_new_privileges,
            seccomp,
        })
    }
}

impl Launch {
    /// Checks the values and gives the program.
    pub fn check(&self) -> Outcome<Program> {
        check_name(&self.name)?;
        check_image(&self.image)?;
        check_path(&self.upper)?;
        check_path(&self.work)?;
        self.etc.as_deref().map_or(Ok(()), check_path)?;
        self.netns.as_deref().map_or(Ok(()), check_name)?;
        check_absolute("cgroup", self.cgroup.as_bytes())?;
        if self.masked.len() > ITEMS_MAX || self.readonly.len() > ITEMS_MAX {
            return Err(bad_value("too many paths"));
        }
        for path in self.masked.iter().chain(&self.readonly) {
            check_absolute("masked or read-only path", path)?;
        }
        let host_name = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
        if self.hostname.is_empty()
            || self.hostname.len() > 64
            || !self.hostname.bytes().all(host_name)
        {
            return Err(bad_value(format!("{:?} is no host name", self.hostname)));
        }
        Program::new(
            &self.args,
            &self.env,
            &self.cwd,
            &self.user,
            &self.rlimits,
            &self.capabilities,
            self.no_new_privileges,
            self.seccomp,
        )
    }
}

impl Exec {
    /// Checks the values and gives the program.
    pub fn check(&self) -> Outcome<Program> {
        check_name(&self.name)?;
        check_name(&self.target)?;
        check_absolute("cgroup", self.cgroup.as_bytes())?;
        Program::new(
            &self.args,
            &self.env,
            &self.cwd,
            &self.user,
            &self.rlimits,
            &self.capabilities,
            self.no_new_privileges,
            self.seccomp,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_state_directory() {
        for good in ["a", "a/b.c", "..a", "a../b"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a/..", ".", "a/./b", "a\0b"] {
            assert_eq!(
                check_path(bad).unwrap_err().code,
                "spawn.bad-path",
                "{bad:?}"
            );
        }
        assert!(check_path(&"a".repeat(PATH_MAX)).is_err());
    }

    #[test]
    fn names_and_digests() {
        assert!(check_name("c1/exec-2").is_ok());
        for bad in ["", "a b", "a\0", "ä"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name(&"a".repeat(241)).is_err());
        assert!(check_image(&"0f".repeat(32)).is_ok());
        assert!(check_image(&"0F".repeat(32)).is_err());
        assert!(check_image("0f").is_err());
    }

    #[test]
    fn programs() {
        let user = User::default();
        let make = |args: &[&[u8]], env: &[&[u8]], cwd: &[u8], caps: &[u8]| {
            let own = |list: &[&[u8]]| {
                list.iter()
                    .map(|item| ByteBuf::from(*item))
                    .collect::<Vec<_>>()
            };
            Program::new(
                &own(args),
                &own(env),
                cwd,
                &user,
                &[],
                caps,
                true,
                Seccomp::Default,
            )
        };
        assert_eq!(
            make(&[b"a"], &[b"K=v"], b"/", &[0, 21])
                .unwrap()
                .capabilities,
            1 << 21 | 1
        );
        assert!(make(&[], &[], b"/", &[]).is_err());
        assert!(make(&[b""], &[], b"/", &[]).is_err());
        assert!(make(&[b"a\0"], &[], b"/", &[]).is_err());
        assert!(make(&[b"a"], &[b"\0"], b"/", &[]).is_err());
        assert_eq!(
            make(&[b"a"], &[], b"tmp", &[]).unwrap_err().code,
            "spawn.bad-path"
        );
        assert!(make(&[b"a"], &[], b"/", &[64]).is_err());
    }
}
