//! Faults on purpose, for tests (SPAWN-FAULT): only with `--faults FILE` does any of this do anything.
//!
//! The file says `SIDE N HOW` (or nothing): the N-th step, counted from the request's beginning, of spawn itself
//! (`spawn`), of a helper (`helper`) or of the process that becomes a container or an exec (`child`) fails with errno
//! HOW after it was done, or, with `kill`, its process is killed there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU8, Ordering};
use std::sync::Mutex;

/// Which process takes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// spawn itself.
    Spawn = 0,
    /// A helper.
    Helper = 1,
    /// What becomes a container or an exec.
    Child = 2,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Errno(i32),
    Kill,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    side: u8,
    step: u32,
    how: How,
}

static FAULT: Mutex<Option<Fault>> = Mutex::new(None);
static SIDE: AtomicU8 = AtomicU8::new(Side::Spawn as u8);
static STEPS: AtomicU32 = AtomicU32::new(0);

/// Where faults are ordered.
#[derive(Debug, Default)]
pub struct Orders(Option<File>);

impl Orders {
    /// With the file of `--faults`, which is opened here, where its name still means something.
    pub fn open(path: Option<&Path>) -> io::Result<Orders> {
        path.map(File::open).transpose().map(Orders)
    }

    /// A request begins.
    pub fn arm(&self) {
        let Some(file) = &self.0 else { return };
        STEPS.store(0, Ordering::Relaxed);
        if let Ok(mut fault) = FAULT.lock() {
            *fault = read(file);
        }
    }
}

fn read(file: &File) -> Option<Fault> {
    let mut bytes = [0; 64];
    let length = file.read_at(&mut bytes, 0).ok()?;
    let text = std::str::from_utf8(&bytes[..length]).ok()?;
    let mut words = text.split_ascii_whitespace();
    let side = match words.next()? {
        "spawn" => Side::Spawn,
        "helper" => Side::Helper,
        "child" => Side::Child,
        _ => return None,
    } as u8;
    let step = words.next()?.parse().ok()?;
    let how = match words.next()? {
        "kill" => How::Kill,
        errno => How::Errno(errno.parse().ok()?),
    };
    Some(Fault { side, step, how })
}

/// This process is another one from now on, and counts anew.
pub fn enter(side: Side) {
    SIDE.store(side as u8, Ordering::Relaxed);
    STEPS.store(0, Ordering::Relaxed);
}

/// A step was taken: the error that it is to have had instead.
pub fn taken() -> Option<io::Error> {
    let fault = (*FAULT.lock().ok()?)?;
    if fault.side != SIDE.load(Ordering::Relaxed) {
        return None;
    }
    if STEPS.fetch_add(1, Ordering::Relaxed) + 1 != fault.step {
        return None;
    }
    match fault.how {
        How::Errno(errno) => Some(io::Error::from_raw_os_error(errno)),
        How::Kill => {
            let own = rustix::process::getpid().as_raw_nonzero().get();
            if let Ok(pidfd) = linux::process::open(own) {
                let _ = linux::pidfd::send_signal(&pidfd, linux::signal::SIGKILL);
            }
            // pid 1 of a pid namespace is not killed by a signal of its own.
            linux::clone::exit_now(137)
        }
    }
}
