//! The fetching threads: which job is next, which source is asked, what a failure means.

use super::index::{span_of, worse};
use super::state::{Job, Unit, Waiter, FILLERS_MAX};
use super::{call, Inner};
use crate::error::{Code, Error, Result};
use crate::keep::Span;
use crate::layout::{Hash, Page, PAGE_UNITS};
use crate::locate::Supplier;
use crate::plan::UnitFailure;
use crate::sync::{lock, read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Threads that fetch for one image; more only help a link of very long delay.
pub(super) const FETCHERS_MAX: usize = 8;
/// Fetching threads of the whole process beyond the first of each image.
const FETCHERS_TOTAL_MAX: usize = 64;
/// A thread that had nothing to do for this long ends.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// The filler looks this often whether the readers it gave way to are served.
const FILL_POLL: Duration = Duration::from_millis(20);

static FETCHERS_TOTAL: AtomicUsize = AtomicUsize::new(0);

impl Inner {
    /// Sees to it that threads take `jobs` new jobs.
    pub(super) fn wake(self: &Arc<Self>, jobs: usize) {
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

    pub(super) fn fetcher(self: Arc<Self>) {
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
    pub(super) fn next_job(&self) -> Option<Job> {
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
                    if state.fill_after.is_some_and(|at| at < state.keeper_until) {
                        self.tick.notify_all();
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

    pub(super) fn map_range(self: &Arc<Self>, id: u64) {
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
            Err((error, true)) if !lock(&self.state).tired(&error, &self.plan) => {
                let mut state = lock(&self.state);
                if state.waiters.contains_key(&id) {
                    state.demand.push_front(Job::Range(id));
                    state.back_off(error);
                }
            }
            Err((error, _)) => {
                let waiter = lock(&self.state).waiters.remove(&id);
                if let Some(waiter) = waiter {
                    self.fail_waiters(vec![waiter], &error, None);
                }
            }
        }
    }

    /// Brings one unit, and its neighbours with it.
    pub(super) fn fetch_unit(self: &Arc<Self>, unit: u32, fill: bool) {
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
                    if error.code.is_local() {
                        // Another source is of no help; a descriptor may be free soon.
                        let again = error.code == Code::NoDescriptors;
                        return self.unit_failed(unit, error, again, fill);
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

    /// Verifies a unit that an earlier process kept; false if it must be fetched (BLOCKD-KEEP-2).
    pub(super) fn recall(&self, span: &Span, hash: &Hash) -> Result<bool> {
        if lock(&self.state).units[span.unit as usize] != Unit::Kept {
            return Ok(false);
        }
        let mut plain = vec![0; span.len as usize];
        let kept = self.keep.recall(span, &mut plain);
        if kept.is_ok() && blake3::hash(&plain).as_bytes() == hash {
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
        self.keep.discard(&[*span], false)?;
        Ok(false)
    }

    pub(super) fn fetch_from(
        self: &Arc<Self>,
        supplier: &Supplier,
        unit: u32,
        page: &Page,
        fill: bool,
    ) -> Result<()> {
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
                Err(error) if !error.code.retryable() && !error.code.is_local() => {
                    if retried || !supplier.forget(began) {
                        return Err(error);
                    }
                    retried = true;
                }
                other => return other,
            }
        }
    }

    pub(super) fn unit_failed(&self, unit: u32, error: Error, retry: bool, fill: bool) {
        let mut state = lock(&self.state);
        let alive = state.alive(unit);
        if error.code == Code::Closed || state.closing {
            state.flights.remove(&unit);
            return;
        }
        if retry && (fill || !state.tired(&error, &self.plan)) {
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

    pub(super) fn fail_waiters(&self, waiters: Vec<Waiter>, error: &Error, unit: Option<u32>) {
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
}
