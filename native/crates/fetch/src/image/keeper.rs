//! The keeper: deadlines of waiters, durability in groups, the pass that finds a blob whole, the end.

use super::index::span_of;
use super::state::{Job, State, Unit, Waiter};
use super::{call, Inner};
use crate::error::{Code, Error, Result};
use crate::keep::{Keep, Span};
use crate::plan::UnitFailure;
use crate::presence::Kept;
use crate::sync::{lock, read, write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Stored bytes become durable this long after the first of a group at the latest.
const SYNC_DELAY: Duration = Duration::from_millis(250);
/// Time that `close` gives to the keeper, who may be within fdatasync.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// The page cache forgets the blob when nobody has read it for this long.
const CACHE_IDLE: Duration = Duration::from_secs(2);
/// The keeper looks at least this often.
const KEEPER_WAIT_MAX: Duration = Duration::from_secs(60);

/// What the keeper does next.
enum Duty {
    /// Their deadline is over.
    Late(Vec<Waiter>),
    /// Stored bytes are to become durable.
    Sync,
    /// A fetching thread has something to do.
    Wake,
    /// Nobody has read for a while.
    DropCache,
}

impl Inner {
    pub(super) fn keeper(self: Arc<Self>) {
        while let Some(duty) = self.next_duty() {
            match duty {
                Duty::Late(waiters) => self.fail_late(waiters),
                Duty::Sync => self.sync(),
                Duty::Wake => self.wake(1),
                Duty::DropCache => self.keep.drop_cache(),
            }
        }
    }

    /// Waits for something to do; None at the end, which is when everything stored is recorded.
    fn next_duty(&self) -> Option<Duty> {
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            let late = state.take_late(now);
            if !late.is_empty() {
                return Some(Duty::Late(late));
            }
            let sync_at = state.dirty_since.map(|since| since + SYNC_DELAY);
            if due(sync_at) || (sync_at.is_some() && state.closing) {
                return Some(Duty::Sync);
            }
            if state.closing {
                state.keeper = false;
                self.ended.notify_all();
                return None;
            }
            if self.verify_due(&state) {
                state.verifying = true;
                state.demand.push_back(Job::VerifyAll);
                return Some(Duty::Wake);
            }
            let fill_at = if state.fill { state.fill_after } else { None };
            if due(fill_at) {
                state.fill_after = None;
                return Some(Duty::Wake);
            }
            let drop_at = state.read_at.map(|at| at + CACHE_IDLE);
            if due(drop_at) {
                state.read_at = None;
                return Some(Duty::DropCache);
            }
            let deadline = state.waiters.values().map(|waiter| waiter.deadline).min();
            let next = [deadline, sync_at, fill_at, drop_at]
                .into_iter()
                .flatten()
                .min();
            let wait = next.map_or(KEEPER_WAIT_MAX, |next| next.saturating_duration_since(now));
            state.keeper_until = now + wait;
            let waited = self.tick.wait_timeout(state, wait);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn fail_late(&self, waiters: Vec<Waiter>) {
        for waiter in waiters {
            let why = lock(&self.state).last_error.clone();
            let mut error = Error::new(Code::Deadline, "no source answered in time");
            if let Some(why) = why {
                error.message = format!("{}: {}", error.message, why.message);
                error.source = why.source;
            }
            let unit = waiter.unit;
            self.fail_waiters(vec![waiter], &error, unit);
        }
    }

    pub(super) fn verify_due(&self, state: &State) -> bool {
        let whole = state.present == self.plan.units && state.dirty.is_empty();
        let on_disk = matches!(self.keep, Keep::Disk(_));
        on_disk
            && whole
            && !state.full
            && !state.verifying
            && !state.closing
            && state.last_error.is_none()
    }

    /// Hashes the whole blob, and says so when every unit is right (BLOCKD-KEEP-3).
    pub(super) fn verify_all(&self) {
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
    pub(super) fn wrong_units(&self) -> Result<Vec<Span>> {
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
                let kept = self.keep.recall(&whole, &mut plain);
                let (data, pad) = plain.split_at(span.len as usize);
                if kept.is_err() || blake3::hash(data).as_bytes() != &page.hash[slot] {
                    wrong.push(span);
                } else if pad.iter().any(|byte| *byte != 0) {
                    let at = Span {
                        address: span.address + u64::from(span.len),
                        ..span
                    };
                    let _gate = read(&self.gate);
                    self.open_still()?;
                    self.keep.store(&at, &vec![0; pad.len()])?;
                }
            }
        }
        Ok(wrong)
    }

    /// Makes what was stored durable, then records it (BLOCKD-KEEP-1).
    pub(super) fn sync(&self) {
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
    pub(super) fn close(&self) -> Result<()> {
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
    pub(super) fn open_still(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::new(Code::Closed, "the image was closed"));
        }
        Ok(())
    }
}
