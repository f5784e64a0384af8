//! What stands behind a device, a blob that is being fetched, and what is told of it.

use super::device::{libc_errno, lock, Content, Outcome};
use super::events::Events;
use super::plan::{Full, SourceError, UnitError};
use fetch::{Code, Image, Observer};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A blob as the content of a device.
pub struct Blob {
    /// The image.
    pub image: Image,
    /// Time for one read.
    pub read_deadline_ms: AtomicU32,
    /// Readers get EIO instead of being left to a successor.
    pub removed: Arc<AtomicBool>,
}

impl Content for Blob {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, i32> {
        self.image.read_present(offset, buffer).map_err(|error| {
            linux::complain!("read of {} bytes at {offset}: {error}", buffer.len());
            libc_errno::EIO
        })
    }

    fn wait(&self, offset: u64, len: usize, done: Box<dyn FnOnce(Outcome) + Send>) {
        let time = Duration::from_millis(self.read_deadline_ms.load(Ordering::Relaxed).into());
        let deadline = Instant::now() + time;
        let removed = self.removed.clone();
        self.image.request(
            offset,
            len,
            deadline,
            Box::new(move |outcome| {
                done(match outcome {
                    Ok(()) => Outcome::Ready,
                    Err(error) if error.code == Code::Closed && !removed.load(Ordering::SeqCst) => {
                        Outcome::Leave
                    }
                    Err(_) => Outcome::Failed(libc_errno::EIO),
                })
            }),
        );
    }
}

/// Sends what happens to an image to the subscribers.
pub struct Reporter {
    image: String,
    events: Arc<Events>,
    quiet: Mutex<HashMap<(String, Code), Instant>>,
}

/// The same failure of the same source is told at most this often.
const SOURCE_ERROR_PAUSE: Duration = Duration::from_secs(1);

impl Reporter {
    /// Reports on `image`.
    pub fn new(image: String, events: Arc<Events>) -> Self {
        Self {
            image,
            events,
            quiet: Mutex::new(HashMap::new()),
        }
    }
}

impl Observer for Reporter {
    fn unit_failed(&self, failure: &fetch::UnitFailure) {
        let event = UnitError {
            image: self.image.clone(),
            unit: failure.unit,
            address: failure.address,
            code: failure.error.code.as_str().into(),
            message: failure.error.message.clone(),
            source: failure.error.source.clone(),
        };
        linux::complain!(
            "image {}: unit {:?} at {}: {} ({}) {}",
            self.image,
            event.unit,
            event.address,
            event.message,
            event.source,
            event.code
        );
        self.events.send("unit_error", &event);
    }

    fn source_failed(&self, error: &fetch::Error) {
        let now = Instant::now();
        {
            let mut quiet = lock(&self.quiet);
            quiet.retain(|_, until| *until > now);
            if quiet.contains_key(&(error.source.clone(), error.code)) {
                return;
            }
            quiet.insert((error.source.clone(), error.code), now + SOURCE_ERROR_PAUSE);
        }
        let event = SourceError {
            image: self.image.clone(),
            source: error.source.clone(),
            code: error.code.as_str().into(),
            message: error.message.clone(),
        };
        linux::complain!(
            "image {}: source {}: {} {}",
            self.image,
            event.source,
            event.message,
            event.code
        );
        self.events.send("source_error", &event);
    }

    fn full(&self) {
        let image = self.image.clone();
        self.events.send("full", &Full { image });
    }
}
