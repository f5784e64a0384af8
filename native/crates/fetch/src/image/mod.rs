//! One image: its index, its sources, its kept units, and the threads that bring what is missing.
//!
//! A reader asks for a range; what is present is served at once, what is missing becomes a *flight*, one for each
//! unit however many wait for it. A few threads land the flights: demand first, neighbours in the pack along with it
//! in the same request, the background filler when nobody waits. One more thread, the keeper, watches deadlines and
//! makes what was stored durable in groups.

mod fetcher;
mod index;
mod keeper;
mod land;
mod state;
#[cfg(test)]
mod tests;

use crate::decode::Decoders;
use crate::error::{Code, Error, Result};
use crate::index_files::IndexFiles;
use crate::keep::Keep;
use crate::layout::{self, Page, PageList, BLOCK};
use crate::locate::Supplier;
use crate::plan::{Done, Observer, Plan, Status, READ_MAX};
use crate::presence::Kept;
use crate::source::{Source, SourceSpec};
use crate::sync::{lock, read, write};
use fetcher::FETCHERS_MAX;
use index::indexed;
use state::{Job, State, Unit, Waiter};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Condvar, Mutex, RwLock};
use std::time::Instant;

struct Inner {
    plan: Plan,
    observer: Arc<dyn Observer>,
    list: PageList,
    pages: Vec<Mutex<Option<Arc<Page>>>>,
    suppliers: RwLock<Arc<Vec<Supplier>>>,
    /// Bytes and requests of sources that were replaced.
    retired: [AtomicU64; 2],
    files: IndexFiles,
    keep: Keep,
    decoders: Decoders,
    state: Mutex<State>,
    work: Condvar,
    tick: Condvar,
    ended: Condvar,
    /// Readers hold it while they look and copy, eviction while it takes away.
    gate: RwLock<()>,
    reads: AtomicU64,
    errors: AtomicU64,
    closed: AtomicBool,
}

/// An image that is open for reading.
pub struct Image {
    inner: Arc<Inner>,
}

impl Image {
    /// Opens an image: takes the page list from the directory or a source, verifies it, and begins no fetch of units.
    ///
    /// The directory is locked only when the page list is there, and not at all once `given_up` is set: who no longer
    /// waits for a source that does not answer leaves nothing behind that keeps others out.
    pub fn open(plan: Plan, observer: Arc<dyn Observer>, given_up: &AtomicBool) -> Result<Self> {
        if plan.pages != layout::pages_of(plan.units) || plan.units > layout::UNITS_MAX {
            return Err(Error::new(
                Code::BadPlan,
                "count of pages does not fit the count of units",
            ));
        }
        let suppliers = suppliers(&plan.sources, &plan)?;
        let files = IndexFiles::of(plan.dir.as_deref());
        let size = PageList::size(plan.pages);
        let data = indexed(
            &files,
            &suppliers,
            &plan.root,
            size,
            plan.fetch_timeout,
            observer.as_ref(),
        )
        .map_err(|(error, _)| error)?;
        let list = PageList::parse(&data)?;
        if (list.units, list.blocks) != (plan.units, plan.blocks) {
            return Err(Error::new(
                Code::BadIndex,
                "page list: differs from the plan",
            ));
        }
        if given_up.load(Ordering::SeqCst) {
            return Err(Error::new(Code::Closed, "given up"));
        }
        let keep = match &plan.dir {
            Some(dir) => Keep::on_disk(dir, plan.units, plan.blocks, &plan.root)?,
            None => Keep::in_memory(),
        };
        let units: Vec<Unit> = (0..plan.units)
            .map(|unit| {
                if keep.has(unit) {
                    Unit::Kept
                } else {
                    Unit::Absent
                }
            })
            .collect();
        let state = State::new(units, keep.kept() == Kept::Full);
        if keep.kept() != Kept::InUse && !state.full {
            keep.set_kept(Kept::InUse)?;
        }
        let inner = Arc::new(Inner {
            pages: list.pages.iter().map(|_| Mutex::new(None)).collect(),
            plan,
            observer,
            list,
            suppliers: RwLock::new(Arc::new(suppliers)),
            retired: Default::default(),
            files,
            keep,
            decoders: Decoders::new(FETCHERS_MAX),
            state: Mutex::new(state),
            work: Condvar::new(),
            tick: Condvar::new(),
            ended: Condvar::new(),
            gate: RwLock::new(()),
            reads: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        let keeper = inner.clone();
        std::thread::Builder::new()
            .name("keeper".into())
            .spawn(move || keeper.keeper())
            .map_err(|error| Error::local("thread", error))?;
        Ok(Self { inner })
    }

    /// Size of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.inner.size()
    }

    /// Reads a range if all of it is present, else returns false and touches nothing else.
    pub fn read_present(&self, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        self.inner.read_present(offset, buffer)
    }

    /// Calls `done` when the range is present, or when it could not be had by `deadline`.
    pub fn request(&self, offset: u64, len: usize, deadline: Instant, done: Done) {
        self.inner.request(offset, len, deadline, done);
    }

    /// The same, answered through a channel.
    pub fn request_channel(
        &self,
        offset: u64,
        len: usize,
        deadline: Instant,
    ) -> mpsc::Receiver<Result<()>> {
        let (send, receive) = mpsc::sync_channel(1);
        self.request(
            offset,
            len,
            deadline,
            Box::new(move |outcome| {
                let _ = send.send(outcome);
            }),
        );
        receive
    }

    /// Reads a range, fetching what is missing.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8], deadline: Instant) -> Result<()> {
        while !self.read_present(offset, buffer)? {
            self.request_channel(offset, buffer.len(), deadline)
                .recv()
                .map_err(|_| Error::new(Code::Closed, "the image was closed"))??;
        }
        Ok(())
    }

    /// Fetches every missing unit in the background, then verifies the whole.
    pub fn fill(&self) -> Result<()> {
        if self.inner.plan.keep_max != 0 && self.inner.plan.keep_max < self.inner.size() {
            return Err(Error::new(
                Code::BadPlan,
                "the image is larger than what may be kept",
            ));
        }
        let full = {
            let mut state = lock(&self.inner.state);
            state.fill = true;
            state.fill_after = None;
            state.full
        };
        if full {
            self.inner.observer.full();
        } else {
            self.inner.wake(1);
            self.inner.tick.notify_all();
        }
        Ok(())
    }

    /// Counters.
    pub fn status(&self) -> Status {
        let (present, full) = {
            let state = lock(&self.inner.state);
            (state.present, state.full)
        };
        let suppliers = self.inner.suppliers();
        let sum = |retired: usize, count: fn(&Source) -> u64| {
            let now: u64 = suppliers
                .iter()
                .map(|supplier| count(&supplier.source))
                .sum();
            now + self.inner.retired[retired].load(Ordering::Relaxed)
        };
        Status {
            units: self.inner.plan.units,
            units_present: present,
            blob_bytes: self.size(),
            bytes_fetched: sum(0, Source::bytes),
            requests: sum(1, Source::requests),
            reads: self.inner.reads.load(Ordering::Relaxed),
            errors: self.inner.errors.load(Ordering::Relaxed),
            full,
        }
    }

    /// Takes other sources from now on, unless they are the same.
    pub fn set_sources(&self, specs: &[SourceSpec]) -> Result<()> {
        let old = self.inner.suppliers();
        if old.iter().map(|supplier| supplier.source.spec()).eq(specs) {
            return Ok(());
        }
        let new = suppliers(specs, &self.inner.plan)?;
        *write(&self.inner.suppliers) = Arc::new(new);
        for supplier in old.iter() {
            self.inner.retired[0].fetch_add(supplier.source.bytes(), Ordering::Relaxed);
            self.inner.retired[1].fetch_add(supplier.source.requests(), Ordering::Relaxed);
        }
        {
            let mut state = lock(&self.inner.state);
            state.retry_at = None;
            state.fill_after = None;
        }
        self.inner.work.notify_all();
        self.inner.tick.notify_all();
        Ok(())
    }

    /// Ends the threads, makes durable what is stored and marks the presence file clean. Waiters hear `Closed`.
    pub fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = self.inner.close();
    }
}

fn suppliers(specs: &[SourceSpec], plan: &Plan) -> Result<Vec<Supplier>> {
    specs
        .iter()
        .map(|spec| {
            Ok(Supplier::new(
                Source::new(spec.clone())?,
                &plan.root,
                plan.units,
            ))
        })
        .collect()
}

fn call(done: Vec<Done>, outcome: &Result<()>) {
    for one in done {
        one(outcome.clone());
    }
}

impl Inner {
    fn size(&self) -> u64 {
        u64::from(self.plan.blocks) * BLOCK
    }

    fn suppliers(&self) -> Arc<Vec<Supplier>> {
        read(&self.suppliers).clone()
    }

    fn read_present(&self, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        self.check(offset, buffer.len())?;
        let Some(spans) = self.known_spans(offset, buffer.len()) else {
            return Ok(false);
        };
        let _gate = read(&self.gate);
        {
            let mut state = lock(&self.state);
            if spans
                .iter()
                .any(|span| state.units[span.unit as usize] < Unit::Ready)
            {
                return Ok(false);
            }
            if state.read_at.replace(Instant::now()).is_none() {
                self.tick.notify_all();
            }
        }
        let whole = self.keep.copy(&spans, offset, buffer)?;
        if whole {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        Ok(whole)
    }

    fn request(self: &Arc<Self>, offset: u64, len: usize, deadline: Instant, done: Done) {
        if let Err(error) = self.check(offset, len) {
            return done(Err(error));
        }
        let spans = self.known_spans(offset, len);
        let mut state = lock(&self.state);
        if state.closing {
            drop(state);
            return done(Err(Error::new(Code::Closed, "the image was closed")));
        }
        let waiter = Waiter {
            left: 0,
            offset,
            len,
            unit: None,
            deadline,
            done,
        };
        let id = state.next_waiter;
        state.next_waiter += 1;
        state.waiters.insert(id, waiter);
        let jobs = match spans {
            Some(spans) => match state.wait_for(id, &spans) {
                Ok(jobs) => jobs,
                Err(done) => {
                    drop(state);
                    return done(Ok(()));
                }
            },
            None => {
                state.demand.push_back(Job::Range(id));
                1
            }
        };
        let early = deadline < state.keeper_until;
        drop(state);
        if early {
            self.tick.notify_all();
        }
        self.wake(jobs);
    }
}
