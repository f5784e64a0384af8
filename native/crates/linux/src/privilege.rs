//! What a process may do, given up step by step: capabilities(7), credentials(7), seccomp(2), limits.

use std::io;

fn check(result: libc::c_long) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn prctl(option: i32, a: u64, b: u64) -> io::Result<()> {
    // SAFETY: only options whose arguments are numbers are used in this module.
    check(unsafe { libc::prctl(option, a, b, 0u64, 0u64) }.into())
}

/// Capability 21, which seccomp(2) needs where `no_new_privs` is not set.
pub const SYS_ADMIN: u8 = 21;

/// Bits of a list of capability numbers; those from 64 up are ignored.
#[must_use]
pub fn mask(capabilities: &[u8]) -> u64 {
    capabilities
        .iter()
        .filter(|c| **c < 64)
        .fold(0, |mask, c| mask | 1 << c)
}

/// Drops from the bounding set all that is not in `keep`.
///
/// # Errors
/// prctl(2): `EPERM`.
pub fn bound(keep: u64) -> io::Result<()> {
    for number in 0..64u64 {
        if keep & (1 << number) != 0 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, number, 0) {
            Ok(()) => {}
            // Above the last capability that this kernel knows.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Capabilities that the caller holds (permitted).
///
/// # Errors
/// capget(2).
pub fn permitted() -> io::Result<u64> {
    let header = CapHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 fills exactly two CapData.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Sets effective and permitted, empties inheritable and ambient.
///
/// # Errors
/// capset(2): `EPERM` when `effective` is not within `permitted`, or that not within what is held.
pub fn capabilities(effective: u64, permitted: u64) -> io::Result<()> {
    let header = CapHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let half = |shift: u32| CapData {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: 0,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads exactly two CapData.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as u64,
        0,
    )
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Whether changing the user keeps the permitted capabilities, until execve.
///
/// # Errors
/// prctl(2).
pub fn keep_capabilities(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0)
}

/// Forbids that execve ever grants anything.
///
/// # Errors
/// prctl(2).
pub fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// Shuts ptrace(2), /proc/PID/mem and the like to all without CAP_SYS_PTRACE, until execve.
///
/// # Errors
/// prctl(2).
pub fn undumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0)
}

/// A signal for the caller when its parent ends.
///
/// # Errors
/// prctl(2).
pub fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)
}

/// Supplementary groups, then the group, real, effective and saved.
///
/// # Errors
/// setgroups(2), setresgid(2).
pub fn groups(gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer is valid for `len` groups. The plain system calls change the one thread there is.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })
}

/// The user, real, effective and saved.
///
/// # Errors
/// setresuid(2).
pub fn user(uid: u32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// One resource limit of the caller.
///
/// # Errors
/// setrlimit(2): `EPERM` when a hard limit would rise without CAP_SYS_RESOURCE, `EINVAL`.
pub fn rlimit(resource: i32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let old = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: `limit` lives for the call and the old value is not asked for.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, old) })
}

/// The resource "open files".
pub const NOFILE: i32 = libc::RLIMIT_NOFILE as i32;

/// How many resources there are.
pub const RESOURCES: i32 = 16;

/// Soft and hard limit of a process, 0 for the caller.
///
/// # Errors
/// prlimit(2): `EINVAL`; `EPERM` for a process of another user, without CAP_SYS_RESOURCE.
pub fn limits(pid: i32, resource: i32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let no_new = std::ptr::null::<libc::rlimit64>();
    // SAFETY: `limit` is a place for the old value, and no new one is given.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, no_new, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// A session keyring of its own, so that that of the host cannot be searched.
///
/// # Errors
/// keyctl(2): `ENOSYS` on kernels without keys, `EDQUOT`.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    let no_name = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, no_name) })
}

/// Loads a seccomp filter: `program` is an array of struct sock_filter (8 bytes each).
///
/// # Errors
/// `EINVAL` for a program that is empty, odd-sized or wrong; `EACCES` without CAP_SYS_ADMIN and `no_new_privs`.
pub fn seccomp(program: &[u8]) -> io::Result<()> {
    const SET_MODE_FILTER: u32 = 1;
    let count = program.len() / size_of::<libc::sock_filter>();
    if !program.len().is_multiple_of(size_of::<libc::sock_filter>())
        || count == 0
        || count > usize::from(u16::MAX)
    {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let instructions: Vec<libc::sock_filter> = program
        .chunks_exact(size_of::<libc::sock_filter>())
        .map(|i| libc::sock_filter {
            code: u16::from_ne_bytes([i[0], i[1]]),
            jt: i[2],
            jf: i[3],
            k: u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
        })
        .collect();
    let filter = libc::sock_fprog {
        len: count as u16,
        filter: instructions.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies `len` instructions, and does not write to them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0u32, &raw const filter) })
}

/// Sets the name that uname(2) gives.
///
/// # Errors
/// sethostname(2): `EINVAL` above 64 bytes.
pub fn hostname(name: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer is valid for `len` bytes.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }.into())
}
