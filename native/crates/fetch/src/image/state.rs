//! What the threads of an image share under one lock: states of units, flights, waiters, jobs. Nothing here blocks.

use crate::error::{Code, Error};
use crate::keep::Span;
use crate::plan::{Done, Plan};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Of an image's threads, those that may fill in the background.
pub(super) const FILLERS_MAX: usize = 2;
/// Wire bytes of the largest request: four units that do not shrink.
pub(super) const REQUEST_MAX: u64 = 1024 * 1024;
/// Wire bytes fetched along with the first demand in a region; doubles with each demand that goes on from there.
const AHEAD_MIN: u64 = 128 * 1024;
/// Regions whose read-ahead is remembered.
const REGIONS_MAX: usize = 64;
/// Pause after a failure that waiting may cure: first, and longest.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Pause of the background filler after units that no source has.
const REFILL_DELAY: Duration = Duration::from_secs(30);

/// State of one unit, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unit {
    Absent,
    /// On disk, not hashed yet in this process.
    Kept,
    /// Verified and stored, not durable yet.
    Ready,
    /// Verified, stored and recorded.
    Durable,
}

pub(super) struct Waiter {
    pub(super) left: usize,
    pub(super) offset: u64,
    pub(super) len: usize,
    pub(super) unit: Option<u32>,
    pub(super) deadline: Instant,
    pub(super) done: Done,
}

#[derive(Default)]
pub(super) struct Flight {
    pub(super) waiters: Vec<u64>,
    pub(super) taken: bool,
}

pub(super) enum Job {
    /// A demanded unit.
    Unit(u32),
    /// A run that the filler begins.
    Fill(u32),
    /// A range whose index pages are not loaded.
    Range(u64),
    /// The pass over a blob of which every unit is there.
    VerifyAll,
}

pub(super) struct State {
    pub(super) units: Vec<Unit>,
    pub(super) present: u32,
    pub(super) flights: HashMap<u32, Flight>,
    pub(super) waiters: HashMap<u64, Waiter>,
    pub(super) next_waiter: u64,
    pub(super) demand: VecDeque<Job>,
    pub(super) regions: VecDeque<(u32, u64)>,
    pub(super) retry_at: Option<Instant>,
    pub(super) backoff: Duration,
    /// When the first failure came after which nothing has succeeded.
    pub(super) failing_since: Option<Instant>,
    pub(super) last_error: Option<Error>,
    pub(super) threads: usize,
    pub(super) idle: usize,
    pub(super) fill: bool,
    pub(super) fill_next: u32,
    pub(super) fill_missed: bool,
    pub(super) fill_after: Option<Instant>,
    pub(super) fillers: usize,
    pub(super) dirty: Vec<u32>,
    pub(super) dirty_since: Option<Instant>,
    pub(super) kept_order: VecDeque<Span>,
    pub(super) kept_bytes: u64,
    /// When the blob was read last, if its pages may still be cached.
    pub(super) read_at: Option<Instant>,
    pub(super) verifying: bool,
    pub(super) full: bool,
    pub(super) closing: bool,
    pub(super) keeper: bool,
    pub(super) keeper_until: Instant,
}

impl State {
    /// Nothing in flight. `units` says what an earlier process kept.
    pub(super) fn new(units: Vec<Unit>, full: bool) -> Self {
        let present = units.iter().filter(|unit| **unit != Unit::Absent).count();
        Self {
            present: present as u32,
            full: full && present == units.len(),
            units,
            flights: HashMap::new(),
            waiters: HashMap::new(),
            next_waiter: 0,
            demand: VecDeque::new(),
            regions: VecDeque::new(),
            retry_at: None,
            backoff: BACKOFF_MIN,
            failing_since: None,
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
            read_at: None,
            verifying: false,
            closing: false,
            keeper: true,
            keeper_until: Instant::now(),
        }
    }

    /// Makes waiter `id` wait for what is missing of `spans`. Ok is the number of threads that new jobs are worth, one
    /// for each run, since the first of a run takes its neighbours along; Err gives back the waiter's callback, since
    /// everything is there.
    pub(super) fn wait_for(&mut self, id: u64, spans: &[Span]) -> std::result::Result<usize, Done> {
        let mut runs = 0;
        let mut last = None;
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
                if last.is_none_or(|last| last + 1 != span.unit) {
                    runs += 1;
                }
                last = Some(span.unit);
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
        Ok(runs)
    }

    /// Takes out the waiters whose deadline is over.
    pub(super) fn take_late(&mut self, now: Instant) -> Vec<Waiter> {
        let late = |waiter: &Waiter| waiter.deadline <= now;
        let ids = self.waiters.iter().filter(|(_, waiter)| late(waiter));
        let ids: Vec<u64> = ids.map(|(id, _)| *id).collect();
        ids.iter()
            .filter_map(|id| self.waiters.remove(id))
            .collect()
    }

    /// Ends the flight of a unit that is there; gives the callbacks of those who wait for nothing else.
    pub(super) fn land(&mut self, unit: u32) -> Vec<Done> {
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
    pub(super) fn alive(&self, unit: u32) -> bool {
        let flight = self.flights.get(&unit);
        flight.is_some_and(|flight| {
            flight
                .waiters
                .iter()
                .any(|id| self.waiters.contains_key(id))
        })
    }

    /// Takes note of a failure; whether everything has failed for the plan's patience now.
    pub(super) fn tired(&mut self, error: &Error, plan: &Plan) -> bool {
        let now = Instant::now();
        // What came too late has failed for all of its time.
        let spent = match error.code {
            Code::Deadline => plan.fetch_timeout,
            _ => Duration::ZERO,
        };
        let began = now.checked_sub(spent).unwrap_or(now);
        let since = *self.failing_since.get_or_insert(began);
        now.duration_since(since) >= plan.patience
    }

    pub(super) fn back_off(&mut self, error: Error) {
        self.last_error = Some(error);
        self.retry_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    pub(super) fn recover(&mut self) {
        self.backoff = BACKOFF_MIN;
        self.failing_since = None;
        self.retry_at = None;
        self.last_error = None;
    }

    /// Wire bytes to fetch along with `unit`.
    pub(super) fn ahead(&mut self, unit: u32) -> u64 {
        match self.regions.iter().position(|(next, _)| *next == unit) {
            Some(at) => self
                .regions
                .remove(at)
                .map_or(AHEAD_MIN, |(_, ahead)| (ahead * 2).min(REQUEST_MAX)),
            None => AHEAD_MIN,
        }
    }

    pub(super) fn regions_note(&mut self, next: u32, ahead: u64) {
        if self.regions.len() >= REGIONS_MAX {
            self.regions.pop_front();
        }
        self.regions.push_back((next, ahead));
    }

    /// The next demand that no other thread has taken along meanwhile.
    pub(super) fn demand_job(&mut self) -> Option<Job> {
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
    pub(super) fn filling(&self) -> bool {
        let left = (self.fill_next as usize) < self.units.len();
        self.fill && !self.full && left && self.fill_after.is_none()
    }

    /// The next run of the background filler, when nobody waits for anything.
    pub(super) fn fill_job(&mut self, now: Instant) -> Option<Job> {
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
