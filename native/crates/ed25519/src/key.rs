//! Keys, decompressed once, and the predicate itself.

use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::traits::IsIdentity;
use curve25519_dalek::{EdwardsPoint, Scalar};
use sha2::{Digest, Sha512};

use crate::{Error, Fault, KEY_BYTES, SIGNATURE_BYTES};

/// A key as a point.
#[derive(Debug, Clone)]
pub struct Key {
    bytes: [u8; KEY_BYTES],
    /// The point with its sign changed, which is what every equation needs.
    minus: EdwardsPoint,
}

/// A signature whose two halves were found well-formed, with the scalar that its message gives.
pub(crate) struct Parsed {
    pub r: EdwardsPoint,
    pub s: Scalar,
    pub k: Scalar,
}

impl Key {
    /// The point of a key; `None` where the encoding is that of none (SIG-1).
    #[must_use]
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Option<Self> {
        let point = CompressedEdwardsY(*bytes).decompress()?;
        Some(Self {
            bytes: *bytes,
            minus: -point,
        })
    }

    /// Whether `signature` is right for `message` (SIG-2).
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        self.check(signature).is_some_and(|mut check| {
            check.update(message);
            check.is_right()
        })
    }

    /// Begins to check a signature whose message comes bit by bit; `None` for one that is wrong whatever the message.
    #[must_use]
    pub fn check(&self, signature: &[u8; SIGNATURE_BYTES]) -> Option<Check<'_>> {
        let (r, s) = signature.split_first_chunk::<32>()?;
        Some(Check {
            key: self,
            s: Option::from(Scalar::from_canonical_bytes(s.try_into().ok()?))?,
            r: CompressedEdwardsY(*r).decompress()?,
            hash: Sha512::new().chain_update(r).chain_update(self.bytes),
        })
    }

    /// Reads a signature; `None` for one that is wrong whatever the key.
    pub(crate) fn parse(
        &self,
        message: &[u8],
        signature: &[u8; SIGNATURE_BYTES],
    ) -> Option<Parsed> {
        let mut check = self.check(signature)?;
        check.update(message);
        Some(check.parsed())
    }

    /// The equation of one signature.
    pub(crate) fn holds(&self, signature: &Parsed) -> bool {
        let r = EdwardsPoint::vartime_double_scalar_mul_basepoint(
            &signature.k,
            &self.minus,
            &signature.s,
        );
        (r - signature.r).mul_by_cofactor().is_identity()
    }

    pub(crate) fn minus(&self) -> &EdwardsPoint {
        &self.minus
    }
}

/// A signature that is being checked.
#[derive(Debug, Clone)]
pub struct Check<'a> {
    key: &'a Key,
    r: EdwardsPoint,
    s: Scalar,
    hash: Sha512,
}

impl Check<'_> {
    /// Adds to the end of the message.
    pub fn update(&mut self, message: &[u8]) {
        self.hash.update(message);
    }

    /// Whether the signature is right for all of it (SIG-2).
    #[must_use]
    pub fn is_right(self) -> bool {
        let key = self.key;
        key.holds(&self.parsed())
    }

    fn parsed(self) -> Parsed {
        Parsed {
            r: self.r,
            s: self.s,
            k: Scalar::from_bytes_mod_order_wide(&self.hash.finalize().into()),
        }
    }
}

/// Whether `signature` is right for `message` under `key` (SIG-2).
#[must_use]
pub fn verify(key: &[u8; KEY_BYTES], message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
    Key::new(key).is_some_and(|key| key.verify(message, signature))
}

/// Refuses a key that nobody may register, although signatures under it could be right (SIG-5).
pub fn check_key(key: &[u8; KEY_BYTES]) -> Result<(), Fault> {
    let point = CompressedEdwardsY(*key)
        .decompress()
        .ok_or(Fault::NoPoint)?;
    if point.compress().0 != *key {
        return Err(Fault::NonCanonical);
    }
    if point.is_small_order() {
        return Err(Fault::SmallOrder);
    }
    Ok(())
}

/// Many keys, decompressed once: a validator set, a keyring. Nothing in it ever changes, so threads share it freely.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    keys: Vec<Option<Key>>,
}

impl Keys {
    /// Decompresses keys; under one that is no point every signature is wrong.
    #[must_use]
    pub fn new(keys: &[[u8; KEY_BYTES]]) -> Self {
        let mut known = Self::default();
        known.add(keys);
        known
    }

    /// Takes the memory of so many more keys.
    pub fn reserve(&mut self, count: usize) -> Result<(), Error> {
        self.keys
            .try_reserve_exact(count)
            .map_err(|_| Error::Memory)
    }

    /// Decompresses more keys, behind the others.
    pub fn add(&mut self, keys: &[[u8; KEY_BYTES]]) {
        self.keys.extend(keys.iter().map(Key::new));
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// A key by its number; `None` also for one that is no point.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&Key> {
        self.keys.get(index as usize)?.as_ref()
    }
}
