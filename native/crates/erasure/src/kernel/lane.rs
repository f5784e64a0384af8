//! The one loop that all paths share, generic over a register of bytes and what it can do.
//!
//! Everything here is `inline(always)`, so that it is compiled anew inside of each path's entry function, with that
//! function's instructions. Offsets are in bytes from the beginning of every shard.

use super::{Job, Store};

/// A register of bytes.
///
/// # Safety
///
/// Functions are to be called only where the path's instructions are there. `load` and `factor` read, `store` and
/// `stream` write `BYTES` (`factor`: `FACTOR_BYTES`) bytes at the pointer; `stream` wants it aligned to `BYTES`.
pub(super) trait Lane: Copy {
    /// Width in bytes, at most 64.
    const BYTES: usize;
    /// Length of one factor in the tables.
    const FACTOR_BYTES: usize;
    /// Whether two sources are taken at a time, which pays where three operands are XORed by one instruction.
    const PAIRS: bool;
    /// A factor, loaded.
    type Factor: Copy;
    /// A source, made ready to be multiplied.
    type Ready: Copy;

    unsafe fn zero() -> Self;
    unsafe fn load(at: *const u8) -> Self;
    unsafe fn store(self, at: *mut u8);
    /// A store that does not go through the caches.
    unsafe fn stream(self, at: *mut u8);
    /// Orders `stream` before what follows.
    unsafe fn fence();
    unsafe fn ready(self) -> Self::Ready;
    unsafe fn factor(at: *const u8) -> Self::Factor;
    unsafe fn product(ready: Self::Ready, factor: Self::Factor) -> Self;
    unsafe fn xor(self, other: Self) -> Self;
    #[inline(always)]
    unsafe fn xor3(self, b: Self, c: Self) -> Self {
        // SAFETY: the caller's promise is that of both.
        unsafe { self.xor(b).xor(c) }
    }
}

/// Bytes on the stack for a part of a lane.
#[repr(align(64))]
struct Scrap([u8; 64]);

/// Loads `count` < `BYTES` bytes; the rest is zero.
#[inline(always)]
unsafe fn load_part<L: Lane>(at: *const u8, count: usize) -> L {
    let mut scrap = Scrap([0; 64]);
    // SAFETY: the caller's `count` bytes at `at` are readable, and fewer than the 64 here; scrap is L::BYTES or more.
    unsafe {
        std::ptr::copy_nonoverlapping(at, scrap.0.as_mut_ptr(), count);
        L::load(scrap.0.as_ptr())
    }
}

/// Stores the first `count` < `BYTES` bytes.
#[inline(always)]
unsafe fn store_part<L: Lane>(value: L, at: *mut u8, count: usize) {
    let mut scrap = Scrap([0; 64]);
    // SAFETY: as for `load_part`, with `count` writable bytes at `at`.
    unsafe {
        value.store(scrap.0.as_mut_ptr());
        std::ptr::copy_nonoverlapping(scrap.0.as_ptr(), at, count);
    }
}

/// M targets at `at`, V lanes of each. `part` is 0 for whole lanes, else V is 1 and so many bytes are there.
#[inline(always)]
unsafe fn step<L: Lane, const M: usize, const V: usize, const BASE: bool, const STREAM: bool>(
    job: &Job<'_>,
    at: usize,
    part: usize,
) {
    // SAFETY: the caller has at..at + V * BYTES (or at + part) within every shard of the job, and the job's tables
    // hold M factors for each source.
    unsafe {
        let load = |from: *const u8| {
            if part == 0 {
                L::load(from)
            } else {
                load_part(from, part)
            }
        };
        let mut sums = [[L::zero(); V]; M];
        if BASE {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    *sum = load((*job.bases.get_unchecked(row)).add(at + lane * L::BYTES));
                }
            }
        }
        let mut table = job.table;
        let mut source = job.sources.as_ptr();
        let end = source.add(job.sources.len());
        if L::PAIRS {
            let pairs_end = source.add(job.sources.len() & !1);
            while source < pairs_end {
                let (one, two) = (*source, *source.add(1));
                let mut ready = [(L::zero().ready(), L::zero().ready()); V];
                for (lane, ready) in ready.iter_mut().enumerate() {
                    let offset = at + lane * L::BYTES;
                    *ready = (load(one.add(offset)).ready(), load(two.add(offset)).ready());
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let first = L::factor(table.add(row * L::FACTOR_BYTES));
                    let second = L::factor(table.add((M + row) * L::FACTOR_BYTES));
                    for (sum, ready) in sums.iter_mut().zip(&ready) {
                        *sum = sum.xor3(L::product(ready.0, first), L::product(ready.1, second));
                    }
                }
                table = table.add(2 * M * L::FACTOR_BYTES);
                source = source.add(2);
            }
        }
        while source < end {
            let one = *source;
            let mut ready = [L::zero().ready(); V];
            for (lane, ready) in ready.iter_mut().enumerate() {
                *ready = load(one.add(at + lane * L::BYTES)).ready();
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = L::factor(table.add(row * L::FACTOR_BYTES));
                for (sum, ready) in sums.iter_mut().zip(&ready) {
                    *sum = sum.xor(L::product(*ready, factor));
                }
            }
            table = table.add(M * L::FACTOR_BYTES);
            source = source.add(1);
        }
        for (row, sums) in sums.iter().enumerate() {
            for (lane, sum) in sums.iter().enumerate() {
                let to = (*job.targets.get_unchecked(row)).add(at + lane * L::BYTES);
                if part != 0 {
                    store_part(*sum, to, part);
                } else if STREAM {
                    sum.stream(to);
                } else {
                    sum.store(to);
                }
            }
        }
    }
}

/// From `job.from` to `job.to`: V lanes at a time, then one, then a part of one.
#[inline(always)]
unsafe fn walk<L: Lane, const M: usize, const V: usize, const BASE: bool, const STREAM: bool>(
    job: &Job<'_>,
    head: usize,
) {
    let mut at = job.from;
    // SAFETY: every step stays below `job.to`, which is within every shard.
    unsafe {
        if head > 0 {
            step::<L, M, 1, BASE, false>(job, at, head);
            at += head;
        }
        while job.to - at >= V * L::BYTES {
            step::<L, M, V, BASE, STREAM>(job, at, 0);
            at += V * L::BYTES;
        }
        while job.to - at >= L::BYTES {
            step::<L, M, 1, BASE, STREAM>(job, at, 0);
            at += L::BYTES;
        }
        if at < job.to {
            step::<L, M, 1, BASE, false>(job, at, job.to - at);
        }
        if STREAM {
            L::fence();
        }
    }
}

/// The bytes before the first place where all targets are aligned, if there is one.
#[inline(always)]
fn head<L: Lane>(job: &Job<'_>) -> Option<usize> {
    let miss = |target: &*mut u8| (target.addr().wrapping_add(job.from)).wrapping_neg() % L::BYTES;
    let first = miss(&job.targets[0]);
    let same = job.targets.iter().all(|target| miss(target) == first);
    (same && first < job.to - job.from).then_some(first)
}

/// Runs a job with M targets.
///
/// # Safety
///
/// The path's instructions are there; `job` is as its definition demands, with M targets.
#[inline(always)]
pub(super) unsafe fn run<L: Lane, const M: usize, const V: usize>(job: &Job<'_>) {
    debug_assert_eq!(job.targets.len(), M);
    // SAFETY: the caller's promise.
    unsafe {
        if !job.bases.is_empty() {
            debug_assert_eq!(job.bases.len(), M);
            return walk::<L, M, V, true, false>(job, 0);
        }
        match (job.store, head::<L>(job)) {
            (Store::Streaming, Some(head)) => walk::<L, M, V, false, true>(job, head),
            _ => walk::<L, M, V, false, false>(job, 0),
        }
    }
}

/// What the lanes of x86 have in common: all that is not a multiplication, by the instructions of their registers.
#[cfg(target_arch = "x86_64")]
macro_rules! moves {
    ($zero:ident, $load:ident, $store:ident, $stream:ident, $xor:ident) => {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the `Lane` contract: the instructions are there.
            Self(unsafe { $zero() })
        }
        #[inline(always)]
        unsafe fn load(at: *const u8) -> Self {
            // SAFETY: as above, and the pointer is good for a lane.
            Self(unsafe { $load(at.cast()) })
        }
        #[inline(always)]
        unsafe fn store(self, at: *mut u8) {
            // SAFETY: as above.
            unsafe { $store(at.cast(), self.0) }
        }
        #[inline(always)]
        unsafe fn stream(self, at: *mut u8) {
            // SAFETY: as above; the pointer is aligned.
            unsafe { $stream(at.cast(), self.0) }
        }
        #[inline(always)]
        unsafe fn fence() {
            // SAFETY: SSE is part of x86-64.
            unsafe { std::arch::x86_64::_mm_sfence() }
        }
        #[inline(always)]
        unsafe fn xor(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { $xor(self.0, other.0) })
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use moves;

/// Defines a path's entry `run`: for each number of targets, how many lanes of each are in work at a time.
macro_rules! entry {
    ($lane:ty, $(#[$feature:meta])?, $($rows:literal x $lanes:literal),+) => {
        // One function for each number of rows: registers are given out for one loop at a time.
        #[inline(never)]
        $(#[$feature])?
        unsafe fn fixed<const M: usize, const V: usize>(job: &crate::kernel::Job<'_>) {
            // SAFETY: the caller of `run` promised it.
            unsafe { crate::kernel::lane::run::<$lane, M, V>(job) }
        }

        /// Runs a job.
        ///
        /// # Safety
        ///
        /// The path's instructions are there; the job is as its definition demands.
        $(#[$feature])?
        pub(in crate::kernel) unsafe fn run(job: &crate::kernel::Job<'_>) {
            // SAFETY: the caller's promise.
            unsafe {
                match job.targets.len() {
                    $($rows => fixed::<$rows, $lanes>(job),)+
                    _ => unreachable!("groups have 1 to 6 rows"),
                }
            }
        }
    };
}
pub(super) use entry;
