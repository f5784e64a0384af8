//! Linear combinations of shards: the SIMD kernels, which of them is used, and the tables that they read.
//!
//! All that is unsafe in this crate lies in this module and below.

mod lane;
mod scalar;
pub(crate) mod span;
pub(crate) mod tables;
pub(crate) mod task;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod gfni256;
#[cfg(target_arch = "x86_64")]
mod gfni512;
#[cfg(test)]
mod model;
#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;

use std::sync::OnceLock;

use crate::code;
use crate::error::Error;
use span::{Source, Target};
use tables::{Group, Tables};

/// Largest number of targets that one pass over the sources makes.
pub(crate) const ROWS_MAX: usize = 6;
/// When there are several passes, the sources go through them in pieces of so many bytes together: half of a small L2.
const PASS_BYTES: usize = 128 << 10;
/// No piece of a shard is shorter, so that a pass has something to walk through.
const PIECE_BYTES_MIN: usize = 1 << 10;

/// The instructions that a code uses (ERASURE-PATH-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// GFNI on 512-bit registers.
    Gfni512,
    /// GFNI on 256-bit registers.
    Gfni256,
    /// Table look-ups by VPSHUFB.
    Avx2,
    /// Table look-ups by TBL.
    Neon,
    /// Plain code.
    Scalar,
    /// The instructions of `Gfni512` in plain code, for tests.
    #[cfg(test)]
    Model,
}

impl Path {
    /// Every path, the fastest first.
    pub const ALL: [Self; 5] = [
        Self::Gfni512,
        Self::Gfni256,
        Self::Avx2,
        Self::Neon,
        Self::Scalar,
    ];

    /// Its name, as `ZOS_ERASURE_PATH` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gfni512 => "gfni512",
            Self::Gfni256 => "gfni256",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Scalar => "scalar",
            #[cfg(test)]
            Self::Model => "model",
        }
    }

    /// Whether this machine has its instructions.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Gfni512 => {
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("gfni")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Gfni256 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("gfni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            Self::Scalar => true,
            #[cfg(test)]
            Self::Model => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The fastest that this machine has; found once.
    pub fn best() -> Self {
        static BEST: OnceLock<Path> = OnceLock::new();
        *BEST.get_or_init(|| {
            let mut all = Self::ALL.into_iter();
            all.find(|path| path.is_available()).unwrap_or(Self::Scalar)
        })
    }

    /// By name.
    ///
    /// # Errors
    ///
    /// There is no such path, or this machine has not its instructions: never another one instead.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        let Some(path) = Self::ALL.into_iter().find(|path| path.name() == name) else {
            let known = Self::ALL.map(Self::name).join(", ");
            return Err(Error::Path(format!("no path {name:?}; known: {known}")));
        };
        if !path.is_available() {
            let text = format!("this machine has not the instructions of the path {name}");
            return Err(Error::Path(text));
        }
        Ok(path)
    }

    /// Bytes multiplied and added in a microsecond by one core, about: 4 for each byte of data of 16 + 4.
    pub(crate) const fn products_per_us(self) -> usize {
        match self {
            Self::Gfni512 => 140_000,
            Self::Gfni256 => 110_000,
            Self::Avx2 => 70_000,
            Self::Neon => 20_000,
            Self::Scalar => 1_500,
            #[cfg(test)]
            Self::Model => 100,
        }
    }

    /// Whether a factor in the tables is a bit matrix of 8 bytes, not two tables of 16.
    pub(crate) const fn is_affine(self) -> bool {
        match self {
            Self::Gfni512 | Self::Gfni256 => true,
            #[cfg(test)]
            Self::Model => true,
            Self::Avx2 | Self::Neon | Self::Scalar => false,
        }
    }
}

/// How targets are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// Through the caches.
    Cached,
    /// Around them, where all targets are aligned alike.
    Streaming,
}

/// One pass: targets[i] = bases[i] + sum over j of factor(j, i) * sources[j], for the bytes from..to of each.
///
/// Every pointer is good for `to` bytes, targets for writing; no target overlaps a source or another target, and a
/// base either lies apart from all targets or is the target of the same row. `table` holds targets.len() factors for
/// each source. `bases` is empty or as long as `targets`, which are 1 to ROWS_MAX.
pub(crate) struct Job<'a> {
    table: *const u8,
    sources: &'a [*const u8],
    bases: &'a [*const u8],
    targets: &'a [*mut u8],
    from: usize,
    to: usize,
    store: Store,
}

/// targets = bases + rows * sources, for the bytes from..to of every shard.
///
/// # Safety
///
/// As for `Job`, with as many sources and targets as the tables were made for; their path is available here.
pub(crate) unsafe fn combine(
    tables: &Tables,
    sources: &[*const u8],
    bases: &[*const u8],
    targets: &[*mut u8],
    (from, to): (usize, usize),
    store: Store,
) {
    debug_assert_eq!(
        (sources.len(), targets.len()),
        (tables.columns(), tables.rows())
    );
    debug_assert!(bases.is_empty() || bases.len() == targets.len());
    let piece = match tables.groups() {
        [_] => to - from,
        _ => (PASS_BYTES / sources.len()).max(PIECE_BYTES_MIN) & !63,
    };
    let mut at = from;
    while at < to {
        let end = at + piece.min(to - at);
        for Group { first, rows, table } in tables.groups() {
            let job = Job {
                table: table.as_ptr().cast(),
                sources,
                bases: bases.get(*first..*first + *rows).unwrap_or(&[]),
                targets: &targets[*first..*first + *rows],
                from: at,
                to: end,
                store,
            };
            // SAFETY: the caller's promise, for a part of its targets.
            unsafe { run(tables.path(), &job) };
        }
        at = end;
    }
}

/// # Safety
///
/// As for `combine`.
unsafe fn run(path: Path, job: &Job<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        match path {
            #[cfg(target_arch = "x86_64")]
            Path::Gfni512 => gfni512::run(job),
            #[cfg(target_arch = "x86_64")]
            Path::Gfni256 => gfni256::run(job),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => avx2::run(job),
            #[cfg(target_arch = "aarch64")]
            Path::Neon => neon::run(job),
            Path::Scalar => scalar::run(job),
            #[cfg(test)]
            Path::Model => model::run(job),
            #[allow(unreachable_patterns)]
            other => unreachable!("{} is not of this architecture", other.name()),
        }
    }
}

/// XORs all sources into every target: what the memory of this machine allows a code, for `bench/`.
///
/// # Errors
///
/// Lengths differ or are 0, outputs overlap, or there are not 1 to 6 targets.
pub fn roofline(
    sources: &[Source<'_>],
    targets: &[Target<'_>],
    streaming: bool,
) -> Result<(), Error> {
    if !(1..=ROWS_MAX).contains(&targets.len()) || sources.is_empty() {
        return Err(Error::Count("the roofline takes 1 to 6 targets".into()));
    }
    let length = code::same_length(sources, targets)?;
    code::no_overlap(sources, targets)?;
    let from: Vec<*const u8> = sources.iter().map(Source::start).collect();
    let to: Vec<*mut u8> = targets.iter().map(Target::start).collect();
    let store = if streaming {
        Store::Streaming
    } else {
        Store::Cached
    };
    let job = Job {
        table: std::ptr::null(),
        sources: &from,
        bases: &[],
        targets: &to,
        from: 0,
        to: length,
        store,
    };
    // SAFETY: lengths and overlaps were checked, spans are good while they are borrowed; plain lanes read no factors.
    unsafe { plain::run(&job) };
    Ok(())
}
