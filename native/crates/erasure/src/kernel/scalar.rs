//! No vector instructions at all: two look-ups for each byte. For machines without the others, and to compare with.

use super::lane::{entry, Lane};

#[derive(Clone, Copy)]
pub(super) struct Word([u8; 8]);

// SAFETY of every function: the `Lane` contract; pointers are good for 8 bytes, a factor's for 32.
impl Lane for Word {
    const BYTES: usize = 8;
    const FACTOR_BYTES: usize = 32;
    const PAIRS: bool = false;
    type Factor = *const [u8; 32];
    type Ready = [u8; 8];

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; 8])
    }
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe { at.cast::<[u8; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: see above.
        unsafe { at.cast::<[u8; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn stream(self, at: *mut u8) {
        // SAFETY: see above.
        unsafe { self.store(at) }
    }
    #[inline(always)]
    unsafe fn fence() {}
    #[inline(always)]
    unsafe fn ready(self) -> Self::Ready {
        self.0
    }
    #[inline(always)]
    unsafe fn factor(at: *const u8) -> Self::Factor {
        at.cast()
    }
    #[inline(always)]
    unsafe fn product(ready: Self::Ready, factor: Self::Factor) -> Self {
        // SAFETY: see above.
        let table = unsafe { &*factor };
        Self(ready.map(|byte| table[usize::from(byte & 15)] ^ table[usize::from(byte >> 4) + 16]))
    }
    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        Self((u64::from_ne_bytes(self.0) ^ u64::from_ne_bytes(other.0)).to_ne_bytes())
    }
}

entry!(Word, , 1 x 1, 2 x 1, 3 x 1, 4 x 1, 5 x 1, 6 x 1);
