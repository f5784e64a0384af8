//! `zos-io block`: serves the blobs of images over FUSE, fetching and verifying what is missing (docs/spec/blockd.md).

mod content;
mod control;
pub mod device;
mod events;
pub mod fuse;
mod images;
pub(crate) mod plan;

pub use plan::Plan;

use control::Control;
use device::Pool;
use events::Events;
use images::Images;
use linux::signal::{self, SIGINT, SIGTERM};
use rustix::event::{poll, PollFd, PollFlags};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wire::HoldClient;

/// Exit status of a wrong command line.
const EXIT_USAGE: u8 = 90;
/// Exit status when the service cannot start.
const EXIT_START: u8 = 91;
/// Time that a clean end gives to requests in flight.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// After the end of hold it is looked this often whether somebody still reads.
const ORPHAN_POLL: Duration = Duration::from_millis(200);

/// Runs the role until SIGTERM.
pub fn main(args: Vec<OsString>) -> ExitCode {
    if !args.is_empty() {
        linux::complain!("usage: zos-io block (descriptor 3 is a channel to hold)");
        return ExitCode::from(EXIT_USAGE);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            linux::complain!("zos-io block: {error}");
            ExitCode::from(EXIT_START)
        }
    }
}

fn run() -> Result<(), wire::Error> {
    let mut hold = HoldClient::inherited()?;
    // Before any thread: all of them inherit the mask.
    let signals = signal::signalfd(&[SIGTERM, SIGINT])?;
    let life = hold.as_fd().try_clone_to_owned()?;
    let listener = hold
        .get(&["listen/blockd"])?
        .into_iter()
        .next()
        .ok_or(wire::Error::Closed)?;
    let events = Events::start()?;
    let images: Arc<OnceLock<Arc<Images>>> = Arc::default();
    let ended = images.clone();
    let pool = Pool::start(Box::new(move |key| {
        if let Some(images) = ended.get() {
            images.device_ended(key);
        }
    }))?;
    let images = images
        .get_or_init(|| Arc::new(Images::new(hold, pool, events.clone())))
        .clone();
    images.restore()?;
    Control::start(listener, images.clone(), events)?;
    images.ready()?;
    wait_for_end(&signals, life, &images)?;
    images.stop(STOP_GRACE);
    Ok(())
}

/// Returns on SIGTERM, or when hold has gone and nobody reads any more: containers do not notice the end of
/// hold (BLOCKD-LIFE-2, BLOCKD-LIFE-3).
///
/// A new hold's channel is watched in the place of the old one from the moment its end is seen.
fn wait_for_end(signals: &OwnedFd, mut life: OwnedFd, images: &Images) -> Result<(), wire::Error> {
    let mut orphan = false;
    loop {
        if let Some(new) = orphan.then(|| images.new_life()).flatten() {
            life = new;
            orphan = false;
        }
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        if !orphan {
            fds.push(PollFd::new(&life, PollFlags::RDHUP));
        }
        let timeout = orphan.then(|| ORPHAN_POLL.try_into().unwrap_or_default());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        orphan |= fds.get(1).is_some_and(|fd| fd.revents().intersects(gone));
        if signal::next(signals)?.is_some() || (orphan && !images.serving()) {
            return Ok(());
        }
    }
}
