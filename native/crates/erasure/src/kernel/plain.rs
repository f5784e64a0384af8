//! The roofline: lanes that multiply by nothing, in the widest registers that the machine has.

use super::lane::Lane;
use super::{Job, Path};

/// A lane of another path that leaves the factors out.
#[derive(Clone, Copy)]
struct Plain<L>(L);

// SAFETY of every function: that of the lane inside; factors are not read.
impl<L: Lane> Lane for Plain<L> {
    const BYTES: usize = L::BYTES;
    const FACTOR_BYTES: usize = 0;
    const PAIRS: bool = L::PAIRS;
    type Factor = ();
    type Ready = Self;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Self(unsafe { L::zero() })
    }
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe { L::load(at) })
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: see above.
        unsafe { self.0.store(at) }
    }
    #[inline(always)]
    unsafe fn stream(self, at: *mut u8) {
        // SAFETY: see above.
        unsafe { self.0.stream(at) }
    }
    #[inline(always)]
    unsafe fn fence() {
        // SAFETY: see above.
        unsafe { L::fence() }
    }
    #[inline(always)]
    unsafe fn ready(self) -> Self {
        self
    }
    #[inline(always)]
    unsafe fn factor(_: *const u8) {}
    #[inline(always)]
    unsafe fn product(ready: Self, (): ()) -> Self {
        ready
    }
    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { self.0.xor(other.0) })
    }
    #[inline(always)]
    unsafe fn xor3(self, b: Self, c: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { self.0.xor3(b.0, c.0) })
    }
}

#[cfg(target_arch = "x86_64")]
mod zmm {
    super::super::lane::entry!(super::Plain<super::super::gfni512::Zmm>, #[target_feature(enable = "avx512f,gfni")],
        1 x 4, 2 x 4, 3 x 4, 4 x 4, 5 x 3, 6 x 3);
}
#[cfg(target_arch = "x86_64")]
mod ymm {
    super::super::lane::entry!(super::Plain<super::super::avx2::Ymm>, #[target_feature(enable = "avx2")],
        1 x 4, 2 x 4, 3 x 3, 4 x 2, 5 x 2, 6 x 2);
}
mod word {
    super::super::lane::entry!(super::Plain<super::super::scalar::Word>, , 1 x 1, 2 x 1, 3 x 1, 4 x 1, 5 x 1, 6 x 1);
}

/// # Safety
///
/// As for `Job`.
pub(super) unsafe fn run(job: &Job<'_>) {
    // SAFETY: the caller's promise; the path was asked for.
    unsafe {
        match Path::best() {
            #[cfg(target_arch = "x86_64")]
            Path::Gfni512 => zmm::run(job),
            #[cfg(target_arch = "x86_64")]
            Path::Gfni256 | Path::Avx2 => ymm::run(job),
            _ => word::run(job),
        }
    }
}
