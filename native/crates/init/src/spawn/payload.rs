//! From a process inside the namespaces to the program that was asked for: identity, limits, privileges, execve.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use linux::privilege::{self, SYS_ADMIN};
use rustix::fs::{openat, Mode, OFlags, CWD};
use rustix::io::Errno;
use wire::{Channel, WireError};

use super::failure::{bad_path, Outcome, Step};
use super::request::{Program, Seccomp};

/// Where programs are looked for if the environment has no PATH.
const PATH_DEFAULT: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Soft limit of open files where none is asked for.
const NOFILE_SOFT: u64 = 1_024;

/// Exit status of a child that failed before it could say so in a better way.
pub const EXIT_FAILED: i32 = 125;
const EXIT_NOT_EXECUTABLE: i32 = 126;
const EXIT_NOT_FOUND: i32 = 127;

/// How the process that will become the program talks to spawn.
#[derive(Debug)]
pub struct Report {
    channel: Channel,
}

impl Report {
    /// Over this (close-on-exec) channel.
    pub fn new(channel: Channel) -> Report {
        Report { channel }
    }

    /// The socket, to be kept when all others are closed.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Everything is done but execve.
    fn ready(&self, unenforced: &[String]) {
        let _ = self.channel.send(
            &wire::event(
                "ready",
                &Ready {
                    unenforced: unenforced.to_vec(),
                },
            ),
            &[],
        );
    }

    /// Says what failed, and ends the process.
    pub fn fail(&self, error: &WireError) -> ! {
        let _ = self.channel.send(&wire::error(0, error), &[]);
        linux::clone::exit_now(match error.code.as_str() {
            "spawn.not-found" => EXIT_NOT_FOUND,
            "spawn.not-executable" => EXIT_NOT_EXECUTABLE,
            _ => EXIT_FAILED,
        })
    }
}

/// Said before execve: after it, the channel's end means that the program runs.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Ready {
    /// What was asked for and could not be had.
    pub unenforced: Vec<String>,
}

/// Standard streams: /dev/null of the container, and the two pipes, which belong to the user who writes to them.
pub fn streams(program: &Program, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> Outcome<()> {
    let null = openat(
        CWD,
        "/dev/null",
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let null = null.step("stdin")?;
    let stat = rustix::fs::fstat(&null).step("stdin")?;
    if stat.st_rdev != rustix::fs::makedev(1, 3) {
        return Err(bad_path("/dev/null of the container is another file"));
    }
    linux::clone::dup_to(null.as_fd(), 0).step("stdin")?;
    for (fd, number) in [(stdout, 1), (stderr, 2)] {
        // So that /dev/stdout can be opened by a program of that user.
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(program.user.uid),
            rustix::fs::Gid::from_raw(program.user.gid),
        );
        rustix::fs::fchown(fd, Some(uid), Some(gid)).step("streams")?;
        linux::clone::dup_to(fd, number).step("streams")?;
    }
    Ok(())
}

/// Limits, bounding set, groups and user. What is left of privilege is what [`last`] still needs.
pub fn drop_privileges(program: &Program, unenforced: &mut Vec<String>) -> Outcome<()> {
    // That of hold is no measure for a program: select(2) ends at 1,024, and who can do with more asks for it.
    let limits = privilege::limits(0, privilege::NOFILE).step("rlimits")?;
    privilege::rlimit(privilege::NOFILE, limits.0.min(NOFILE_SOFT), limits.1).step("rlimits")?;
    for limit in &program.rlimits {
        match privilege::rlimit(limit.resource, limit.soft, limit.hard) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                unenforced.push(format!(
                    "resource limit {} was not raised to {}: CAP_SYS_RESOURCE is missing",
                    limit.resource, limit.hard
                ));
            }
            Err(error) => return Err(error).step("rlimits"),
        }
    }
    // Without keys in the kernel there is no keyring of the host to see.
    let _ = privilege::new_session_keyring();
    rustix::process::umask(Mode::from(0o022));
    if program.no_new_privileges {
        privilege::no_new_privileges().step("no_new_privs")?;
    }
    let held = privilege::permitted().step("capabilities")?;
    privilege::bound(program.capabilities).step("capabilities")?;
    privilege::groups(program.user.gid, &program.user.groups).step("groups")?;
    privilege::keep_capabilities(true).step("uid")?;
    privilege::user(program.user.uid).step("uid")?;
    privilege::keep_capabilities(false).step("uid")?;
    // The change of user has set this anew.
    privilege::undumpable().step("dumpable")?;
    let mut keep = lasting(program, held);
    if !program.no_new_privileges && program.seccomp == Seccomp::Default {
        keep |= held & 1 << SYS_ADMIN;
    }
    privilege::capabilities(keep, keep).step("capabilities")?;
    if program.capabilities & !held != 0 {
        unenforced.push("not all capabilities that were asked for are held by zos itself".into());
    }
    Ok(())
}

/// What the program starts with: execve takes from any user but root all that is not ambient.
fn lasting(program: &Program, held: u64) -> u64 {
    match program.user.uid {
        0 => program.capabilities & held,
        _ => 0,
    }
}

/// Enters the working directory, which has to lie inside.
pub fn directory(program: &Program) -> Outcome<()> {
    rustix::process::chdir(&program.cwd).step("chdir")?;
    // "(unreachable)/..." is what getcwd(2) says of a directory outside, reached by a descriptor (CVE-2024-21626).
    let here = rustix::process::getcwd(Vec::new()).step("chdir")?;
    if here.as_bytes().first() != Some(&b'/') {
        let mut error = bad_path("the working directory lies outside the container");
        error.step = Some("chdir".into());
        return Err(error);
    }
    Ok(())
}

/// The last steps, in the process that becomes the program: filter, last capability, execve.
pub fn last(program: &Program, report: &Report, unenforced: &[String]) -> ! {
    let outcome = filter(program);
    if let Err(error) = outcome {
        report.fail(&error);
    }
    report.ready(unenforced);
    report.fail(&execute(program))
}

fn filter(program: &Program) -> Outcome<()> {
    rustix::process::setsid().step("setsid")?;
    linux::sigwait::reset_all().step("signals")?;
    if program.seccomp == Seccomp::Default {
        privilege::seccomp(seccomp::default_filter()).step("seccomp")?;
    }
    let keep = lasting(program, privilege::permitted().step("capabilities")?);
    privilege::capabilities(keep, keep).step("capabilities")
}

/// Tries the program where it may be; the error of the attempt that says most.
fn execute(program: &Program) -> WireError {
    let name = &program.args[0];
    let shown = name.to_string_lossy();
    let mut refused: Option<(CString, io::Error)> = None;
    for path in candidates(name, &program.env) {
        let error = linux::clone::execve(&path, &program.args, &program.env);
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR)
                if rustix::fs::access(&path, rustix::fs::Access::EXISTS).is_ok() =>
            {
                let shown = path.to_string_lossy();
                let error = WireError::step("spawn.not-found", format!("execve {shown}"), &error);
                return error.with_hint(
                    "the file is there: its interpreter (#! line or ELF loader) is missing",
                );
            }
            Some(Errno::NOENT | Errno::NOTDIR) => {}
            Some(Errno::ACCESS) => {
                refused.get_or_insert((path, error));
            }
            Some(Errno::NOEXEC) => {
                let shown = path.to_string_lossy();
                let mut error =
                    WireError::step("spawn.not-executable", format!("execve {shown}"), &error);
                error.hint = super::elf::hint(&shown);
                return error;
            }
            _ => return WireError::step("spawn.step", format!("execve {shown}"), &error),
        }
    }
    match refused {
        Some((path, error)) => {
            let path = path.to_string_lossy();
            let hint = if std::fs::metadata(&*path).is_ok_and(|found| found.is_dir()) {
                "it is a directory"
            } else {
                "the execute permission is missing, of the file or of a directory on the way"
            };
            WireError::step("spawn.not-executable", format!("execve {path}"), &error)
                .with_hint(hint)
        }
        None => {
            let error = io::Error::from(Errno::NOENT);
            WireError::step("spawn.not-found", format!("execve {shown}"), &error)
        }
    }
}

/// A name with a slash is itself; another is looked for in the directories of PATH.
fn candidates(name: &CStr, env: &[CString]) -> Vec<CString> {
    let name = name.to_bytes();
    if name.contains(&b'/') {
        return CString::new(name).into_iter().collect();
    }
    let path = env
        .iter()
        .find_map(|item| item.to_bytes().strip_prefix(b"PATH="));
    let directories = path.unwrap_or(PATH_DEFAULT).split(|byte| *byte == b':');
    // An empty part of PATH means the working directory; "." says the same (execvp(3)).
    let join = |directory: &[u8]| {
        let directory = if directory.is_empty() {
            b"."
        } else {
            directory
        };
        CString::new([directory, b"/", name].concat()).ok()
    };
    directories.filter_map(join).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    #[test]
    fn path_is_that_of_the_container() {
        let env = [c("A=b"), c("PATH=/x::/y")];
        assert_eq!(candidates(c"sh", &env), [c("/x/sh"), c("./sh"), c("/y/sh")]);
        assert_eq!(candidates(c"./sh", &env), [c("./sh")]);
        assert_eq!(candidates(c"sh", &[]).last().unwrap(), &c("/bin/sh"));
    }
}
