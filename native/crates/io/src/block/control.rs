//! The control socket: connections, requests, answers in any order (FRAME-5).

use super::events::Events;
use super::images::Images;
use super::plan::{self, FetchObject, Fetched, ImageName, Plan};
use crate::server::take_hold;
use rustix::event::{poll, PollFd, PollFlags};
use rustix::net::sockopt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::scarce::{is_exhausted, REST};
use wire::{Channel, Door, Empty, WireError};

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// Requests that are worked on at once, beyond the one that each connection works on by itself.
const REQUESTS_MAX: usize = 32;
/// A peer that takes no answer for this long is cut off.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time that `fetch_object` may take.
const OBJECT_TIME_MAX: Duration = Duration::from_secs(3600);

/// What requests are answered with.
pub struct Control {
    images: Arc<Images>,
    events: Arc<Events>,
    connections: AtomicUsize,
    requests: AtomicUsize,
}

impl Control {
    /// Accepts connections for ever, in a thread of its own.
    pub fn start(
        listener: OwnedFd,
        images: Arc<Images>,
        events: Arc<Events>,
    ) -> std::io::Result<()> {
        let mut door = Door::new(listener)?;
        let control = Arc::new(Self {
            images,
            events,
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        });
        std::thread::Builder::new()
            .name("accept".into())
            .spawn(move || loop {
                let mut wait = [PollFd::new(&door, PollFlags::IN)];
                if poll(&mut wait, None).is_err() {
                    continue;
                }
                match door.accept() {
                    Ok(Some(channel)) => control.clone().accepted(channel),
                    Ok(None) => {}
                    Err(error) if is_exhausted(&error) => std::thread::sleep(REST),
                    Err(_) => {}
                }
            })?;
        Ok(())
    }

    fn accepted(self: Arc<Self>, channel: Channel) {
        // FRAME-8.
        if channel.peer_uid().ok() != Some(0) {
            return;
        }
        if !claim(&self.connections, CONNECTIONS_MAX) {
            return channel.refuse(&WireError::too_many_clients(CONNECTIONS_MAX));
        }
        let _ = sockopt::set_socket_timeout(
            channel.as_fd(),
            sockopt::Timeout::Send,
            Some(SEND_TIMEOUT),
        );
        let control = self.clone();
        let run = move || {
            control.converse(&Arc::new(channel));
            control.connections.fetch_sub(1, Ordering::SeqCst);
        };
        if std::thread::Builder::new()
            .name("connection".into())
            .spawn(run)
            .is_err()
        {
            self.connections.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn converse(self: &Arc<Self>, channel: &Arc<Channel>) {
        while let Ok(Some(received)) = channel.recv() {
            let Ok(head) = wire::head(&received.map) else {
                break;
            };
            let Some((id, op)) = head.request() else {
                break;
            };
            let op = op.to_owned();
            if op == "hold" {
                self.meet_hold(channel, id, received);
                continue;
            }
            let control = self.clone();
            let to = channel.clone();
            let map = received.map;
            let slow = matches!(op.as_str(), "add" | "remove" | "fetch_object");
            let run = move || control.answer(&to, id, &op, &map);
            if slow && claim(&self.requests, REQUESTS_MAX) {
                let control = self.clone();
                let threaded = move || {
                    run();
                    control.requests.fetch_sub(1, Ordering::SeqCst);
                };
                if std::thread::Builder::new()
                    .name("request".into())
                    .spawn(threaded)
                    .is_err()
                {
                    self.requests.fetch_sub(1, Ordering::SeqCst);
                    break;
                }
            } else {
                run();
            }
        }
        self.events.unsubscribe(channel);
    }

    /// A new hold in the place of one that died (HOLD-TAKE).
    fn meet_hold(&self, channel: &Channel, id: u64, received: wire::Received) {
        let (hold, reply) = match take_hold(id, &received.map, received.fds, received.is_short) {
            Ok((hold, reply)) => (Some(hold), reply),
            Err(error) => (None, wire::error(id, &error)),
        };
        let _ = channel.send(&reply, &[]);
        if let Some(Err(error)) = hold.map(|hold| self.images.meet_hold(hold)) {
            linux::complain!("the new hold: {error}");
        }
    }

    fn answer(&self, channel: &Arc<Channel>, id: u64, op: &str, map: &[u8]) {
        let reply = match self.work(channel, id, op, map) {
            Ok(reply) => reply,
            Err(error) => wire::error(id, &error),
        };
        let _ = channel.send(&reply, &[]);
    }

    fn work(
        &self,
        channel: &Arc<Channel>,
        id: u64,
        op: &str,
        map: &[u8],
    ) -> Result<Vec<u8>, WireError> {
        let images = &self.images;
        let done = |()| wire::reply(id, &Empty {});
        match op {
            "add" => images
                .add(&body::<Plan>(map)?)
                .map(|added| wire::reply(id, &added)),
            "remove" => images.remove(&body::<ImageName>(map)?.image).map(done),
            "fill" => images.fill(&body::<ImageName>(map)?.image).map(done),
            "status" => images
                .status(&body::<ImageName>(map)?.image)
                .map(|status| wire::reply(id, &status)),
            "subscribe" => {
                body::<Empty>(map)?;
                self.events.subscribe(channel);
                Ok(done(()))
            }
            "fetch_object" => fetch_object(&body::<FetchObject>(map)?)
                .map(|bytes| wire::reply(id, &Fetched { bytes })),
            _ => Err(WireError::unknown_op(op)),
        }
    }
}

fn body<T: serde::de::DeserializeOwned>(map: &[u8]) -> Result<T, WireError> {
    wire::body(map).map_err(|error| WireError::bad_body(&error))
}

/// Counts one more, unless there are `max`.
fn claim(count: &AtomicUsize, max: usize) -> bool {
    let more = |now: usize| (now < max).then_some(now + 1);
    count
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
        .is_ok()
}

fn fetch_object(request: &FetchObject) -> Result<u64, WireError> {
    let to = Path::new(&request.to);
    if !to.is_absolute() {
        return Err(WireError::new(
            plan::BAD_PLAN,
            "the file is not named by an absolute path",
        ));
    }
    let sources: Vec<_> = request.sources.iter().map(plan::Source::spec).collect();
    let object = fetch::Object {
        path: request.object.clone(),
        hash: plan::hash(&request.blake3)?,
        size: request.size,
        zstd: request.zstd,
    };
    let time = Duration::from_millis(request.deadline_ms.into()).min(OBJECT_TIME_MAX);
    fetch::fetch_object(
        &sources,
        &object,
        to,
        Instant::now() + time,
        &AtomicBool::new(false),
    )
    .map_err(|error| plan::wire_error(&error))
}
