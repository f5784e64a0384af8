//! The images that are served: a plan each, its fetcher, and its device if it has one.

use super::content::{Blob, Reporter};
use super::device::{lock, Content, Pool};
use super::events::Events;
use super::plan::{self, Added, Plan, Status};
use fetch::Image;
use linux::slots::Slots;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wire::{HoldClient, WireError};

/// Images of one blockd: each takes a few threads and descriptors.
const IMAGES_MAX: usize = 512;
/// Time that `remove` gives to requests in flight.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How soon the opening of an image is given up.
const GIVE_UP_INTERVAL: Duration = Duration::from_millis(50);
/// Pause between attempts to take up an image again.
const RESTORE_PAUSE: Duration = Duration::from_secs(1);

/// One image that is open.
struct Served {
    plan: Plan,
    content: Arc<Blob>,
    device: Option<Serving>,
}

/// The device of an image.
struct Serving {
    /// In the pool.
    key: u64,
    /// Inode of the slots, which are made anew with each device.
    slots: u64,
}

/// Where an image is served, or is being brought to.
#[derive(Default)]
struct Place {
    served: Mutex<Option<Served>>,
    /// Nobody wants it any more: whoever is opening it gives up.
    removed: Arc<AtomicBool>,
}

/// All images, and what serving them needs.
pub struct Images {
    hold: Mutex<HoldClient>,
    pool: Arc<Pool>,
    events: Arc<Events>,
    /// A place is locked while its image is being opened or closed, so that others need not wait for its sources.
    places: Mutex<HashMap<String, Arc<Place>>>,
    stopping: AtomicBool,
    /// The channel of a new hold, until the main thread watches it.
    new_life: Mutex<Option<OwnedFd>>,
}

impl Images {
    /// No images yet.
    pub fn new(hold: HoldClient, pool: Arc<Pool>, events: Arc<Events>) -> Self {
        Self {
            hold: Mutex::new(hold),
            pool,
            events,
            places: Mutex::new(HashMap::new()),
            stopping: AtomicBool::new(false),
            new_life: Mutex::new(None),
        }
    }

    /// A new hold has taken the place of one that died.
    pub fn meet_hold(&self, hold: HoldClient) -> Result<(), wire::Error> {
        let life = hold.as_fd().try_clone_to_owned()?;
        *lock(&self.hold) = hold;
        *lock(&self.new_life) = Some(life);
        self.ready()
    }

    /// What [`Images::meet_hold`] left to be watched.
    pub fn new_life(&self) -> Option<OwnedFd> {
        lock(&self.new_life).take()
    }

    /// Tells hold that requests are answered from now on.
    pub fn ready(&self) -> Result<(), wire::Error> {
        lock(&self.hold).ready()
    }

    /// Takes up what a predecessor served: every plan that hold keeps (BLOCKD-LIFE-1).
    pub fn restore(self: &Arc<Self>) -> Result<(), wire::Error> {
        let names = lock(&self.hold).list("plan/")?;
        for name in names {
            let plan = match self.kept_plan(&name) {
                Ok(plan) => plan,
                Err(error) => {
                    linux::complain!("{name}: {error}");
                    continue;
                }
            };
            if let Err(error) = self.open(&plan) {
                linux::complain!("{name}: {error}");
                // Its readers wait in the kernel; what is amiss may be cured.
                let images = self.clone();
                let again = move || {
                    while !images.stopping.load(Ordering::SeqCst) && images.open(&plan).is_err() {
                        std::thread::sleep(RESTORE_PAUSE);
                    }
                };
                std::thread::Builder::new()
                    .name("restore".into())
                    .spawn(again)?;
            }
        }
        Ok(())
    }

    fn kept_plan(&self, name: &str) -> Result<Plan, wire::Error> {
        let memfd = lock(&self.hold).get_one(name)?;
        Plan::from_memfd(memfd.ok_or(wire::Error::Closed)?)
    }

    /// `add`.
    pub fn add(&self, plan: &Plan) -> Result<Added, WireError> {
        let added = self.open(plan)?;
        let bytes = wire::encode(plan);
        let name = format!("plan/{}", plan.image);
        let kept = linux::memfd::sealed("plan", &bytes)
            .map_err(wire::Error::from)
            .and_then(|memfd| lock(&self.hold).put(&name, memfd, true));
        kept.map_err(|error| WireError::of_hold("blockd.hold", &error))?;
        Ok(added)
    }

    fn open(&self, plan: &Plan) -> Result<Added, WireError> {
        loop {
            let place = {
                let mut places = lock(&self.places);
                if places.len() >= IMAGES_MAX && !places.contains_key(&plan.image) {
                    return Err(WireError::new(
                        "blockd.too-many",
                        format!("{IMAGES_MAX} images are served already"),
                    ));
                }
                places.entry(plan.image.clone()).or_default().clone()
            };
            let mut served = lock(&place.served);
            let current = lock(&self.places)
                .get(&plan.image)
                .is_some_and(|now| Arc::ptr_eq(now, &place));
            if !current {
                // Removed while this thread waited for it.
                continue;
            }
            let outcome = self.open_at(plan, &mut served, &place.removed);
            if served.is_none() {
                self.forget(&plan.image, &place);
            }
            return outcome;
        }
    }

    /// Takes a place away, unless it is another's by now.
    fn forget(&self, image: &str, place: &Arc<Place>) {
        let mut places = lock(&self.places);
        if places.get(image).is_some_and(|now| Arc::ptr_eq(now, place)) {
            places.remove(image);
        }
    }

    fn open_at(
        &self,
        plan: &Plan,
        place: &mut Option<Served>,
        removed: &Arc<AtomicBool>,
    ) -> Result<Added, WireError> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(WireError::new("blockd.stopping", "the service ends"));
        }
        let wanted = plan.to_fetch()?;
        let mut served = match place.take() {
            Some(served) => {
                if (&served.plan.index, &served.plan.dir) != (&plan.index, &plan.dir) {
                    *place = Some(served);
                    return Err(WireError::new(
                        plan::BAD_PLAN,
                        "the image is served with another index or directory",
                    ));
                }
                let specs = wanted.sources.clone();
                if let Err(error) = served.content.image.set_sources(&specs) {
                    *place = Some(served);
                    return Err(plan::wire_error(&error));
                }
                served
            }
            None => {
                let reporter = Reporter::new(plan.image.clone(), self.events.clone());
                let image = open_image(wanted, Arc::new(reporter), removed)?;
                Served {
                    plan: plan.clone(),
                    content: Arc::new(Blob {
                        image,
                        read_deadline_ms: AtomicU32::new(0),
                        removed: Arc::new(AtomicBool::new(false)),
                    }),
                    device: None,
                }
            }
        };
        served
            .content
            .read_deadline_ms
            .store(plan.read_deadline_ms, Ordering::Relaxed);
        served.plan = plan.clone();
        let status = served.content.image.status();
        let outcome = if plan.serve {
            self.serve(&mut served)
        } else {
            Ok(())
        };
        // An image whose device is missing stays open: `add` comes again when there is one.
        *place = Some(served);
        outcome.map(|()| Added {
            units: status.units,
            units_present: status.units_present,
            blob_bytes: status.blob_bytes,
        })
    }

    fn serve(&self, served: &mut Served) -> Result<(), WireError> {
        let image = &served.plan.image;
        let names = [format!("fuse/{image}"), format!("slots/{image}")];
        let missing = |error: wire::Error| {
            WireError::new(
                "blockd.no-device",
                format!("hold does not give device and slots: {error}"),
            )
            .with_hint("spawn's fuse_open comes before add")
        };
        let got = lock(&self.hold).get(&names);
        let mut fds = match got {
            Err(wire::Error::Closed) => return Err(WireError::hold_gone()),
            other => other.map_err(missing)?.into_iter(),
        };
        let (Some(fuse), Some(slots)) = (fds.next(), fds.next()) else {
            return Err(missing(wire::Error::Closed));
        };
        let bad = |step: &'static str| {
            move |error: std::io::Error| WireError::step("blockd.no-device", step, &error)
        };
        let inode = rustix::fs::fstat(&slots)
            .map_err(|error| bad("slots")(error.into()))?
            .st_ino;
        match served.device.take() {
            Some(device) if device.slots == inode => {
                served.device = Some(device);
                return Ok(());
            }
            // The mount was forgotten and made anew, before the end of the old one was heard of.
            Some(device) => drop(self.pool.stop(device.key)),
            None => {}
        }
        let slots = Slots::map(slots).map_err(bad("slots"))?;
        let content: Arc<dyn Content> = served.content.clone();
        let key = self.pool.add(fuse, slots, content).map_err(bad("device"))?;
        served.device = Some(Serving { key, slots: inode });
        Ok(())
    }

    fn with<T>(
        &self,
        image: &str,
        call: impl FnOnce(&Served) -> Result<T, WireError>,
    ) -> Result<T, WireError> {
        let place = lock(&self.places).get(image).cloned();
        let unknown = || {
            WireError::new(
                "blockd.unknown-image",
                format!("no image {image} was added"),
            )
        };
        let place = place.ok_or_else(unknown)?;
        let place = lock(&place.served);
        call(place.as_ref().ok_or_else(unknown)?)
    }

    /// `fill`.
    pub fn fill(&self, image: &str) -> Result<(), WireError> {
        self.with(image, |served| {
            served
                .content
                .image
                .fill()
                .map_err(|error| plan::wire_error(&error))
        })
    }

    /// `status`.
    pub fn status(&self, image: &str) -> Result<Status, WireError> {
        self.with(image, |served| {
            let status = served.content.image.status();
            Ok(Status {
                units: status.units,
                units_present: status.units_present,
                blob_bytes: status.blob_bytes,
                bytes_fetched: status.bytes_fetched,
                requests: status.requests,
                reads: status.reads,
                errors: status.errors,
                full: status.full,
            })
        })
    }

    /// `remove`.
    pub fn remove(&self, image: &str) -> Result<(), WireError> {
        let place = lock(&self.places).get(image).cloned();
        if let Some(place) = place {
            place.removed.store(true, Ordering::SeqCst);
            if let Some(served) = lock(&place.served).take() {
                let device = served.device.and_then(|device| self.pool.stop(device.key));
                if let Some(device) = device {
                    device.wait_idle(REMOVE_TIMEOUT);
                }
                // Whoever waits still hears EIO.
                served.content.removed.store(true, Ordering::SeqCst);
                if let Err(error) = served.content.image.close() {
                    linux::complain!("image {image}: {error}");
                }
            }
            self.forget(image, &place);
        }
        lock(&self.hold)
            .drop_names(&[format!("plan/{image}")])
            .map_err(|error| WireError::of_hold("blockd.hold", &error))?;
        Ok(())
    }

    /// The file system of device `key` is gone: nobody can read it any more.
    pub fn device_ended(&self, key: u64) {
        let places: Vec<Arc<Place>> = lock(&self.places).values().cloned().collect();
        for place in places {
            let mut place = lock(&place.served);
            if let Some(served) = place.as_mut().filter(|served| {
                served
                    .device
                    .as_ref()
                    .is_some_and(|device| device.key == key)
            }) {
                served.device = None;
            }
        }
    }

    /// Whether any image has a device.
    pub fn serving(&self) -> bool {
        let places: Vec<Arc<Place>> = lock(&self.places).values().cloned().collect();
        places.iter().any(|place| {
            lock(&place.served)
                .as_ref()
                .is_some_and(|served| served.device.is_some())
        })
    }

    /// Ends in order: no more requests are read, what is in flight is answered as far as `grace` goes and else left in
    /// the slots for a successor, and the presence files are marked clean.
    pub fn stop(&self, grace: Duration) {
        self.stopping.store(true, Ordering::SeqCst);
        let until = Instant::now() + grace;
        let places: Vec<(String, Arc<Place>)> = lock(&self.places).drain().collect();
        let mut stopped = Vec::new();
        for (name, place) in places {
            place.removed.store(true, Ordering::SeqCst);
            let served = lock(&place.served).take();
            if let Some(served) = served {
                let device = served.device.as_ref();
                let device = device.and_then(|device| self.pool.stop(device.key));
                stopped.push((name, served, device));
            }
        }
        for (name, served, device) in stopped {
            if let Some(device) = &device {
                device.wait_idle(until.saturating_duration_since(Instant::now()));
            }
            if let Err(error) = served.content.image.close() {
                linux::complain!("image {name}: {error}");
            }
        }
    }
}

/// Opens an image in a thread of its own, which nobody waits for once the image is `removed`: a source may be silent for
/// as long as one request may take.
fn open_image(
    wanted: fetch::Plan,
    reporter: Arc<Reporter>,
    removed: &Arc<AtomicBool>,
) -> Result<Image, WireError> {
    let (send, receive) = mpsc::sync_channel(1);
    let given_up = removed.clone();
    let opening = move || {
        let _ = send.send(Image::open(wanted, reporter, &given_up));
    };
    std::thread::Builder::new()
        .name("open".into())
        .spawn(opening)
        .map_err(|error| WireError::step("blockd.no-device", "thread", &error))?;
    loop {
        match receive.recv_timeout(GIVE_UP_INTERVAL) {
            Ok(outcome) => return outcome.map_err(|error| plan::wire_error(&error)),
            Err(RecvTimeoutError::Timeout) if !removed.load(Ordering::SeqCst) => continue,
            Err(_) => {
                let closed = fetch::Error::new(fetch::Code::Closed, "the image was removed");
                return Err(plan::wire_error(&closed));
            }
        }
    }
}
