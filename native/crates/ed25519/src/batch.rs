//! Many signatures at once: their equations are added up, each times a random number that nobody could foresee.
//!
//! A sum that is zero proves every equation in it but with a chance of 2^-128 (SIG-3). One that is not is taken apart,
//! down to single signatures, so that the verdicts are always those of the single check.

use std::collections::HashMap;

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use curve25519_dalek::{EdwardsPoint, Scalar};

use crate::key::Parsed;
use crate::{Error, Key, Keys, KEY_BYTES, SIGNATURE_BYTES};

/// Signatures of one sum at most: more gain nothing (bench/bench_sign.py), and the points leave the cache.
pub const BATCH_MAX: usize = 1024;
/// From this many signatures on one sum is faster than sums of `SMALL`: the multiplication changes its method at 190
/// points, and is at its worst just below.
const LARGE: usize = 95;
/// Signatures of a small sum.
const SMALL: usize = 16;

/// By whom the signatures of a batch are.
#[derive(Clone, Copy)]
pub enum Signers<'a> {
    /// By keys that were decompressed before: number i is by that of this number.
    Known(&'a Keys, &'a [u32]),
    /// Number i is by this key; one that comes again is decompressed once for each sum.
    Plain(&'a [[u8; KEY_BYTES]]),
}

/// Signatures to check: number i is over `message(i)`.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// By whom they are.
    pub signers: Signers<'a>,
    /// The signatures.
    pub signatures: &'a [[u8; SIGNATURE_BYTES]],
    /// The message of a signature.
    pub message: &'a (dyn Fn(usize) -> &'a [u8] + Sync),
}

/// A signature that is neither right nor wrong yet.
struct Open<'a> {
    /// Its place among the verdicts.
    place: usize,
    signer: u32,
    key: &'a Key,
    parsed: Parsed,
}

impl Signers<'_> {
    /// By whom a signature is; `None` where that is no point, or nobody.
    #[must_use]
    pub fn key(&self, index: usize) -> Option<Key> {
        match self {
            Self::Known(keys, numbers) => keys.get(*numbers.get(index)?).cloned(),
            Self::Plain(keys) => Key::new(keys.get(index)?),
        }
    }
}

impl Batch<'_> {
    /// Says of each signature from number `first` on whether it is right; as many as `verdicts` has room for.
    pub fn verdicts(&self, first: usize, verdicts: &mut [bool]) -> Result<(), Error> {
        self.check(first, verdicts.len())?;
        let mut at = first;
        let size = sum_size(verdicts.len());
        for some in verdicts.chunks_mut(size) {
            self.sum(at, some)?;
            at += some.len();
        }
        Ok(())
    }

    /// The same, with work for `threads` threads (1 and more), this one included.
    pub fn verdicts_by(
        &self,
        first: usize,
        verdicts: &mut [bool],
        threads: usize,
    ) -> Result<(), Error> {
        let share = verdicts.len().div_ceil(threads.max(1));
        if share == verdicts.len() || share == 0 {
            return self.verdicts(first, verdicts);
        }
        std::thread::scope(|scope| {
            let (own, others) = verdicts.split_at_mut(share);
            let workers: Vec<_> = (first + share..)
                .step_by(share)
                .zip(others.chunks_mut(share))
                .map(|(at, some)| {
                    std::thread::Builder::new()
                        .spawn_scoped(scope, move || self.verdicts(at, some))
                        .map_err(|_| Error::Threads)
                })
                .collect();
            let mut outcome = self.verdicts(first, own);
            for worker in workers {
                // A panic goes on in the caller, as it would without threads.
                let other = worker.and_then(|worker| {
                    worker
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                });
                outcome = outcome.and(other);
            }
            outcome
        })
    }

    /// Checks that signers and signatures fit together, `count` of them from number `first` on.
    pub fn check(&self, first: usize, count: usize) -> Result<(), Error> {
        let signers = match self.signers {
            Signers::Known(_, numbers) => numbers.len(),
            Signers::Plain(keys) => keys.len(),
        };
        if signers != self.signatures.len() {
            return Err(Error::Argument("signers and signatures differ in number"));
        }
        let end = first.checked_add(count).filter(|end| *end <= signers);
        let Some(end) = end else {
            return Err(Error::Argument("there are fewer signatures than verdicts"));
        };
        if let Signers::Known(keys, numbers) = self.signers {
            let unknown = |number: &u32| *number as usize >= keys.len();
            if numbers[first..end].iter().any(unknown) {
                return Err(Error::Argument("a signer is none of the keys"));
            }
        }
        Ok(())
    }

    /// Verdicts of signatures that fit into one sum.
    fn sum(&self, first: usize, verdicts: &mut [bool]) -> Result<(), Error> {
        let end = first + verdicts.len();
        match self.signers {
            Signers::Known(keys, numbers) => {
                self.sum_by(keys, &numbers[first..end], first, verdicts)
            }
            Signers::Plain(all) => {
                let mut numbers = Vec::with_capacity(verdicts.len());
                let mut known = HashMap::with_capacity(verdicts.len());
                let mut keys = Keys::default();
                for key in &all[first..end] {
                    let number = *known.entry(key).or_insert_with(|| {
                        keys.add(std::slice::from_ref(key));
                        keys.len() as u32 - 1
                    });
                    numbers.push(number);
                }
                self.sum_by(&keys, &numbers, first, verdicts)
            }
        }
    }

    fn sum_by(
        &self,
        keys: &Keys,
        numbers: &[u32],
        first: usize,
        verdicts: &mut [bool],
    ) -> Result<(), Error> {
        let mut open = Vec::with_capacity(verdicts.len());
        for (place, (verdict, signer)) in verdicts.iter_mut().zip(numbers).enumerate() {
            *verdict = false;
            let message = (self.message)(first + place);
            let parsed = keys.get(*signer).and_then(|key| {
                let parsed = key.parse(message, &self.signatures[first + place])?;
                Some((key, parsed))
            });
            if let Some((key, parsed)) = parsed {
                open.push(Open {
                    place,
                    signer: *signer,
                    key,
                    parsed,
                });
            }
        }
        if all_hold(&open)? {
            open.iter().for_each(|one| verdicts[one.place] = true);
            return Ok(());
        }
        // One that is wrong costs a second sum of those beside it and singles of its nearest, not of all.
        for some in open.chunks(SMALL) {
            let right = open.len() > SMALL && all_hold(some)?;
            for one in some {
                verdicts[one.place] = right || one.key.holds(&one.parsed);
            }
        }
        Ok(())
    }
}

/// How many of `count` signatures go into one sum.
fn sum_size(count: usize) -> usize {
    if count < LARGE {
        SMALL
    } else {
        // Equal shares: a small rest would cost more than it spares.
        count.div_ceil(count.div_ceil(BATCH_MAX))
    }
}

/// Whether every equation holds, by one sum; false may be said of one alone only.
fn all_hold(signatures: &[Open<'_>]) -> Result<bool, Error> {
    match signatures {
        [] => return Ok(true),
        [one] => return Ok(one.key.holds(&one.parsed)),
        _ => {}
    }
    let mut random = vec![0; 16 * signatures.len()];
    getrandom::fill(&mut random).map_err(|_| Error::Randomness)?;
    // Terms: B, each key once, each R. All of sum z (R + k A - s B), with the keys' points negated.
    let mut base = Scalar::ZERO;
    let mut slots = HashMap::with_capacity(signatures.len());
    let mut scalars = vec![Scalar::ZERO];
    let mut points = vec![ED25519_BASEPOINT_POINT];
    let mut factors = Vec::with_capacity(signatures.len());
    for (one, bytes) in signatures.iter().zip(random.as_chunks::<16>().0) {
        let factor = Scalar::from(u128::from_le_bytes(*bytes));
        base -= factor * one.parsed.s;
        let slot = *slots.entry(one.signer).or_insert_with(|| {
            scalars.push(Scalar::ZERO);
            points.push(*one.key.minus());
            scalars.len() - 1
        });
        scalars[slot] -= factor * one.parsed.k;
        factors.push(factor);
    }
    scalars[0] = base;
    scalars.extend_from_slice(&factors);
    points.extend(signatures.iter().map(|one| one.parsed.r));
    let sum = EdwardsPoint::vartime_multiscalar_mul(&scalars, &points);
    Ok(sum.mul_by_cofactor().is_identity())
}
