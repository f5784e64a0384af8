//! Reed-Solomon erasure coding over GF(2^8), docs/spec/erasure.md.
//!
//! A [`Code`] of k data and m parity shards checks the arguments of a call and gives a [`Task`], which is run whole or
//! in parts, by one thread or several. Any k of the k + m shards give all the others back. Lengths are in bytes and may
//! be anything from 1; a shard's place in memory may be anything, too.
//!
//! Speed comes from `kernel`: one loop, compiled for each set of instructions, of which the best is found once at run
//! time. Nothing is allocated in proportion to a shard.

#![deny(unsafe_code)]

mod code;
mod error;
mod field;
mod inverse;
#[allow(unsafe_code)]
mod kernel;
mod matrix;
#[cfg(test)]
mod tests;

pub use code::{Code, Repair};
pub use error::{guard, Error, Shown};
pub use kernel::span::{Source, Target};
pub use kernel::task::{Task, THREADS_MAX};
pub use kernel::{roofline, Path};
pub use matrix::Matrix;

/// Most data shards.
pub const K_MAX: usize = 128;
/// Most parity shards.
pub const M_MAX: usize = 32;
/// Most shards together: one point of the field for each, and 0xff left over as a mark of none.
pub const SHARDS_MAX: usize = 255;
/// From so many bytes of sources on, targets are stored around the caches. Below it the stores cost more than the lines
/// they save: at 16 + 4, equal near 16 MiB on a Zen 4 (0.3x at 4 MiB, 1.3 to 1.6x at 128 MiB), and between
/// 32 and 48 MiB on a Zen 3 with 32 MiB of L3 (AVX2: 0.65x at 8 MiB, 0.74x at 16, 0.96x at 32, 1.15x at 48, 1.09x at 128).
pub const STREAMING_BYTES_MIN: usize = 32 << 20;
