//! Devices (/dev/fuse) and the bounded pool of threads that answer their requests.
//!
//! A worker takes a free slot of a device that has something to read, lets the kernel copy the request into it, and
//! answers: at once what is present, later, from a fetching thread, what is not. So a hub that hangs holds slots, never
//! threads. When the slots of a device are used up it is read again when one is free.

use super::fuse::{self, Request};
use linux::slots::{Slots, COUNT};
use rustix::event::epoll;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Threads that read requests and answer what is present.
const WORKERS_MAX: usize = 8;
/// Pause after an error of /dev/fuse that should not be.
const TROUBLE_PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether the reader of an interrupted request is being killed.
const KILL_POLL: Duration = Duration::from_millis(50);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Locks a mutex; every structure behind one is whole between two statements.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What stands behind a device.
pub trait Content: Send + Sync {
    /// Size of the file.
    fn size(&self) -> u64;
    /// Fills `buffer` from `offset` on: true when done, false when it must be waited for, or an errno.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, i32>;
    /// Calls `done` when `read` may succeed, or with what is to be answered instead.
    fn wait(&self, offset: u64, len: usize, done: Box<dyn FnOnce(Outcome) + Send>);
}

/// How a wait ended.
pub enum Outcome {
    /// Read again.
    Ready,
    /// The bytes cannot be had.
    Failed(i32),
    /// The content was closed for a successor, who answers what lies in the slots.
    Leave,
}

struct Free {
    slots: Vec<usize>,
    /// The device is not polled, since no slot was free.
    starved: bool,
}

struct Pending {
    slot: usize,
    pid: u32,
    interrupted: bool,
}

/// One device that is being served.
pub struct Device {
    key: u64,
    fuse: OwnedFd,
    slots: Slots,
    content: Arc<dyn Content>,
    free: Mutex<Free>,
    pending: Mutex<HashMap<u64, Pending>>,
    idle: Condvar,
    stopped: AtomicBool,
}

/// The threads, and the devices they serve.
pub struct Pool {
    epoll: OwnedFd,
    devices: Mutex<HashMap<u64, Arc<Device>>>,
    next_key: AtomicU64,
    interrupted: Condvar,
    ended: Box<dyn Fn(u64) + Send + Sync>,
}

impl Pool {
    /// Starts the threads. `ended` hears of devices whose file system is gone.
    pub fn start(ended: Box<dyn Fn(u64) + Send + Sync>) -> std::io::Result<Arc<Self>> {
        let pool = Arc::new(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            devices: Mutex::new(HashMap::new()),
            next_key: AtomicU64::new(1),
            interrupted: Condvar::new(),
            ended,
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..(2 * cores).clamp(2, WORKERS_MAX) {
            let pool = pool.clone();
            std::thread::Builder::new()
                .name("worker".into())
                .spawn(move || pool.work())?;
        }
        let watcher = pool.clone();
        std::thread::Builder::new()
            .name("killwatch".into())
            .spawn(move || watcher.watch_kills())?;
        Ok(pool)
    }

    /// Serves a device: first what a predecessor left in the slots, then what is read. Returns its key.
    pub fn add(
        self: &Arc<Self>,
        fuse: OwnedFd,
        slots: Slots,
        content: Arc<dyn Content>,
    ) -> std::io::Result<u64> {
        let flags = rustix::fs::fcntl_getfl(&fuse)?;
        rustix::fs::fcntl_setfl(&fuse, flags | OFlags::NONBLOCK)?;
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let left: Vec<usize> = (0..COUNT).filter(|slot| slots.len(*slot) != 0).collect();
        let device = Arc::new(Device {
            key,
            fuse,
            content,
            free: Mutex::new(Free {
                slots: (0..COUNT)
                    .rev()
                    .filter(|slot| !left.contains(slot))
                    .collect(),
                starved: left.len() == COUNT,
            }),
            slots,
            pending: Mutex::new(HashMap::new()),
            idle: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        lock(&self.devices).insert(key, device.clone());
        let starved = lock(&device.free).starved;
        let events = if starved {
            epoll::EventFlags::empty()
        } else {
            epoll::EventFlags::IN
        };
        epoll::add(
            &self.epoll,
            &device.fuse,
            epoll::EventData::new_u64(key),
            events | epoll::EventFlags::ONESHOT,
        )?;
        for slot in left {
            self.answer(&device, slot);
        }
        Ok(key)
    }

    /// Stops reading a device. What was read is answered by whoever closes the content, or by a successor.
    pub fn stop(&self, key: u64) -> Option<Arc<Device>> {
        let device = lock(&self.devices).remove(&key)?;
        device.stopped.store(true, Ordering::SeqCst);
        let _ = epoll::delete(&self.epoll, &device.fuse);
        Some(device)
    }

    fn work(self: Arc<Self>) {
        let mut events = Vec::with_capacity(1);
        loop {
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    linux::complain!("epoll_wait: {error}");
                    std::process::abort();
                }
            }
            for event in &events {
                let key = event.data.u64();
                let device = lock(&self.devices).get(&key).cloned();
                if let Some(device) = device {
                    self.take(&device);
                }
            }
        }
    }

    /// Reads one request and answers it. The device is polled again, by any worker, before the answer is made.
    fn take(self: &Arc<Self>, device: &Arc<Device>) {
        let slot = {
            let mut free = lock(&device.free);
            match free.slots.pop() {
                Some(slot) => slot,
                None => {
                    free.starved = true;
                    return;
                }
            }
        };
        if device.stopped.load(Ordering::SeqCst) {
            return self.release(device, slot);
        }
        match device.slots.read_request(slot, device.fuse.as_fd()) {
            Ok(_) => {
                self.poll(device);
                self.answer(device, slot);
            }
            Err(error) => {
                self.release(device, slot);
                match Errno::from_io_error(&error) {
                    // ENOENT: the request was withdrawn meanwhile.
                    Some(Errno::AGAIN | Errno::INTR | Errno::NOENT) => self.poll(device),
                    // No mount is left.
                    Some(Errno::NODEV) => {
                        if self.stop(device.key).is_some() {
                            (self.ended)(device.key);
                        }
                    }
                    _ => {
                        linux::complain!("read of /dev/fuse: {error}");
                        std::thread::sleep(TROUBLE_PAUSE);
                        self.poll(device);
                    }
                }
            }
        }
    }

    fn poll(&self, device: &Device) {
        if !device.stopped.load(Ordering::SeqCst) {
            let events = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
            let _ = epoll::modify(
                &self.epoll,
                &device.fuse,
                epoll::EventData::new_u64(device.key),
                events,
            );
        }
    }

    /// Frees a slot whose request was answered.
    fn release(&self, device: &Device, slot: usize) {
        device.slots.free(slot);
        let mut free = lock(&device.free);
        free.slots.push(slot);
        let starved = std::mem::take(&mut free.starved);
        if free.slots.len() == COUNT {
            device.idle.notify_all();
        }
        drop(free);
        if starved {
            self.poll(device);
        }
    }

    fn answer(self: &Arc<Self>, device: &Arc<Device>, slot: usize) {
        let mut data = [0; fuse::REQUEST_MAX];
        device.slots.copy(slot, &mut data);
        let request = Request::new(&data);
        let unique = request.header.unique;
        let size = device.content.size();
        match request.header.opcode {
            fuse::READ => match request.read() {
                Some((offset, len)) => return self.read(device, slot, &request, offset, len),
                None => device.reply(unique, libc_errno::EIO, &[]),
            },
            fuse::INIT => match request.init().as_ref().and_then(fuse::init) {
                Some((out, settled)) => {
                    device.reply(unique, 0, &out);
                    device.slots.settle(&settled);
                }
                None => device.reply(unique, libc_errno::EPROTO, &[]),
            },
            fuse::GETATTR => device.reply(unique, 0, &fuse::attr(size)),
            fuse::OPEN => device.reply(unique, 0, &fuse::open()),
            fuse::STATFS => device.reply(unique, 0, &fuse::statfs(size)),
            fuse::RELEASE | fuse::DESTROY => device.reply(unique, 0, &[]),
            fuse::FORGET | fuse::BATCH_FORGET => {}
            fuse::INTERRUPT => {
                if let Some(unique) = request.interrupted() {
                    self.interrupt(device, unique);
                }
            }
            _ => device.reply(unique, libc_errno::ENOSYS, &[]),
        }
        self.release(device, slot);
    }

    fn read(
        self: &Arc<Self>,
        device: &Arc<Device>,
        slot: usize,
        request: &Request,
        offset: u64,
        len: u32,
    ) {
        let unique = request.header.unique;
        let left = device.content.size().saturating_sub(offset);
        let len = (u64::from(len).min(left) as usize).min(fetch::READ_MAX);
        if len == 0 {
            device.reply(unique, 0, &[]);
            return self.release(device, slot);
        }
        match device.give(unique, offset, len) {
            Some(()) => self.release(device, slot),
            None => {
                let pending = Pending {
                    slot,
                    pid: request.header.pid,
                    interrupted: false,
                };
                lock(&device.pending).insert(unique, pending);
                self.wait(device, unique, offset, len);
            }
        }
    }

    fn wait(self: &Arc<Self>, device: &Arc<Device>, unique: u64, offset: u64, len: usize) {
        let pool = self.clone();
        let waiting = device.clone();
        let done = Box::new(move |outcome| pool.waited(&waiting, unique, offset, len, outcome));
        device.content.wait(offset, len, done);
    }

    fn waited(
        self: &Arc<Self>,
        device: &Arc<Device>,
        unique: u64,
        offset: u64,
        len: usize,
        outcome: Outcome,
    ) {
        let claim = || lock(&device.pending).remove(&unique);
        match outcome {
            Outcome::Leave => {}
            Outcome::Failed(errno) => {
                if let Some(pending) = claim() {
                    device.reply(unique, errno, &[]);
                    self.release(device, pending.slot);
                }
            }
            Outcome::Ready => {
                // Claimed before it is answered, so that a killed reader is not answered in between.
                let Some(pending) = claim() else { return };
                match device.give(unique, offset, len) {
                    Some(()) => self.release(device, pending.slot),
                    None => {
                        lock(&device.pending).insert(unique, pending);
                        self.wait(device, unique, offset, len);
                    }
                }
            }
        }
    }

    /// The kernel says that the reader of `unique` got a signal. Most signals do not end a read of a regular file, and
    /// an answer would reach the program as EIO or SIGBUS; only a reader that is being killed is let go (BLOCKD-READ-5).
    fn interrupt(&self, device: &Device, unique: u64) {
        if let Some(pending) = lock(&device.pending).get_mut(&unique) {
            pending.interrupted = true;
        }
        // The watcher looks and begins to wait under this lock: behind it, it waits.
        drop(lock(&self.devices));
        self.interrupted.notify_all();
    }

    fn watch_kills(self: Arc<Self>) {
        loop {
            let devices: Vec<Arc<Device>> = {
                let devices = lock(&self.devices);
                let any = devices.values().any(|device| {
                    lock(&device.pending)
                        .values()
                        .any(|pending| pending.interrupted)
                });
                let wait = if any {
                    KILL_POLL
                } else {
                    Duration::from_secs(3600)
                };
                let waited = self.interrupted.wait_timeout(devices, wait);
                let (devices, _) = waited.unwrap_or_else(PoisonError::into_inner);
                devices.values().cloned().collect()
            };
            for device in devices {
                let killed: Vec<(u64, Pending)> = {
                    let mut pending = lock(&device.pending);
                    let dying: Vec<u64> = pending
                        .iter()
                        .filter(|(_, pending)| pending.interrupted && being_killed(pending.pid))
                        .map(|(unique, _)| *unique)
                        .collect();
                    dying
                        .into_iter()
                        .filter_map(|unique| pending.remove_entry(&unique))
                        .collect()
                };
                for (unique, pending) in killed {
                    device.reply(unique, libc_errno::EINTR, &[]);
                    self.release(&device, pending.slot);
                }
            }
        }
    }
}

/// Whether SIGKILL is pending for a thread (proc_pid_status(5)), or it is gone.
fn being_killed(pid: u32) -> bool {
    const SIGKILL_BIT: u64 = 1 << 8;
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    status
        .lines()
        .filter_map(|line| {
            line.strip_prefix("SigPnd:")
                .or_else(|| line.strip_prefix("ShdPnd:"))
        })
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & SIGKILL_BIT != 0)
}

impl Device {
    /// Answers a READ if the bytes are present or cannot be had; None when they must be waited for.
    fn give(&self, unique: u64, offset: u64, len: usize) -> Option<()> {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            match self.content.read(offset, &mut buffer[..len]) {
                Ok(true) => {
                    self.reply(unique, 0, &buffer[..len]);
                    Some(())
                }
                Ok(false) => None,
                Err(errno) => {
                    self.reply(unique, errno, &[]);
                    Some(())
                }
            }
        })
    }

    fn reply(&self, unique: u64, errno: i32, data: &[u8]) {
        let header = fuse::out_header(unique, errno, data.len());
        let parts = [IoSlice::new(&header), IoSlice::new(data)];
        let parts = if data.is_empty() {
            &parts[..1]
        } else {
            &parts[..]
        };
        match rustix::io::writev(&self.fuse, parts) {
            // ENOENT: answered already, or the reader is gone. ENODEV: the mount is gone.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(error) => linux::complain!("answer to request {unique}: {error}"),
        }
    }

    /// Waits until every request that was read is answered; false when `timeout` is over first.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let free = lock(&self.free);
        let busy = |free: &mut Free| free.slots.len() < COUNT;
        let waited = self.idle.wait_timeout_while(free, timeout, busy);
        let (free, _) = waited.unwrap_or_else(PoisonError::into_inner);
        free.slots.len() == COUNT
    }
}

/// The few errno values of answers, as rustix names them.
pub mod libc_errno {
    use rustix::io::Errno;
    /// Input/output error.
    pub const EIO: i32 = Errno::IO.raw_os_error();
    /// Interrupted.
    pub const EINTR: i32 = Errno::INTR.raw_os_error();
    /// Not implemented.
    pub const ENOSYS: i32 = Errno::NOSYS.raw_os_error();
    /// Another protocol.
    pub const EPROTO: i32 = Errno::PROTO.raw_os_error();
}
