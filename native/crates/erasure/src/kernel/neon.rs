//! NEON: a product is two look-ups of nibbles in 16-byte tables (TBL), 16 bytes at a time.

use std::arch::aarch64::*;

use super::lane::{entry, Lane};

#[derive(Clone, Copy)]
struct Q(uint8x16_t);

// SAFETY of every function: the `Lane` contract; NEON is part of AArch64, and pointers are good for 16 bytes.
impl Lane for Q {
    const BYTES: usize = 16;
    const FACTOR_BYTES: usize = 32;
    const PAIRS: bool = false;
    type Factor = (uint8x16_t, uint8x16_t);
    type Ready = (uint8x16_t, uint8x16_t);

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Self(unsafe { vdupq_n_u8(0) })
    }
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe { vld1q_u8(at) })
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: see above.
        unsafe { vst1q_u8(at, self.0) }
    }
    /// No intrinsic makes an STNP; a plain store is right, too.
    #[inline(always)]
    unsafe fn stream(self, at: *mut u8) {
        // SAFETY: see above.
        unsafe { self.store(at) }
    }
    #[inline(always)]
    unsafe fn fence() {}
    #[inline(always)]
    unsafe fn ready(self) -> Self::Ready {
        // SAFETY: see above.
        unsafe { (vandq_u8(self.0, vdupq_n_u8(15)), vshrq_n_u8::<4>(self.0)) }
    }
    #[inline(always)]
    unsafe fn factor(at: *const u8) -> Self::Factor {
        // SAFETY: see above.
        unsafe { (vld1q_u8(at), vld1q_u8(at.add(16))) }
    }
    #[inline(always)]
    unsafe fn product(ready: Self::Ready, factor: Self::Factor) -> Self {
        // SAFETY: see above.
        unsafe {
            Self(veorq_u8(
                vqtbl1q_u8(factor.0, ready.0),
                vqtbl1q_u8(factor.1, ready.1),
            ))
        }
    }
    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { veorq_u8(self.0, other.0) })
    }
}

// 32 registers: rows x lanes of sums, two for each lane that is ready, two of a factor.
entry!(Q, #[target_feature(enable = "neon")], 1 x 4, 2 x 4, 3 x 4, 4 x 4, 5 x 3, 6 x 3);
