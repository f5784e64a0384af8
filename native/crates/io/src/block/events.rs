//! Subscribers and the thread that tells them what happened. One that does not listen is dropped, never waited for.

use super::device::lock;
use serde::Serialize;
use std::sync::mpsc::{sync_channel, SyncSender};
use std::sync::{Arc, Mutex};
use wire::Channel;

/// Events that wait to be sent; more are dropped, since all of them can be learnt by `status`.
const QUEUE_MAX: usize = 1024;

/// Sends events.
pub struct Events {
    queue: SyncSender<Vec<u8>>,
    subscribers: Mutex<Vec<Arc<Channel>>>,
}

impl Events {
    /// Starts the thread.
    pub fn start() -> std::io::Result<Arc<Self>> {
        let (queue, waiting) = sync_channel(QUEUE_MAX);
        let events = Arc::new(Self {
            queue,
            subscribers: Mutex::new(Vec::new()),
        });
        let sender = Arc::downgrade(&events);
        let run = move || {
            for frame in waiting {
                let Some(events) = sender.upgrade() else {
                    return;
                };
                // A send that times out (SO_SNDTIMEO of the connection) is the end of the subscription.
                let subscribers = lock(&events.subscribers).clone();
                for channel in subscribers {
                    if channel.send(&frame, &[]).is_err() {
                        events.unsubscribe(&channel);
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("events".into())
            .spawn(run)?;
        Ok(events)
    }

    /// Queues an event for every subscriber.
    pub fn send<T: Serialize>(&self, name: &str, body: &T) {
        if !lock(&self.subscribers).is_empty() {
            let _ = self.queue.try_send(wire::event(name, body));
        }
    }

    /// From now on `channel` hears every event.
    pub fn subscribe(&self, channel: &Arc<Channel>) {
        let mut subscribers = lock(&self.subscribers);
        if !subscribers.iter().any(|known| Arc::ptr_eq(known, channel)) {
            subscribers.push(channel.clone());
        }
    }

    /// `channel` hears no more.
    pub fn unsubscribe(&self, channel: &Arc<Channel>) {
        lock(&self.subscribers).retain(|known| !Arc::ptr_eq(known, channel));
    }
}
