//! A call that was checked and can be run, whole or in parts.

use std::ops::Range;
use std::sync::Arc;

use super::span::{Source, Target};
use super::tables::Tables;
use super::{combine, Store};
use crate::error::Error;

/// More threads than this only contend for memory.
pub const THREADS_MAX: usize = 64;
/// Where parts of a shard that different threads work on meet: a page, so that no two write to one cache line.
const THREAD_ALIGN: usize = 4096;
/// A thread is not started for fewer bytes of sources: it takes some 30 us to begin.
const THREAD_BYTES_MIN: usize = 1 << 20;
/// What `verify` computes at a time for each parity shard, in bytes: m of them stay in L1 or L2 beside the sources.
const CHECK_BYTES: usize = 2048;

/// A checked call.
pub struct Task<'a> {
    pub(crate) tables: Arc<Tables>,
    pub(crate) sources: Vec<Source<'a>>,
    pub(crate) output: Output<'a>,
    pub(crate) length: usize,
    pub(crate) store: Store,
    pub(crate) threads: usize,
}

/// What becomes of the combinations.
pub(crate) enum Output<'a> {
    /// Written.
    Write(Vec<Target<'a>>),
    /// Added to what is there.
    Add(Vec<Target<'a>>),
    /// Compared.
    Compare(Vec<Source<'a>>),
}

impl Task<'_> {
    /// Length of a shard in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// How many shards are read or written.
    pub fn shards(&self) -> usize {
        self.sources.len() + self.tables.rows()
    }

    /// How many threads may work on it.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// About how long one thread works on it, in microseconds.
    pub fn expected_us(&self) -> usize {
        let products = self
            .length
            .saturating_mul(self.sources.len() * self.tables.rows());
        products / self.tables.path().products_per_us()
    }

    /// Does the bytes of `range`, which is cut to the length, of every shard. The answer is the set of compared shards
    /// that are wrong there, as bits; 0 if nothing is compared.
    ///
    /// # Errors
    ///
    /// A thread cannot be started, or failed.
    pub fn run(&self, range: Range<usize>) -> Result<u32, Error> {
        let (from, to) = (range.start, range.end.min(self.length));
        if from >= to {
            return Ok(0);
        }
        let work = (to - from).saturating_mul(self.sources.len());
        let threads = self.threads.min(work / THREAD_BYTES_MIN).max(1);
        if threads == 1 {
            return Ok(self.part(from, to));
        }
        let share = (to - from).div_ceil(threads).next_multiple_of(THREAD_ALIGN);
        std::thread::scope(|scope| {
            let mut started = Vec::with_capacity(threads - 1);
            let mut at = from + share;
            while at < to {
                let part = (at, to.min(at + share));
                let spawned = std::thread::Builder::new()
                    .name("zos-erasure".into())
                    .spawn_scoped(scope, move || self.part(part.0, part.1));
                started.push(spawned.map_err(|error| Error::NoThread(error.to_string()))?);
                at += share;
            }
            let mut wrong = self.part(from, to.min(from + share));
            for thread in started {
                let part = thread.join();
                wrong |= part.map_err(|_| Error::Panicked("a thread panicked".into()))?;
            }
            Ok(wrong)
        })
    }

    fn part(&self, from: usize, to: usize) -> u32 {
        let sources: Vec<*const u8> = self.sources.iter().map(Source::start).collect();
        match &self.output {
            Output::Write(targets) => {
                let targets: Vec<*mut u8> = targets.iter().map(Target::start).collect();
                // SAFETY: whoever made the task has checked lengths, overlaps and the tables' shape; spans are good
                // for as long as the task lives, and no two parts of a task have a byte in common.
                unsafe {
                    combine(
                        &self.tables,
                        &sources,
                        &[],
                        &targets,
                        (from, to),
                        self.store,
                    )
                };
                0
            }
            Output::Add(targets) => {
                let targets: Vec<*mut u8> = targets.iter().map(Target::start).collect();
                let bases: Vec<*const u8> = targets.iter().map(|at| at.cast_const()).collect();
                // SAFETY: as above; each base is the target of its row.
                unsafe {
                    combine(
                        &self.tables,
                        &sources,
                        &bases,
                        &targets,
                        (from, to),
                        Store::Cached,
                    )
                };
                0
            }
            Output::Compare(expected) => self.compare(&sources, expected, from, to),
        }
    }

    fn compare(
        &self,
        sources: &[*const u8],
        expected: &[Source<'_>],
        from: usize,
        to: usize,
    ) -> u32 {
        let mut scratch = vec![0u8; expected.len() * CHECK_BYTES];
        let mut wrong = 0;
        let mut at = from;
        while at < to {
            let count = CHECK_BYTES.min(to - at);
            let moved: Vec<*const u8> =
                sources.iter().map(|start| start.wrapping_add(at)).collect();
            let bases: Vec<*const u8> = expected
                .iter()
                .map(|one| one.start().wrapping_add(at))
                .collect();
            let targets: Vec<*mut u8> = scratch
                .chunks_exact_mut(CHECK_BYTES)
                .map(<[u8]>::as_mut_ptr)
                .collect();
            // SAFETY: sources and bases are good from `at` to `to`, each target for CHECK_BYTES, and they are ours.
            unsafe {
                combine(
                    &self.tables,
                    &moved,
                    &bases,
                    &targets,
                    (0, count),
                    Store::Cached,
                )
            };
            for (row, made) in scratch.chunks_exact(CHECK_BYTES).enumerate() {
                if made[..count].iter().any(|byte| *byte != 0) {
                    wrong |= 1 << row;
                }
            }
            at += count;
        }
        wrong
    }
}
