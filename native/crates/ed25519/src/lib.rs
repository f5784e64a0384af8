//! Ed25519 verification by ZIP-215 (docs/spec/signatures.md): single, in batches, coalesced over many messages.
//!
//! One predicate decides everywhere (SIG-2): a signature (R, s) of a message M under a key A is right when A and R are
//! encodings of curve points, canonical or not, s is below the group's order, and 8 s B = 8 R + 8 k A, where k is the
//! SHA-512 of R, A and M. Because the equation is multiplied by the cofactor, checking many signatures in one sum gives
//! the verdict that checking each of them gives: a batch can be split, joined and repeated without changing an answer.
//!
//! ```
//! let keys = ed25519::Keys::new(&[[1; 32], [2; 32]]);
//! let signers = ed25519::Signers::Known(&keys, &[1, 0]);
//! let batch = ed25519::Batch { signers, signatures: &[[0; 64]; 2], message: &|_| b"text" };
//! let mut verdicts = [true; 2];
//! batch.verdicts(0, &mut verdicts).unwrap();
//! assert_eq!(verdicts, [false; 2]);
//! ```

#![forbid(unsafe_code)]

mod batch;
mod error;
mod key;

pub use batch::{Batch, Signers, BATCH_MAX};
pub use error::{Error, Fault};
pub use key::{check_key, verify, Check, Key, Keys};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// Name of the vector unit that the curve's arithmetic is done with on this machine.
#[must_use]
pub fn backend() -> &'static str {
    // curve25519-dalek decides in the same way, and does not tell.
    #[cfg(target_arch = "x86_64")]
    {
        if cfg!(curve25519_dalek_backend = "avx512")
            && std::is_x86_feature_detected!("avx512ifma")
            && std::is_x86_feature_detected!("avx512vl")
        {
            return "avx512ifma";
        }
        if std::is_x86_feature_detected!("avx2") {
            return "avx2";
        }
    }
    "serial"
}
