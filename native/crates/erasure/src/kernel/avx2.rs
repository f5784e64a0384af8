//! AVX2: a product is two look-ups of nibbles in 16-byte tables (VPSHUFB), 32 bytes at a time.

use std::arch::x86_64::*;

use super::lane::{entry, moves, Lane};

#[derive(Clone, Copy)]
pub(super) struct Ymm(__m256i);

// SAFETY of every function: the `Lane` contract; AVX2 is there, and pointers are good for 32 bytes.
impl Lane for Ymm {
    const BYTES: usize = 32;
    const FACTOR_BYTES: usize = 32;
    const PAIRS: bool = false;
    type Factor = (__m256i, __m256i);
    type Ready = (__m256i, __m256i);

    moves!(
        _mm256_setzero_si256,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        _mm256_stream_si256,
        _mm256_xor_si256
    );

    #[inline(always)]
    unsafe fn ready(self) -> Self::Ready {
        // SAFETY: see above.
        unsafe {
            let low = _mm256_set1_epi8(15);
            (
                _mm256_and_si256(self.0, low),
                _mm256_and_si256(_mm256_srli_epi64::<4>(self.0), low),
            )
        }
    }
    #[inline(always)]
    unsafe fn factor(at: *const u8) -> Self::Factor {
        // SAFETY: see above.
        unsafe {
            (
                _mm256_broadcastsi128_si256(_mm_load_si128(at.cast())),
                _mm256_broadcastsi128_si256(_mm_load_si128(at.add(16).cast())),
            )
        }
    }
    #[inline(always)]
    unsafe fn product(ready: Self::Ready, factor: Self::Factor) -> Self {
        // SAFETY: see above.
        unsafe {
            Self(_mm256_xor_si256(
                _mm256_shuffle_epi8(factor.0, ready.0),
                _mm256_shuffle_epi8(factor.1, ready.1),
            ))
        }
    }
}

// 16 registers: rows x lanes of sums, two for each lane that is ready, two of a factor.
entry!(Ymm, #[target_feature(enable = "avx2")], 1 x 4, 2 x 3, 3 x 2, 4 x 2, 5 x 1, 6 x 1);
