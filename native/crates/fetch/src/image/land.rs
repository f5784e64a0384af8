//! One request to a pack: which units it brings, and how each lands: decoded, verified, stored, told.

use super::index::span_of;
use super::state::{Job, State, Unit, REQUEST_MAX};
use super::{call, Inner};
use crate::error::{Code, Error, Result, UnitPlace};
use crate::keep::Span;
use crate::layout::{self, Hash, Page, Place, PAGE_UNITS};
use crate::locate::Supplier;
use crate::plan::Done;
use crate::sync::{lock, read, write};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

impl Inner {
    /// One range request: `unit` first, then neighbours that lie behind it in the same pack (BLOCKD-READ-6).
    #[allow(clippy::too_many_arguments)]
    pub(super) fn fetch_batch(
        self: &Arc<Self>,
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
            let more = !state.demand.is_empty();
            drop(state);
            if more {
                self.wake(1);
            }
        }
        let pack = packs[first.pack as usize];
        let path = format!("pack/{}", layout::hex(&pack));
        let outcome = self
            .land_batch(supplier, &batch, &path, wire, page, deadline)
            .map_err(|error| {
                let offset = first.offset;
                error.of(UnitPlace { unit, pack, offset })
            });
        if outcome.is_ok() {
            lock(&self.state).recover();
        }
        outcome
    }

    /// Reads and lands the units of a batch; the outcome is that of the first one. All other flights are let go.
    pub(super) fn land_batch(
        &self,
        supplier: &Supplier,
        batch: &[(Span, Place)],
        path: &str,
        wire: u64,
        page: &Page,
        deadline: Instant,
    ) -> Result<()> {
        let mut landed = 0;
        let mut first: Option<Error> = None;
        let stream = (|| {
            let mut body =
                supplier
                    .source
                    .open_range(path, u64::from(batch[0].1.offset), wire, deadline)?;
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
    pub(super) fn land(&self, span: &Span, place: &Place, wire: &[u8], page: &Page) -> Result<()> {
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
    pub(super) fn landed(&self, span: &Span, as_unit: Unit) -> Vec<Done> {
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

    /// Keeps within the limit: what was stored first goes first (BLOCKD-KEEP-4).
    pub(super) fn evict(&self) {
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
    pub(super) fn release(&self, unit: u32) {
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
}
