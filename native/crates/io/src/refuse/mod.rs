//! `zos-io refuse`: runs in the place of a blockd that does not come back, and answers every read with EIO, so that no
//! reader waits for ever (docs/spec/blockd.md).

use crate::block::device::{libc_errno, lock, Content, Outcome, Pool};
use crate::block::Plan;
use linux::signal::{self, SIGINT, SIGTERM};
use linux::slots::Slots;
use rustix::event::{poll, PollFd, PollFlags};
use std::collections::HashMap;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wire::scarce::{is_exhausted, REST};
use wire::{Channel, Door, HoldClient, WireError};

/// Exit status of a wrong command line.
const EXIT_USAGE: u8 = 90;
/// Exit status when the service cannot start.
const EXIT_START: u8 = 91;
/// How often hold is asked for devices of new images.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
/// Connections to the control socket, each told no.
const CONNECTIONS_MAX: usize = 32;

/// Runs the role until SIGTERM or the end of hold.
pub fn main(args: Vec<OsString>) -> ExitCode {
    if !args.is_empty() {
        linux::complain!("usage: zos-io refuse (descriptor 3 is a channel to hold)");
        return ExitCode::from(EXIT_USAGE);
    }
    match run() {
        Ok(()) | Err(wire::Error::Closed) => ExitCode::SUCCESS,
        Err(error) => {
            linux::complain!("zos-io refuse: {error}");
            ExitCode::from(EXIT_START)
        }
    }
}

/// A file of a known size without any bytes.
struct Refusing {
    size: u64,
}

impl Content for Refusing {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, _offset: u64, _buffer: &mut [u8]) -> Result<bool, i32> {
        Err(libc_errno::EIO)
    }

    fn wait(&self, _offset: u64, _len: usize, done: Box<dyn FnOnce(Outcome) + Send>) {
        done(Outcome::Failed(libc_errno::EIO));
    }
}

fn run() -> Result<(), wire::Error> {
    let mut hold = HoldClient::inherited()?;
    let signals = signal::signalfd(&[SIGTERM, SIGINT])?;
    let ended: Arc<Mutex<Vec<u64>>> = Arc::default();
    let hear = ended.clone();
    let pool = Pool::start(Box::new(move |key| lock(&hear).push(key)))?;
    // Images and the keys of their devices.
    let mut served = HashMap::new();
    look(&mut hold, &pool, &mut served, &ended)?;
    let mut listener = hold.get_one("listen/blockd")?.map(Door::new).transpose()?;
    hold.ready()?;
    let connections = Arc::new(Mutex::new(0));
    loop {
        let mut fds = vec![PollFd::new(&signals, PollFlags::IN)];
        if let Some(listener) = &listener {
            fds.push(PollFd::new(listener, PollFlags::IN));
        }
        let period = LOOK_PERIOD.try_into().unwrap_or_default();
        match poll(&mut fds, Some(&period)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let knocked = fds
            .get(1)
            .is_some_and(|fd| fd.revents().intersects(PollFlags::IN));
        if signal::next(&signals)?.is_some() {
            return Ok(());
        }
        if let (true, Some(listener)) = (knocked, &mut listener) {
            match listener.accept() {
                Ok(Some(channel)) => refuse(channel, &connections),
                Err(error) if is_exhausted(&error) => std::thread::sleep(REST),
                Ok(None) | Err(_) => {}
            }
        }
        look(&mut hold, &pool, &mut served, &ended)?;
    }
}

/// Serves the devices that hold keeps and that are not served yet.
fn look(
    hold: &mut HoldClient,
    pool: &Arc<Pool>,
    served: &mut HashMap<String, u64>,
    ended: &Mutex<Vec<u64>>,
) -> Result<(), wire::Error> {
    let gone = std::mem::take(&mut *lock(ended));
    served.retain(|_, key| !gone.contains(key));
    for name in hold.list("fuse/")? {
        let image = name["fuse/".len()..].to_owned();
        if served.contains_key(&image) {
            continue;
        }
        let size = size(hold, &image);
        let names = [name, format!("slots/{image}")];
        let Ok(fds) = hold.get(&names) else { continue };
        let Ok([fuse, slots]) = <[_; 2]>::try_from(fds) else {
            continue;
        };
        let added =
            Slots::map(slots).and_then(|slots| pool.add(fuse, slots, Arc::new(Refusing { size })));
        match added {
            Ok(key) => {
                served.insert(image, key);
            }
            Err(error) => linux::complain!("image {image}: {error}"),
        }
    }
    Ok(())
}

/// The blob's size as the plan says; an image without a plan has been read by nobody.
fn size(hold: &mut HoldClient, image: &str) -> u64 {
    let plan = hold.get_one(&format!("plan/{image}")).ok().flatten();
    let plan = plan.and_then(|memfd| Plan::from_memfd(memfd).ok());
    plan.map_or(0, |plan| {
        u64::from(plan.index.blocks) * fetch::layout::BLOCK
    })
}

/// Answers every request of a connection with the reason.
fn refuse(channel: Channel, connections: &Arc<Mutex<usize>>) {
    if channel.peer_uid().ok() != Some(0) || *lock(connections) >= CONNECTIONS_MAX {
        return;
    }
    *lock(connections) += 1;
    let counted = connections.clone();
    let run = move || {
        while let Ok(Some(received)) = channel.recv() {
            let head = wire::head(&received.map);
            let Some(id) = head.ok().and_then(|head| head.request().map(|(id, _)| id)) else {
                break;
            };
            let error = WireError::new(
                "blockd.refusing",
                "the block provider failed too often and is not running",
            )
            .with_hint("see blockd.log of the instance; it is started again by itself");
            if channel.send(&wire::error(id, &error), &[]).is_err() {
                break;
            }
        }
        *lock(&counted) -= 1;
    };
    if std::thread::Builder::new()
        .name("connection".into())
        .spawn(run)
        .is_err()
    {
        *lock(connections) -= 1;
    }
}
