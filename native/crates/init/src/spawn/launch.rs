//! The first process of a container, and the process of an exec, from clone3 to execve; and the reaper.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linux::clone::{
    close_all_but, exit_now, setns, Forked, NEWCGROUP, NEWIPC, NEWNET, NEWNS, NEWPID, NEWUTS,
    PARENT,
};
use linux::sigwait;

use super::failure::{Outcome, Step};
use super::fault::{self, Side};
use super::helper::Done;
use super::payload::{self, Report, EXIT_FAILED};
use super::request::{Launch, Program};
use super::rootfs::{self, Image};

/// The namespaces of every container; the network's is entered, not made.
pub const NAMESPACES: u64 = NEWNS | NEWPID | NEWIPC | NEWUTS | NEWCGROUP;

/// Title of pid 1.
const REAPER: &str = "zos-reaper";
/// Title of an exec before its execve.
const EXEC: &str = "zos-exec";

/// What the new process has of spawn's descriptors.
#[derive(Debug)]
pub struct Descriptors<'a> {
    /// One byte on it: registered, go on. Its end: spawn or hold is gone, or hold refused.
    pub go: BorrowedFd<'a>,
    /// Write end.
    pub stdout: BorrowedFd<'a>,
    /// Write end.
    pub stderr: BorrowedFd<'a>,
}

/// Forks, and runs `child` as the whole life of the new process: it never comes back into spawn's loop, not by a panic
/// and not by a fault that is made on purpose, which is this process's alone. Gives the child's id and its pidfd.
pub fn fork(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    step: &str,
    child: impl FnOnce(),
) -> Outcome<(i32, OwnedFd)> {
    let parent = match linux::clone::fork(flags, cgroup) {
        Ok(Forked::Child) => {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            exit_now(EXIT_FAILED)
        }
        Ok(Forked::Parent { pid, pidfd }) => Ok((pid, pidfd)),
        Err(error) => Err(error),
    };
    parent.step(step)
}

/// Waits until the process has a name in hold.
fn wait_go(go: BorrowedFd<'_>) {
    let mut file = match go.try_clone_to_owned() {
        Ok(fd) => std::fs::File::from(fd),
        Err(_) => exit_now(EXIT_FAILED),
    };
    if file.read_exact(&mut [0]).is_err() {
        exit_now(EXIT_FAILED);
    }
}

/// pid 1 of a container.
pub fn container(
    launch: &Launch,
    program: &Program,
    image: &Image<'_>,
    netns: Option<BorrowedFd<'_>>,
    fds: &Descriptors<'_>,
    report: &Report,
) -> Outcome<()> {
    fault::enter(Side::Child);
    let mut keep = vec![fds.go, fds.stdout, fds.stderr, report.fd()];
    keep.extend(netns);
    if let Image::Detached(mount) = image {
        keep.push(*mount);
    }
    close_all_but(&keep).step("close")?;
    wait_go(fds.go);
    // Where our state lies is nobody's business in there; until execve, and for the reaper's whole life.
    let _ = linux::title::set(REAPER);
    // hold protects its services from the out-of-memory killer; a container is none. Rising is always allowed.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    if let Some(netns) = netns {
        setns(netns, NEWNET).step("setns-net")?;
    }
    let mut unenforced = Vec::new();
    rootfs::build(launch, image, &mut unenforced)?;
    linux::privilege::hostname(launch.hostname.as_bytes()).step("hostname")?;
    payload::streams(program, fds.stdout, fds.stderr)?;
    close_all_but(&[report.fd()]).step("close")?;
    payload::drop_privileges(program, &mut unenforced)?;
    payload::directory(program)?;
    if launch.init {
        // All signals are blocked since before the clone, so that none that was sent since is lost. spawn ignores
        // SIGCHLD, under which the end of the program could not be waited for.
        sigwait::default_actions();
        match linux::clone::fork_plain().step("reaper-fork")? {
            0 => {}
            pid => reap_for(pid),
        }
    }
    payload::last(program, report, &unenforced)
}

/// pid 1 for the rest of its life: passes signals on to the program, reaps whatever is left to it, ends as it ends.
fn reap_for(program: i32) -> ! {
    linux::process::set_name(REAPER);
    let _ = close_all_but(&[]);
    let input = std::io::stdin();
    let _ = linux::clone::dup_to(input.as_fd(), 1);
    let _ = linux::clone::dup_to(input.as_fd(), 2);
    let _ = rustix::process::chdir("/");
    let _ = rustix::process::setsid();
    loop {
        while let Some((pid, status)) = sigwait::reap() {
            if pid == program {
                exit_now(sigwait::shell_status(status));
            }
        }
        match sigwait::wait_any() {
            Ok(number) if number == linux::signal::SIGCHLD => {}
            Ok(number) => {
                let _ = sigwait::send(program, number);
            }
            Err(_) => {}
        }
    }
}

/// The helper that enters a container and clones there the process of an exec: its pid, and its pidfd as descriptor.
///
/// It lies in the cgroup already, and nobody inside sees it: it stays in spawn's pid namespace. Only when it has become
/// what the program may be does it clone the process that they do see, so that there is nothing to be gained by looking
/// into that one, whatever they hold (CVE-2016-9962).
pub fn enter(
    program: &Program,
    target: BorrowedFd<'_>,
    fds: &Descriptors<'_>,
    helper: BorrowedFd<'_>,
    report: &Report,
) -> Outcome<Done> {
    // While /proc is still that of the host.
    let _ = linux::title::set(EXEC);
    // The cgroup namespace only now that we are in the cgroup: from inside, none of the host can be named (nsdelegate).
    setns(
        target,
        NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS | NEWCGROUP,
    )
    .map_err(|error| {
        match error.raw_os_error() {
            // ESRCH
            Some(3) => wire::WireError::new("spawn.no-such-target", "the container has ended"),
            _ => wire::WireError::step("spawn.step", "setns", &error),
        }
    })?;
    let mut unenforced = Vec::new();
    payload::streams(program, fds.stdout, fds.stderr)?;
    close_all_but(&[fds.go, helper, report.fd()]).step("close")?;
    payload::drop_privileges(program, &mut unenforced)?;
    payload::directory(program)?;
    let (pid, pidfd) = fork(PARENT, None, "clone3", || {
        fault::enter(Side::Child);
        if close_all_but(&[fds.go, report.fd()]).is_err() {
            exit_now(EXIT_FAILED);
        }
        wait_go(fds.go);
        payload::last(program, report, &unenforced)
    })?;
    Ok(Done::new(&Cloned { pid }, vec![pidfd]))
}

/// What [`enter`] answers.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Cloned {
    /// As spawn and hold see it.
    pub pid: i32,
}

/// Both ends of a pipe for a stream: read end, write end.
pub fn stream() -> Outcome<(OwnedFd, OwnedFd)> {
    /// What logd can be behind by before a container waits.
    const PIPE_BYTES: usize = 1_048_576;
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("pipe")?;
    // Where the user's share of pipe memory is used up it stays at 64 KiB, which is no error.
    let _ = rustix::pipe::fcntl_setpipe_size(&read, PIPE_BYTES);
    Ok((read, write))
}
