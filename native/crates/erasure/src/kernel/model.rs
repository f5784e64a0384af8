//! GFNI on 512-bit registers in plain Rust, by the definition of the instruction: proves tables and loop on machines
//! that have not the instructions. Tests only.

use super::lane::{entry, Lane};

#[derive(Clone, Copy)]
struct Model([u8; 64]);

// SAFETY of every function: the `Lane` contract; pointers are good for 64 bytes, a factor's for 8.
impl Lane for Model {
    const BYTES: usize = 64;
    const FACTOR_BYTES: usize = 8;
    const PAIRS: bool = true;
    type Factor = [u8; 8];
    type Ready = [u8; 64];

    unsafe fn zero() -> Self {
        Self([0; 64])
    }
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe { at.cast::<[u8; 64]>().read_unaligned() })
    }
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: see above.
        unsafe { at.cast::<[u8; 64]>().write_unaligned(self.0) }
    }
    unsafe fn stream(self, at: *mut u8) {
        assert_eq!(at.addr() % 64, 0, "a streaming store must be aligned");
        // SAFETY: see above.
        unsafe { self.store(at) }
    }
    unsafe fn fence() {}
    unsafe fn ready(self) -> [u8; 64] {
        self.0
    }
    unsafe fn factor(at: *const u8) -> [u8; 8] {
        // SAFETY: see above.
        unsafe { at.cast::<[u8; 8]>().read_unaligned() }
    }
    unsafe fn product(ready: [u8; 64], factor: [u8; 8]) -> Self {
        Self(ready.map(|byte| {
            (0..8).fold(0, |sum, bit| {
                sum | ((factor[7 - bit] & byte).count_ones() as u8 & 1) << bit
            })
        }))
    }
    unsafe fn xor(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] ^ other.0[at]))
    }
}

entry!(Model, , 1 x 4, 2 x 4, 3 x 4, 4 x 4, 5 x 3, 6 x 3);
