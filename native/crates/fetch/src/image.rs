//! One image: its index, its sources, its kept units, and the threads that bring what is missing.
//!
//! A reader asks for a range; what is present is served at once, what is missing becomes a *flight*, one for each
//! unit however many wait for it. A few threads land the flights: demand first, neighbours in the pack along with it
//! in the same request, the background filler when nobody waits. One more thread, the keeper, watches deadlines and
//! makes what was stored durable in groups.

use crate::decode::Decoders;
use crate::error::{Code, Error, Result};
use crate::keep::{Keep, Span};
use crate::layout::{self, Hash, Page, PageList, Place, BLOCK, PAGE_UNITS};
use crate::locate::Supplier;
use crate::presence::Kept;
use crate::source::{Source, SourceSpec};
use crate::sync::{lock, read, write};
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Threads that fetch for one image; more only help a link of very long delay.
const FETCHERS_MAX: usize = 8;
/// Fetching threads of the whole process beyond the first of each image.
const FETCHERS_TOTAL_MAX: usize = 64;
/// Of an image's threads, those that may fill in the background.
const FILLERS_MAX: usize = 2;
/// A thread that had nothing to do for this long ends.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// Wire bytes of the largest request: four units that do not shrink.
const REQUEST_MAX: u64 = 1024 * 1024;
/// Wire bytes fetched along with the first demand in a region; doubles with each demand that goes on from there.
const AHEAD_MIN: u64 = 128 * 1024;
/// Regions whose read-ahead is remembered.
const REGIONS_MAX: usize = 64;
/// Stored bytes become durable this long after the first of a group at the latest.
const SYNC_DELAY: Duration = Duration::from_millis(250);
/// Pause after a failure that waiting may cure: first, and longest.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// The filler looks this often whether the readers it gave way to are served.
const FILL_POLL: Duration = Duration::from_millis(20);
/// Pause of the background filler after units that no source has.
const REFILL_DELAY: Duration = Duration::from_secs(30);
/// Time that `close` gives to the keeper, who may be within fdatasync.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// The keeper looks at least this often.
const KEEPER_WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest read: a FUSE request of 256 pages.
pub const READ_MAX: usize = 1024 * 1024;

static FETCHERS_TOTAL: AtomicUsize = AtomicUsize::new(0);

/// What is to be served, and from where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Hash of the page list.
    pub root: Hash,
    /// Pages, units and blocks as the manifest says.
    pub pages: u32,
    /// Units of the image.
    pub units: u32,
    /// Blocks of the blob.
    pub blocks: u32,
    /// Directory of blob, presence and index; None keeps units in memory.
    pub dir: Option<PathBuf>,
    /// Tried in this order.
    pub sources: Vec<SourceSpec>,
    /// Time for one request.
    pub fetch_timeout: Duration,
    /// Most plain bytes kept; 0 is no limit.
    pub keep_max: u64,
}

/// A unit that could not be had, and why.
#[derive(Debug, Clone)]
pub struct UnitFailure {
    /// Number of the unit, or None when the index page that names it is missing.
    pub unit: Option<u32>,
    /// Byte address that was asked for.
    pub address: u64,
    /// The reason.
    pub error: Error,
}

/// Hears what happens to an image. Called from its threads; must not block.
pub trait Observer: Send + Sync {
    /// Somebody waited for a unit and did not get it.
    fn unit_failed(&self, _failure: &UnitFailure) {}
    /// One attempt at one source failed.
    fn source_failed(&self, _error: &Error) {}
    /// Every unit is present and was verified.
    fn full(&self) {}
}

/// An observer that does not listen.
pub struct Silent;

impl Observer for Silent {}

/// Called once with the outcome of a request.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// Counters of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Units of the image.
    pub units: u32,
    /// Units kept, verified in this process or not.
    pub units_present: u32,
    /// Size of the blob.
    pub blob_bytes: u64,
    /// Body bytes received from all sources.
    pub bytes_fetched: u64,
    /// Requests made to all sources.
    pub requests: u64,
    /// Ranges asked for by readers.
    pub reads: u64,
    /// Ranges that failed.
    pub errors: u64,
    /// Every unit was verified in one pass.
    pub full: bool,
}

/// State of one unit, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Absent,
    /// On disk, not hashed yet in this process.
    Kept,
    /// Verified and stored, not durable yet.
    Ready,
    /// Verified, stored and recorded.
    Durable,
}

struct Waiter {
    left: usize,
    offset: u64,
    len: usize,
    unit: Option<u32>,
    deadline: Instant,
    done: Done,
}

#[derive(Default)]
struct Flight {
    waiters: Vec<u64>,
    taken: bool,
}

enum Job {
    /// A demanded unit.
    Unit(u32),
    /// A run that the filler begins.
    Fill(u32),
    /// A range whose index pages are not loaded.
    Range(u64),
    /// The pass over a blob of which every unit is there.
    VerifyAll,
}

struct State {
    units: Vec<Unit>,
    present: u32,
    flights: HashMap<u32, Flight>,
    waiters: HashMap<u64, Waiter>,
    next_waiter: u64,
    demand: VecDeque<Job>,
    regions: VecDeque<(u32, u64)>,
    retry_at: Option<Instant>,
    backoff: Duration,
    last_error: Option<Error>,
    threads: usize,
    idle: usize,
    fill: bool,
    fill_next: u32,
    fill_missed: bool,
    fill_after: Option<Instant>,
    fillers: usize,
    dirty: Vec<u32>,
    dirty_since: Option<Instant>,
    kept_order: VecDeque<Span>,
    kept_bytes: u64,
    verifying: bool,
    full: bool,
    closing: bool,
    keeper: bool,
    keeper_until: Instant,
}

struct Inner {
    plan: Plan,
    observer: Arc<dyn Observer>,
    list: PageList,
    pages: Vec<Mutex<Option<Arc<Page>>>>,
    suppliers: RwLock<Arc<Vec<Supplier>>>,
    /// Bytes and requests of sources that were replaced.
    retired: [AtomicU64; 2],
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
    pub fn open(plan: Plan, observer: Arc<dyn Observer>) -> Result<Self> {
        if plan.pages != layout::pages_of(plan.units) || plan.units > layout::UNITS_MAX {
            return Err(Error::new(
                Code::BadPlan,
                "count of pages does not fit the count of units",
            ));
        }
        let suppliers = suppliers(&plan.sources, &plan)?;
        let keep = match &plan.dir {
            Some(dir) => Keep::on_disk(dir, plan.units, plan.blocks, &plan.root)?,
            None => Keep::in_memory(),
        };
        let size = PageList::size(plan.pages);
        let data = indexed(
            &keep,
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
        let units: Vec<Unit> = (0..plan.units)
            .map(|unit| {
                if keep.has(unit) {
                    Unit::Kept
                } else {
                    Unit::Absent
                }
            })
            .collect();
        let present = units.iter().filter(|unit| **unit != Unit::Absent).count() as u32;
        let full = keep.kept() == Kept::Full && present == plan.units;
        if keep.kept() == Kept::Clean {
            keep.set_kept(Kept::InUse)?;
        }
        let state = State {
            units,
            present,
            flights: HashMap::new(),
            waiters: HashMap::new(),
            next_waiter: 0,
            demand: VecDeque::new(),
            regions: VecDeque::new(),
            retry_at: None,
            backoff: BACKOFF_MIN,
            last_error: None,
            threads: 0,
            idle: 0,
            fill: false,
            fill_next: 0,
            fill_missed: false,
            fill_after: None,
            fillers: 0,
            dirty: Vec::new(),
            dirty_since: None,
            kept_order: VecDeque::new(),
            kept_bytes: 0,
            verifying: false,
            full,
            closing: false,
            keeper: true,
            keeper_until: Instant::now(),
        };
        let inner = Arc::new(Inner {
            pages: list.pages.iter().map(|_| Mutex::new(None)).collect(),
            plan,
            observer,
            list,
            suppliers: RwLock::new(Arc::new(suppliers)),
            retired: Default::default(),
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

    /// Lets the page cache forget a range of the blob that was handed on.
    pub fn drop_cache(&self, offset: u64, len: u64) {
        self.inner.keep.drop_cache(offset, len);
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

/// Whether waiting may cure a failure, beside it.
type Failed = (Error, bool);

/// A page list or index page: from the directory, else from the first source that has it; verified either way.
fn indexed(
    keep: &Keep,
    suppliers: &[Supplier],
    hash: &Hash,
    size: usize,
    timeout: Duration,
    observer: &dyn Observer,
) -> std::result::Result<Vec<u8>, Failed> {
    let name = layout::hex(hash);
    let right = |data: &[u8]| blake3::hash(data).as_bytes() == hash;
    if let Some(data) = keep.index_file(&name, size) {
        if right(&data) {
            return Ok(data);
        }
    }
    let mut failed = (Error::new(Code::Missing, "the plan names no source"), false);
    for supplier in suppliers {
        let deadline = Instant::now() + timeout;
        let answer = supplier
            .source
            .whole(&format!("index/{name}"), size as u64, deadline);
        let error = match answer {
            Ok(data) if right(&data) => {
                keep.keep_index_file(&name, &data);
                return Ok(data);
            }
            Ok(_) => {
                let message = format!("index/{name}: not the bytes that its name says");
                Error::new(Code::Corrupt, message).at(supplier.source.name())
            }
            Err(error) => error,
        };
        observer.source_failed(&error);
        failed = worse(failed, error);
    }
    Err(failed)
}

/// Of two failures the one to report: that which waiting may cure decides whether to wait, the first of its kind what
/// is said.
fn worse(old: Failed, error: Error) -> Failed {
    let retry = error.code.retryable();
    match (old.0.source.is_empty(), old.1, retry) {
        (true, _, _) | (false, false, true) => (error, retry),
        _ => old,
    }
}

impl Inner {
    fn size(&self) -> u64 {
        u64::from(self.plan.blocks) * BLOCK
    }

    fn suppliers(&self) -> Arc<Vec<Supplier>> {
        read(&self.suppliers).clone()
    }

    fn check(&self, offset: u64, len: usize) -> Result<()> {
        let end = offset.checked_add(len as u64);
        if len > READ_MAX || end.is_none_or(|end| end > self.size()) {
            return Err(Error::new(
                Code::Range,
                format!("no {len} bytes at {offset}"),
            ));
        }
        Ok(())
    }

    /// An index page from memory, if it is there.
    fn known_page(&self, number: u32) -> Option<Arc<Page>> {
        self.pages.get(number as usize)?.try_lock().ok()?.clone()
    }

    /// An index page, fetched if need be.
    fn page(&self, number: u32) -> std::result::Result<Arc<Page>, Failed> {
        let mut slot = lock(&self.pages[number as usize]);
        if let Some(page) = slot.as_ref() {
            return Ok(page.clone());
        }
        let size = layout::PAGE_HEAD + layout::PAGE_ENTRY * self.list.count(number) as usize;
        let hash = &self.list.pages[number as usize].hash;
        let timeout = self.plan.fetch_timeout;
        let data = indexed(
            &self.keep,
            &self.suppliers(),
            hash,
            size,
            timeout,
            self.observer.as_ref(),
        )?;
        let page = Page::parse(&data, &self.list, number).map_err(|error| (error, false))?;
        let page = Arc::new(page);
        *slot = Some(page.clone());
        Ok(page)
    }

    /// The units of a range, by pages from `page_of`; None when it has not got one.
    fn spans<E>(
        &self,
        offset: u64,
        len: usize,
        mut page_of: impl FnMut(u32) -> std::result::Result<Option<Arc<Page>>, E>,
    ) -> std::result::Result<Option<Vec<Span>>, E> {
        let mut spans = Vec::new();
        let end = offset + len as u64;
        let mut at = offset;
        while at < end {
            let block = (at / BLOCK) as u32;
            let number = self.list.page_of_block(block);
            let Some(page) = page_of(number)? else {
                return Ok(None);
            };
            let mut slot = page.slot_of_block(block);
            while at < end && slot < page.len.len() {
                let span = span_of(&page, slot);
                at = span.end();
                spans.push(span);
                slot += 1;
            }
        }
        Ok(Some(spans))
    }

    fn known_spans(&self, offset: u64, len: usize) -> Option<Vec<Span>> {
        let known = self.spans::<()>(offset, len, |number| Ok(self.known_page(number)));
        known.ok().flatten()
    }

    fn span(&self, unit: u32) -> Option<Span> {
        let page = self.known_page(unit / PAGE_UNITS)?;
        Some(span_of(&page, (unit % PAGE_UNITS) as usize))
    }

    fn read_present(&self, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        self.check(offset, buffer.len())?;
        let Some(spans) = self.known_spans(offset, buffer.len()) else {
            return Ok(false);
        };
        let _gate = read(&self.gate);
        {
            let state = lock(&self.state);
            if spans
                .iter()
                .any(|span| state.units[span.unit as usize] < Unit::Ready)
            {
                return Ok(false);
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

    /// Sees to it that threads take `jobs` new jobs.
    fn wake(self: &Arc<Self>, jobs: usize) {
        let mut state = lock(&self.state);
        if state.idle > 0 {
            self.work.notify_all();
        }
        let mut wanted = jobs.saturating_sub(state.idle);
        while wanted > 0 && !state.closing && state.threads < FETCHERS_MAX {
            // The first thread of an image is always granted, so that no image starves another.
            let first = state.threads == 0;
            if !first && FETCHERS_TOTAL.load(Ordering::Relaxed) >= FETCHERS_TOTAL_MAX {
                return;
            }
            FETCHERS_TOTAL.fetch_add(1, Ordering::Relaxed);
            state.threads += 1;
            let inner = self.clone();
            let spawned = std::thread::Builder::new()
                .name("fetcher".into())
                .spawn(move || inner.fetcher());
            if let Err(error) = spawned {
                FETCHERS_TOTAL.fetch_sub(1, Ordering::Relaxed);
                state.threads -= 1;
                // The keeper fails what waits when its time is over; this says why.
                state.last_error = Some(Error::local("thread", error));
                return;
            }
            wanted -= 1;
        }
    }

    // ---- fetching threads ---------------------------------------------------------------------------------------

    fn fetcher(self: Arc<Self>) {
        while let Some(job) = self.next_job() {
            let filling = matches!(job, Job::Fill(_));
            match job {
                Job::Unit(unit) => self.fetch_unit(unit, false),
                Job::Fill(unit) => self.fetch_unit(unit, true),
                Job::Range(waiter) => self.map_range(waiter),
                Job::VerifyAll => self.verify_all(),
            }
            if filling {
                lock(&self.state).fillers -= 1;
            }
        }
        FETCHERS_TOTAL.fetch_sub(1, Ordering::Relaxed);
    }

    /// Waits for a job; None when this thread is not needed any more, which it has then counted.
    fn next_job(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        let idle_until = Instant::now() + IDLE_MAX;
        loop {
            if state.closing {
                state.threads -= 1;
                return None;
            }
            let now = Instant::now();
            let mut wake_at = idle_until;
            match state.retry_at {
                Some(at) if at > now => wake_at = at,
                _ => {
                    state.retry_at = None;
                    if let Some(job) = state.demand_job() {
                        return Some(job);
                    }
                    if let Some(job) = state.fill_job(now) {
                        return Some(job);
                    }
                }
            }
            if state.filling() && state.fillers < FILLERS_MAX && state.retry_at.is_none() {
                wake_at = wake_at.min(now + FILL_POLL);
            } else if now >= idle_until && state.demand.is_empty() {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            let wait = wake_at.saturating_duration_since(now);
            let (guard, _) = self
                .work
                .wait_timeout(state, wait)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
        }
    }

    fn map_range(self: &Arc<Self>, id: u64) {
        let Some((offset, len)) = lock(&self.state)
            .waiters
            .get(&id)
            .map(|waiter| (waiter.offset, waiter.len))
        else {
            return;
        };
        match self.spans(offset, len, |number| self.page(number).map(Some)) {
            Ok(spans) => {
                let mut state = lock(&self.state);
                state.recover();
                if !state.waiters.contains_key(&id) {
                    return;
                }
                match state.wait_for(id, &spans.unwrap_or_default()) {
                    Ok(jobs) => {
                        drop(state);
                        // This thread takes one of them itself.
                        self.wake(jobs.saturating_sub(1));
                    }
                    Err(done) => {
                        drop(state);
                        done(Ok(()));
                    }
                }
            }
            Err((error, true)) => {
                let mut state = lock(&self.state);
                if state.waiters.contains_key(&id) {
                    state.demand.push_front(Job::Range(id));
                    state.back_off(error);
                }
            }
            Err((error, false)) => {
                let waiter = lock(&self.state).waiters.remove(&id);
                if let Some(waiter) = waiter {
                    self.fail_waiters(vec![waiter], &error, None);
                }
            }
        }
    }

    /// Brings one unit, and its neighbours with it.
    fn fetch_unit(&self, unit: u32, fill: bool) {
        let page = match self.page(unit / PAGE_UNITS) {
            Ok(page) => page,
            Err((error, retry)) => return self.unit_failed(unit, error, retry, fill),
        };
        let slot = (unit % PAGE_UNITS) as usize;
        let span = span_of(&page, slot);
        {
            let mut state = lock(&self.state);
            match state.units[unit as usize] {
                Unit::Ready | Unit::Durable => {
                    let done = state.land(unit);
                    drop(state);
                    return call(done, &Ok(()));
                }
                Unit::Kept | Unit::Absent => {}
            }
        }
        match self.recall(&span, &page.hash[slot]) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => return self.unit_failed(unit, error, false, fill),
        }
        let mut failed = (Error::new(Code::Missing, "the plan names no source"), false);
        for supplier in self.suppliers().iter() {
            match self.fetch_from(supplier, unit, &page, fill) {
                Ok(()) => return,
                Err(error) => {
                    if matches!(error.code, Code::NoSpace | Code::Local) {
                        return self.unit_failed(unit, error, false, fill);
                    }
                    self.observer.source_failed(&error);
                    failed = worse(failed, error);
                }
            }
            if self.closed.load(Ordering::Relaxed) {
                break;
            }
        }
        self.unit_failed(unit, failed.0, failed.1, fill);
    }

    /// Verifies a unit that an earlier process kept; false if it must be fetched.
    fn recall(&self, span: &Span, hash: &Hash) -> Result<bool> {
        if lock(&self.state).units[span.unit as usize] != Unit::Kept {
            return Ok(false);
        }
        let mut plain = vec![0; span.len as usize];
        let read = self.keep.recall(span, &mut plain);
        if read.is_ok() && blake3::hash(&plain).as_bytes() == hash {
            call(self.landed(span, Unit::Durable), &Ok(()));
            return Ok(true);
        }
        let mut state = lock(&self.state);
        state.units[span.unit as usize] = Unit::Absent;
        state.present -= 1;
        state.full = false;
        drop(state);
        let _gate = read(&self.gate);
        self.open_still()?;
        if self.keep.kept() == Kept::Full {
            self.keep.set_kept(Kept::InUse)?;
        }
        self.keep.discard(&[*span], false)?;
        Ok(false)
    }

    fn fetch_from(&self, supplier: &Supplier, unit: u32, page: &Page, fill: bool) -> Result<()> {
        let mut retried = false;
        loop {
            let began = Instant::now();
            let deadline = began + self.plan.fetch_timeout;
            let outcome = supplier
                .places(unit / PAGE_UNITS, page, deadline)
                .and_then(|places| {
                    self.fetch_batch(
                        supplier,
                        unit,
                        page,
                        &places.packs,
                        &places.places,
                        fill,
                        deadline,
                    )
                });
            match outcome {
                // A locator may be older than the store: ask once more before the source is given up.
                Err(error)
                    if !error.code.retryable()
                        && !matches!(error.code, Code::NoSpace | Code::Local) =>
                {
                    if retried || !supplier.forget(began) {
                        return Err(error);
                    }
                    retried = true;
                }
                other => return other,
            }
        }
    }

    /// One range request: `unit` first, then neighbours that lie behind it in the same pack.
    #[allow(clippy::too_many_arguments)]
    fn fetch_batch(
        &self,
        supplier: &Supplier,
        unit: u32,
        page: &Page,
        packs: &[Hash],
        places: &[Place],
        fill: bool,
        deadline: Instant,
    ) -> Result<()> {
        let first = places[(unit % PAGE_UNITS) as usize];
        let mut batch = vec![(span_of(page, (unit % PAGE_UNITS) as usize), first)];
        let mut wire = u64::from(first.wire_len);
        {
            let mut state = lock(&self.state);
            let ahead = if fill { REQUEST_MAX } else { state.ahead(unit) };
            let mut spent = 0;
            for next in unit + 1..self.plan.units {
                let slot = (next % PAGE_UNITS) as usize;
                let (span, place, pack) = if next / PAGE_UNITS == unit / PAGE_UNITS {
                    (
                        span_of(page, slot),
                        places[slot],
                        packs[places[slot].pack as usize],
                    )
                } else {
                    let number = next / PAGE_UNITS;
                    match (self.known_page(number), supplier.known(number)) {
                        (Some(page), Some(other)) => {
                            let place = other.places[slot];
                            (
                                span_of(&page, slot),
                                place,
                                other.packs[place.pack as usize],
                            )
                        }
                        _ => break,
                    }
                };
                let follows = u64::from(place.offset) == u64::from(first.offset) + wire;
                let size = u64::from(place.wire_len);
                if pack != packs[first.pack as usize] || !follows || wire + size > REQUEST_MAX {
                    break;
                }
                let flight = state.flights.get(&next);
                if state.units[next as usize] != Unit::Absent
                    || flight.is_some_and(|flight| flight.taken)
                {
                    break;
                }
                let demanded = flight.is_some();
                if !demanded && spent + size > ahead {
                    break;
                }
                if !demanded {
                    spent += size;
                }
                state.flights.entry(next).or_default().taken = true;
                wire += size;
                batch.push((span, place));
            }
            state.regions_note(unit + batch.len() as u32, ahead);
        }
        let pack = layout::hex(&packs[first.pack as usize]);
        let outcome = self.land_batch(supplier, &batch, &pack, wire, page, deadline);
        if outcome.is_ok() {
            lock(&self.state).recover();
        }
        outcome
    }

    /// Reads and lands the units of a batch; the outcome is that of the first one. All other flights are let go.
    fn land_batch(
        &self,
        supplier: &Supplier,
        batch: &[(Span, Place)],
        pack: &str,
        wire: u64,
        page: &Page,
        deadline: Instant,
    ) -> Result<()> {
        let path = format!("pack/{pack}");
        let mut landed = 0;
        let mut first: Option<Error> = None;
        let stream = (|| {
            let mut body =
                supplier
                    .source
                    .open_range(&path, u64::from(batch[0].1.offset), wire, deadline)?;
            let mut buffer = Vec::new();
            for (i, (span, place)) in batch.iter().enumerate() {
                buffer.resize(place.wire_len as usize, 0);
                body.read_exact(&mut buffer)?;
                landed = i + 1;
                match self.land(span, place, &buffer, page) {
                    Ok(()) => {}
                    Err(error) if i == 0 => first = Some(error.at(supplier.source.name())),
                    Err(_) => self.release(span.unit),
                }
                if self.closed.load(Ordering::Relaxed) {
                    return Err(Error::new(Code::Closed, "the image was closed"));
                }
            }
            body.finish()
        })();
        for (span, _) in &batch[landed.max(1)..] {
            self.release(span.unit);
        }
        match (landed, first, stream) {
            (0, _, Err(error)) => Err(error),
            (_, Some(error), _) => Err(error),
            (_, None, Err(error)) => {
                // The first unit is there; that the rest was cut short is worth a word.
                self.observer.source_failed(&error);
                Ok(())
            }
            (_, None, Ok(())) => Ok(()),
        }
    }

    /// Decodes, verifies and stores one unit.
    fn land(&self, span: &Span, place: &Place, wire: &[u8], page: &Page) -> Result<()> {
        let other;
        let hash = if span.unit / PAGE_UNITS == page.first_unit / PAGE_UNITS {
            &page.hash[(span.unit % PAGE_UNITS) as usize]
        } else {
            other = self
                .known_page(span.unit / PAGE_UNITS)
                .ok_or_else(|| Error::new(Code::BadIndex, "index page gone"))?;
            &other.hash[(span.unit % PAGE_UNITS) as usize]
        };
        let mut plain = Vec::new();
        let plain = if place.raw {
            wire
        } else {
            self.decoders.decode(wire, span.len as usize, &mut plain)?;
            &plain
        };
        if blake3::hash(plain).as_bytes() != hash {
            let message = format!("unit {}: not the bytes that the index names", span.unit);
            return Err(Error::new(Code::Corrupt, message));
        }
        {
            // Callbacks read, and a reader takes the gate: they are called behind it.
            let gate = read(&self.gate);
            self.open_still()?;
            self.keep.store(span, plain)?;
            let done = self.landed(span, Unit::Ready);
            drop(gate);
            call(done, &Ok(()));
        }
        self.evict();
        Ok(())
    }

    /// Takes note that a unit is stored; gives the callbacks of those who waited for it alone.
    #[must_use]
    fn landed(&self, span: &Span, as_unit: Unit) -> Vec<Done> {
        let mut state = lock(&self.state);
        let unit = &mut state.units[span.unit as usize];
        let was = *unit;
        *unit = as_unit;
        if was == Unit::Absent {
            state.present += 1;
        }
        if was < Unit::Ready && self.plan.keep_max != 0 {
            state.kept_order.push_back(*span);
            state.kept_bytes += span.end() - span.address;
        }
        if as_unit == Unit::Ready {
            state.dirty.push(span.unit);
            if state.dirty_since.is_none() {
                state.dirty_since = Some(Instant::now());
                self.tick.notify_all();
            }
        }
        state.land(span.unit)
    }

    /// Keeps within the limit: what was stored first goes first.
    fn evict(&self) {
        let over = |state: &State| self.plan.keep_max != 0 && state.kept_bytes > self.plan.keep_max;
        if !over(&lock(&self.state)) {
            return;
        }
        let _gate = write(&self.gate);
        if self.open_still().is_err() {
            return;
        }
        let mut victims = Vec::new();
        {
            let mut state = lock(&self.state);
            // The newest stays, whatever the limit, or nobody could ever read it.
            while over(&state) && state.kept_order.len() > 1 {
                let Some(span) = state.kept_order.pop_front() else {
                    break;
                };
                state.kept_bytes -= span.end() - span.address;
                state.units[span.unit as usize] = Unit::Absent;
                state.present -= 1;
                state.full = false;
                victims.push(span);
            }
        }
        if let Err(error) = self.keep.discard(&victims, true) {
            lock(&self.state).last_error = Some(error);
        }
    }

    /// Lets go of a neighbour that did not come: who waits for it gets a fetch of its own.
    fn release(&self, unit: u32) {
        let mut state = lock(&self.state);
        let alive = state.alive(unit);
        match state.flights.get_mut(&unit) {
            Some(flight) if alive => {
                flight.taken = false;
                state.demand.push_front(Job::Unit(unit));
                drop(state);
                self.work.notify_all();
            }
            _ => {
                state.flights.remove(&unit);
            }
        }
    }

    fn unit_failed(&self, unit: u32, error: Error, retry: bool, fill: bool) {
        let mut state = lock(&self.state);
        let alive = state.alive(unit);
        if error.code == Code::Closed || state.closing {
            state.flights.remove(&unit);
            return;
        }
        if retry {
            state.back_off(error);
            if alive {
                if let Some(flight) = state.flights.get_mut(&unit) {
                    flight.taken = false;
                }
                state.demand.push_front(Job::Unit(unit));
            } else {
                state.flights.remove(&unit);
                if fill {
                    state.fill_next = state.fill_next.min(unit);
                }
            }
            return;
        }
        if fill {
            state.fill_missed = true;
        }
        let flight = state.flights.remove(&unit).unwrap_or_default();
        let waiters: Vec<Waiter> = flight
            .waiters
            .iter()
            .filter_map(|id| state.waiters.remove(id))
            .collect();
        drop(state);
        if waiters.is_empty() {
            if fill {
                let address = self.span(unit).map_or(0, |span| span.address);
                self.observer.unit_failed(&UnitFailure {
                    unit: Some(unit),
                    address,
                    error,
                });
            }
            return;
        }
        self.fail_waiters(waiters, &error, Some(unit));
    }

    fn fail_waiters(&self, waiters: Vec<Waiter>, error: &Error, unit: Option<u32>) {
        let address = waiters.first().map_or(0, |waiter| waiter.offset);
        let address = unit
            .and_then(|unit| self.span(unit))
            .map_or(address, |span| span.address);
        self.observer.unit_failed(&UnitFailure {
            unit,
            address,
            error: error.clone(),
        });
        self.errors
            .fetch_add(waiters.len() as u64, Ordering::Relaxed);
        let done = waiters.into_iter().map(|waiter| waiter.done).collect();
        call(done, &Err(error.clone()));
    }

    /// Hashes the whole blob, and says so when every unit is right.
    fn verify_all(&self) {
        let outcome = self.wrong_units();
        let gate = write(&self.gate);
        let mut state = lock(&self.state);
        state.verifying = false;
        let wrong = match outcome {
            Ok(wrong) => wrong,
            Err(error) => {
                state.last_error = Some(error);
                return;
            }
        };
        for span in &wrong {
            state.units[span.unit as usize] = Unit::Absent;
            state.present -= 1;
        }
        if wrong.is_empty() && state.present == self.plan.units {
            for unit in &mut state.units {
                *unit = Unit::Durable;
            }
        }
        let whole = state.present == self.plan.units;
        state.fill_next = 0;
        drop(state);
        drop(gate);
        let gate = read(&self.gate);
        let kept = self.open_still().and_then(|()| {
            if whole {
                self.keep.sync()?;
                self.keep.set_kept(Kept::Full)
            } else {
                self.keep.discard(&wrong, false)
            }
        });
        drop(gate);
        let mut state = lock(&self.state);
        state.full = whole && kept.is_ok();
        state.last_error = kept.err();
        let full = state.full;
        drop(state);
        if full {
            self.observer.full();
        }
    }

    /// The units of which the blob has other bytes. Padding that is not zero is made so.
    fn wrong_units(&self) -> Result<Vec<Span>> {
        let mut wrong = Vec::new();
        let mut plain = Vec::new();
        for number in 0..self.list.pages.len() as u32 {
            let page = self.page(number).map_err(|(error, _)| error)?;
            for slot in 0..page.len.len() {
                self.open_still()?;
                let span = span_of(&page, slot);
                plain.resize((span.end() - span.address) as usize, 0);
                let whole = Span {
                    len: plain.len() as u32,
                    ..span
                };
                let read = self.keep.recall(&whole, &mut plain);
                let (data, pad) = plain.split_at(span.len as usize);
                if read.is_err() || blake3::hash(data).as_bytes() != &page.hash[slot] {
                    wrong.push(span);
                } else if pad.iter().any(|byte| *byte != 0) {
                    let at = Span {
                        address: span.address + u64::from(span.len),
                        ..span
                    };
                    let _gate = crate::sync::read(&self.gate);
                    self.open_still()?;
                    self.keep.store(&at, &vec![0; pad.len()])?;
                }
            }
        }
        Ok(wrong)
    }

    // ---- keeper -------------------------------------------------------------------------------------------------

    fn keeper(self: Arc<Self>) {
        loop {
            let mut late = Vec::new();
            let mut sync = false;
            {
                let mut state = lock(&self.state);
                let now = Instant::now();
                let overdue: Vec<u64> = state
                    .waiters
                    .iter()
                    .filter(|(_, waiter)| waiter.deadline <= now)
                    .map(|(id, _)| *id)
                    .collect();
                late.extend(overdue.iter().filter_map(|id| state.waiters.remove(id)));
                let sync_at = state.dirty_since.map(|since| since + SYNC_DELAY);
                if sync_at.is_some_and(|at| at <= now || state.closing) {
                    sync = true;
                } else if state.closing {
                    state.keeper = false;
                    self.ended.notify_all();
                    return;
                }
                if late.is_empty() && !sync {
                    if self.verify_due(&state) {
                        state.verifying = true;
                        state.demand.push_back(Job::VerifyAll);
                        drop(state);
                        self.wake(1);
                        continue;
                    }
                    let fill_at = if state.fill { state.fill_after } else { None };
                    if fill_at.is_some_and(|at| at <= now) {
                        state.fill_after = None;
                        drop(state);
                        self.wake(1);
                        continue;
                    }
                    let next = state.waiters.values().map(|waiter| waiter.deadline).min();
                    let next = [next, sync_at, fill_at].into_iter().flatten().min();
                    let wait = next.map_or(KEEPER_WAIT_MAX, |next| {
                        next.saturating_duration_since(now)
                    });
                    state.keeper_until = now + wait;
                    drop(
                        self.tick
                            .wait_timeout(state, wait)
                            .unwrap_or_else(PoisonError::into_inner),
                    );
                    continue;
                }
            }
            for waiter in late {
                let why = lock(&self.state).last_error.clone();
                let mut error = Error::new(Code::Deadline, "no source answered in time");
                if let Some(why) = why {
                    error.message = format!("{}: {}", error.message, why.message);
                    error.source = why.source;
                }
                let unit = waiter.unit;
                self.fail_waiters(vec![waiter], &error, unit);
            }
            if sync {
                self.sync();
            }
        }
    }

    fn verify_due(&self, state: &State) -> bool {
        let whole = state.present == self.plan.units && state.dirty.is_empty();
        let on_disk = matches!(self.keep, Keep::Disk(_));
        on_disk
            && whole
            && !state.full
            && !state.verifying
            && !state.closing
            && state.last_error.is_none()
    }

    /// Makes what was stored durable, then records it.
    fn sync(&self) {
        let dirty = {
            let mut state = lock(&self.state);
            state.dirty_since = None;
            std::mem::take(&mut state.dirty)
        };
        let synced = self.keep.sync();
        let _gate = read(&self.gate);
        let mut state = lock(&self.state);
        let ready: Vec<u32> = dirty
            .into_iter()
            .filter(|unit| state.units[*unit as usize] == Unit::Ready)
            .collect();
        let recorded = match synced {
            Ok(()) => self.keep.record(&ready),
            Err(error) => Err(error),
        };
        match recorded {
            Ok(()) => {
                for unit in ready {
                    state.units[unit as usize] = Unit::Durable;
                }
            }
            Err(error) => {
                // The page cache may have lost them: they are fetched again.
                for unit in &ready {
                    state.units[*unit as usize] = Unit::Absent;
                    state.present -= 1;
                }
                state.last_error = Some(error.clone());
                drop(state);
                for unit in ready {
                    self.observer.unit_failed(&UnitFailure {
                        unit: Some(unit),
                        address: self.span(unit).map_or(0, |span| span.address),
                        error: error.clone(),
                    });
                }
            }
        }
    }

    /// Ends in order. A thread that is within a request goes on until the request ends, but changes nothing more.
    fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let waiters: Vec<Waiter> = {
            let mut state = lock(&self.state);
            state.closing = true;
            state.waiters.drain().map(|(_, waiter)| waiter).collect()
        };
        self.work.notify_all();
        self.tick.notify_all();
        let closed = Error::new(Code::Closed, "the image was closed");
        let done = waiters.into_iter().map(|waiter| waiter.done).collect();
        call(done, &Err(closed));
        let state = lock(&self.state);
        let waited = self
            .ended
            .wait_timeout_while(state, CLOSE_TIMEOUT, |state| state.keeper);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        // Whoever began to store before the flag was set has ended when the gate is free.
        drop(write(&self.gate));
        self.sync();
        let kept = if self.keep.kept() == Kept::Full {
            Ok(())
        } else {
            self.keep.set_kept(Kept::Clean)
        };
        self.keep.release();
        kept
    }

    /// Whether anything may still be changed; asked behind the gate.
    fn open_still(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::new(Code::Closed, "the image was closed"));
        }
        Ok(())
    }
}

fn span_of(page: &Page, slot: usize) -> Span {
    Span {
        unit: page.first_unit + slot as u32,
        address: page.address(slot),
        len: page.len[slot],
    }
}

fn call(done: Vec<Done>, outcome: &Result<()>) {
    for one in done {
        one(outcome.clone());
    }
}

impl State {
    /// Makes waiter `id` wait for what is missing of `spans`. Ok is the number of new jobs; Err gives back the
    /// waiter's callback, since everything is there.
    fn wait_for(&mut self, id: u64, spans: &[Span]) -> std::result::Result<usize, Done> {
        let mut jobs = 0;
        let mut left = 0;
        let mut unit = None;
        for span in spans {
            if self.units[span.unit as usize] >= Unit::Ready {
                continue;
            }
            left += 1;
            unit = unit.or(Some(span.unit));
            let demand = &mut self.demand;
            let flight = self.flights.entry(span.unit).or_insert_with(|| {
                demand.push_back(Job::Unit(span.unit));
                jobs += 1;
                Flight::default()
            });
            flight.waiters.push(id);
        }
        if left == 0 {
            if let Some(waiter) = self.waiters.remove(&id) {
                return Err(waiter.done);
            }
        } else if let Some(waiter) = self.waiters.get_mut(&id) {
            waiter.left = left;
            waiter.unit = unit;
        }
        Ok(jobs)
    }

    /// Ends the flight of a unit that is there; gives the callbacks of those who wait for nothing else.
    fn land(&mut self, unit: u32) -> Vec<Done> {
        let flight = self.flights.remove(&unit).unwrap_or_default();
        let mut done = Vec::new();
        for id in flight.waiters {
            let Some(waiter) = self.waiters.get_mut(&id) else {
                continue;
            };
            waiter.left -= 1;
            if waiter.left == 0 {
                done.extend(self.waiters.remove(&id).map(|waiter| waiter.done));
            }
        }
        done
    }

    /// Whether anybody still waits for `unit`.
    fn alive(&self, unit: u32) -> bool {
        let flight = self.flights.get(&unit);
        flight.is_some_and(|flight| {
            flight
                .waiters
                .iter()
                .any(|id| self.waiters.contains_key(id))
        })
    }

    fn back_off(&mut self, error: Error) {
        self.last_error = Some(error);
        self.retry_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    fn recover(&mut self) {
        self.backoff = BACKOFF_MIN;
        self.retry_at = None;
        self.last_error = None;
    }

    /// Wire bytes to fetch along with `unit`.
    fn ahead(&mut self, unit: u32) -> u64 {
        match self.regions.iter().position(|(next, _)| *next == unit) {
            Some(at) => self
                .regions
                .remove(at)
                .map_or(AHEAD_MIN, |(_, ahead)| (ahead * 2).min(REQUEST_MAX)),
            None => AHEAD_MIN,
        }
    }

    fn regions_note(&mut self, next: u32, ahead: u64) {
        if self.regions.len() >= REGIONS_MAX {
            self.regions.pop_front();
        }
        self.regions.push_back((next, ahead));
    }

    /// The next demand that no other thread has taken along meanwhile.
    fn demand_job(&mut self) -> Option<Job> {
        loop {
            let job = self.demand.pop_front()?;
            let Job::Unit(unit) = job else {
                return Some(job);
            };
            match self.flights.get_mut(&unit) {
                Some(flight) if !flight.taken => {
                    flight.taken = true;
                    return Some(job);
                }
                _ => {}
            }
        }
    }

    /// Whether the background filler has something left to do.
    fn filling(&self) -> bool {
        self.fill && !self.full && (self.fill_next as usize) < self.units.len()
    }

    /// The next run of the background filler, when nobody waits for anything.
    fn fill_job(&mut self, now: Instant) -> Option<Job> {
        if !self.fill || self.full || self.fillers >= FILLERS_MAX || !self.waiters.is_empty() {
            return None;
        }
        if self.fill_after.is_some_and(|at| at > now) {
            return None;
        }
        while (self.fill_next as usize) < self.units.len() {
            let unit = self.fill_next;
            self.fill_next += 1;
            if self.units[unit as usize] < Unit::Ready && !self.flights.contains_key(&unit) {
                self.flights.entry(unit).or_default().taken = true;
                self.fillers += 1;
                return Some(Job::Fill(unit));
            }
        }
        if self.fill_missed {
            self.fill_missed = false;
            self.fill_next = 0;
            self.fill_after = Some(now + REFILL_DELAY);
        }
        None
    }
}
