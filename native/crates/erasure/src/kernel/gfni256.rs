//! GFNI on AVX2's registers: a product is one multiplication by a bit matrix, 32 bytes at a time.

use std::arch::x86_64::*;

use super::lane::{entry, moves, Lane};

#[derive(Clone, Copy)]
struct Ymm(__m256i);

// SAFETY of every function: the `Lane` contract; AVX2 and GFNI are there, and pointers are good for 32 bytes.
impl Lane for Ymm {
    const BYTES: usize = 32;
    const FACTOR_BYTES: usize = 8;
    const PAIRS: bool = false;
    type Factor = __m256i;
    type Ready = __m256i;

    moves!(
        _mm256_setzero_si256,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        _mm256_stream_si256,
        _mm256_xor_si256
    );

    #[inline(always)]
    unsafe fn ready(self) -> Self::Ready {
        self.0
    }
    #[inline(always)]
    unsafe fn factor(at: *const u8) -> Self::Factor {
        // SAFETY: see above.
        unsafe { _mm256_set1_epi64x(at.cast::<i64>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn product(ready: Self::Ready, factor: Self::Factor) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_gf2p8affine_epi64_epi8::<0>(ready, factor) })
    }
}

// 16 registers: rows x lanes of sums, one for each lane that is ready, one of a factor.
entry!(Ymm, #[target_feature(enable = "avx2,gfni")], 1 x 4, 2 x 4, 3 x 3, 4 x 2, 5 x 2, 6 x 2);
