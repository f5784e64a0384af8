//! Against ed25519-zebra and ed25519-consensus (another curve library): honest, damaged and hostile signatures.
//!
//! `cargo test` takes some thousands; `cargo test --release -p ed25519@0.1.0 --test oracles -- --ignored` a million, or
//! ZOS_ORACLE_SIGNATURES; `zos bench run sign --peers` runs that and reports the count.

use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use curve25519_dalek::{EdwardsPoint, Scalar};
use ed25519::{verify, Batch, Keys, Signers, BATCH_MAX};
use sha2::{Digest, Sha512};

/// Bytes that look random and are the same in every run.
struct Draw {
    seed: u64,
    count: u64,
}

impl Draw {
    fn bytes(&mut self) -> [u8; 64] {
        self.count += 1;
        Sha512::new()
            .chain_update(self.seed.to_le_bytes())
            .chain_update(self.count.to_le_bytes())
            .finalize()
            .into()
    }

    fn below(&mut self, limit: usize) -> usize {
        let bytes = self.bytes();
        (u64::from_le_bytes(*bytes.first_chunk().unwrap()) % limit as u64) as usize
    }

    fn scalar(&mut self) -> Scalar {
        Scalar::from_bytes_mod_order_wide(&self.bytes())
    }

    fn torsion(&mut self) -> EdwardsPoint {
        EIGHT_TORSION[self.below(8)]
    }

    fn message(&mut self) -> Vec<u8> {
        let length = [0, 1, 32, 111, 112, 120, 128, 300][self.below(8)];
        let mut message = self.bytes().repeat(5);
        message.truncate(length);
        message
    }
}

#[derive(Clone)]
struct Case {
    key: [u8; 32],
    message: Vec<u8>,
    signature: [u8; 64],
}

/// One more than the largest value of s that is right: the group's order.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// The 14 encodings of points of small order.
fn small_encodings() -> Vec<[u8; 32]> {
    let mut all: Vec<[u8; 32]> = EIGHT_TORSION
        .iter()
        .map(|point| point.compress().0)
        .collect();
    for low in [0xed, 0xee] {
        for high in [0x7f, 0xff] {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (low, high);
            all.push(bytes);
        }
    }
    let mut minus = [0; 32];
    (minus[0], minus[31]) = (1, 0x80);
    all.push(minus);
    let mut minus = [0xff; 32];
    minus[0] = 0xec;
    all.push(minus);
    all
}

/// A signature under the secret `a` with nonce `r`, whose key and R are given by their encodings.
fn signed(a: Scalar, r: Scalar, key: [u8; 32], point: [u8; 32], message: Vec<u8>) -> Case {
    let hash = Sha512::new()
        .chain_update(point)
        .chain_update(key)
        .chain_update(&message)
        .finalize();
    let k = Scalar::from_bytes_mod_order_wide(&hash.into());
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&point);
    signature[32..].copy_from_slice((r + k * a).as_bytes());
    Case {
        key,
        message,
        signature,
    }
}

fn honest(draw: &mut Draw, a: Scalar) -> Case {
    let r = draw.scalar();
    let key = (a * ED25519_BASEPOINT_POINT).compress().0;
    let point = (r * ED25519_BASEPOINT_POINT).compress().0;
    let message = draw.message();
    signed(a, r, key, point, message)
}

fn flip(draw: &mut Draw, bytes: &mut [u8]) {
    if !bytes.is_empty() {
        let place = draw.below(bytes.len());
        bytes[place] ^= 1 << draw.below(8);
    }
}

/// One of everything that somebody could try; `secrets` are those of keys that are used often.
fn any(draw: &mut Draw, secrets: &[Scalar], small: &[[u8; 32]]) -> Case {
    let a = secrets[draw.below(secrets.len())];
    let r = draw.scalar();
    let key = a * ED25519_BASEPOINT_POINT;
    let point = r * ED25519_BASEPOINT_POINT;
    let message = draw.message();
    match draw.below(14) {
        0 => {
            let mut case = honest(draw, a);
            flip(draw, &mut case.signature);
            case
        }
        1 => {
            let mut case = honest(draw, a);
            flip(draw, &mut case.key);
            case
        }
        2 => {
            let mut case = honest(draw, a);
            flip(draw, &mut case.message);
            case
        }
        // Right by the cofactor alone.
        3 => signed(
            a,
            r,
            (key + draw.torsion()).compress().0,
            point.compress().0,
            message,
        ),
        4 => signed(
            a,
            r,
            key.compress().0,
            (point + draw.torsion()).compress().0,
            message,
        ),
        5 => {
            let (one, other) = (draw.torsion(), draw.torsion());
            signed(
                a,
                r,
                (key + one).compress().0,
                (point + other).compress().0,
                message,
            )
        }
        // Points of small order, in every encoding.
        6 => signed(
            Scalar::ZERO,
            r,
            small[draw.below(14)],
            point.compress().0,
            message,
        ),
        7 => signed(
            a,
            Scalar::ZERO,
            key.compress().0,
            small[draw.below(14)],
            message,
        ),
        8 => signed(
            Scalar::ZERO,
            Scalar::ZERO,
            small[draw.below(14)],
            small[draw.below(14)],
            message,
        ),
        9 => signed(
            Scalar::ZERO,
            Scalar::ONE,
            small[draw.below(14)],
            small[draw.below(14)],
            message,
        ),
        // s + L, which wraps to the same scalar.
        10 => {
            let mut case = honest(draw, a);
            let mut carry = 0;
            for (byte, order) in case.signature[32..].iter_mut().zip(ORDER) {
                let sum = u16::from(*byte) + u16::from(order) + carry;
                *byte = sum as u8;
                carry = sum >> 8;
            }
            case
        }
        11 => {
            let mut case = honest(draw, a);
            case.signature[63] |= 0xe0;
            case
        }
        // y of p to p + 18, with either sign, as R or as the key.
        12 => {
            let mut bytes = [0xff; 32];
            bytes[0] = 0xed + draw.below(19) as u8;
            bytes[31] = [0x7f, 0xff][draw.below(2)];
            let mut case = honest(draw, a);
            if draw.below(2) == 0 {
                case.key = bytes;
            } else {
                case.signature[..32].copy_from_slice(&bytes);
            }
            case
        }
        _ => {
            let bytes = draw.bytes();
            Case {
                key: *bytes.first_chunk().unwrap(),
                message,
                signature: draw.bytes(),
            }
        }
    }
}

fn zebra(case: &Case) -> bool {
    ed25519_zebra::VerificationKey::try_from(case.key)
        .is_ok_and(|key| key.verify(&case.signature.into(), &case.message).is_ok())
}

fn consensus(case: &Case) -> bool {
    ed25519_consensus::VerificationKey::try_from(case.key)
        .is_ok_and(|key| key.verify(&case.signature.into(), &case.message).is_ok())
}

/// Verdicts of a batch in which each key stands once.
fn batched(cases: &[Case], threads: usize) -> Vec<bool> {
    let mut keys: Vec<[u8; 32]> = cases.iter().map(|case| case.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let signers: Vec<u32> = cases
        .iter()
        .map(|case| keys.binary_search(&case.key).unwrap() as u32)
        .collect();
    let signatures: Vec<[u8; 64]> = cases.iter().map(|case| case.signature).collect();
    let keys = Keys::new(&keys);
    let batch = Batch {
        signers: Signers::Known(&keys, &signers),
        signatures: &signatures,
        message: &|number| &cases[number].message,
    };
    let mut verdicts = vec![false; cases.len()];
    batch.verdicts_by(0, &mut verdicts, threads).unwrap();
    let plain: Vec<[u8; 32]> = cases.iter().map(|case| case.key).collect();
    let batch = Batch {
        signers: Signers::Plain(&plain),
        ..batch
    };
    let mut again = vec![true; cases.len()];
    batch.verdicts(0, &mut again).unwrap();
    assert_eq!(again, verdicts, "plain keys against known ones");
    verdicts
}

/// Signatures that all four judged, how many of them were right, and where they did not agree.
#[derive(Default)]
struct Compared {
    seen: usize,
    right: usize,
    disagreements: Vec<String>,
}

/// Batches of all sizes until `total` signatures were seen by all four.
fn compare(seed: u64, total: usize) -> Compared {
    let mut draw = Draw { seed, count: 0 };
    let small = small_encodings();
    let secrets: Vec<Scalar> = (0..20).map(|_| draw.scalar()).collect();
    let (mut seen, mut right, mut disagreements) = (0, 0, Vec::new());
    while seen < total {
        let size =
            [1, 2, 5, 15, 16, 17, 33, 94, 95, 130, BATCH_MAX + 3][draw.below(11)].min(total - seen);
        // Honest, honest but for one or two, or, in half of the batches, nothing but attempts.
        let mixture = draw.below(6);
        let mut cases: Vec<Case> = (0..size)
            .map(|_| {
                if mixture >= 3 {
                    any(&mut draw, &secrets, &small)
                } else {
                    let a = secrets[draw.below(secrets.len())];
                    honest(&mut draw, a)
                }
            })
            .collect();
        for _ in 0..mixture % 3 {
            let place = draw.below(size);
            cases[place] = any(&mut draw, &secrets, &small);
        }
        let verdicts = batched(&cases, 1 + draw.below(3));
        for (case, verdict) in cases.iter().zip(verdicts) {
            let found = [
                verify(&case.key, &case.message, &case.signature),
                zebra(case),
                consensus(case),
            ];
            if found != [verdict; 3] {
                disagreements.push(format!(
                    "batch {verdict}, single, zebra, consensus {found:?}: key {:x?} signature {:x?} message {:x?}",
                    case.key, case.signature, case.message
                ));
            }
            right += usize::from(verdict);
        }
        seen += size;
    }
    Compared {
        seen,
        right,
        disagreements,
    }
}

#[test]
fn some_thousand_signatures_are_judged_as_by_zebra_and_consensus() {
    let Compared {
        seen,
        right,
        disagreements,
    } = compare(1, 4000);
    assert_eq!((seen, disagreements), (4000, Vec::new()));
    // Both verdicts were common, or nothing was compared.
    assert!((seen / 2..seen - seen / 20).contains(&right), "{right}");
}

#[test]
#[ignore = "minutes: a million signatures"]
fn a_million_signatures_are_judged_as_by_zebra_and_consensus() {
    let asked = std::env::var("ZOS_ORACLE_SIGNATURES").map(|number| number.parse().unwrap());
    let total: usize = asked.unwrap_or(1_000_000);
    let workers: Vec<_> = [total / 2, total - total / 2]
        .into_iter()
        .zip(1000..)
        .map(|(share, seed)| std::thread::spawn(move || compare(seed, share)))
        .collect();
    let mut all = Compared::default();
    for worker in workers {
        let some = worker.join().unwrap();
        all.seen += some.seen;
        all.right += some.right;
        all.disagreements.extend(some.disagreements);
    }
    println!(
        "{} signatures, {} right, {} disagreements",
        all.seen,
        all.right,
        all.disagreements.len()
    );
    assert_eq!(all.seen, total);
    assert_eq!(all.disagreements, Vec::<String>::new());
}

#[test]
fn one_wrong_signature_is_found_at_every_place() {
    let mut draw = Draw { seed: 7, count: 0 };
    let secrets: Vec<Scalar> = (0..5).map(|_| draw.scalar()).collect();
    for size in [2, 16, 17, 100] {
        let good: Vec<Case> = (0..size)
            .map(|number| honest(&mut draw, secrets[number % 5]))
            .collect();
        assert_eq!(batched(&good, 1), vec![true; size]);
        for place in 0..size {
            let mut cases = good.clone();
            flip(&mut draw, &mut cases[place].message);
            cases[place].message.push(0);
            let mut expected = vec![true; size];
            expected[place] = false;
            assert_eq!(batched(&cases, 1), expected, "{place} of {size}");
        }
    }
}

#[test]
fn wrongs_that_cancel_each_other_are_both_found() {
    // s and s' changed by +1 and -1: a sum without random factors would be zero.
    let mut draw = Draw { seed: 8, count: 0 };
    let a = draw.scalar();
    let mut cases: Vec<Case> = (0..16).map(|_| honest(&mut draw, a)).collect();
    for (place, change) in [(3, Scalar::ONE), (9, -Scalar::ONE)] {
        let half = &mut cases[place].signature[32..];
        let s = Scalar::from_bytes_mod_order((&*half).try_into().unwrap());
        half.copy_from_slice((s + change).as_bytes());
    }
    let mut expected = vec![true; 16];
    (expected[3], expected[9]) = (false, false);
    assert_eq!(batched(&cases, 1), expected);
}

#[test]
fn arrays_that_do_not_fit_are_refused() {
    let keys = Keys::new(&[[1; 32]]);
    let batch = |signers, signatures| Batch {
        signers: Signers::Known(&keys, signers),
        signatures,
        message: &|_| b"",
    };
    let one = &[[0; 64]];
    assert!(batch(&[0, 0], one).verdicts(0, &mut [true]).is_err());
    assert!(batch(&[1], one).verdicts(0, &mut [true]).is_err());
    assert!(batch(&[0], one).verdicts(0, &mut [true; 2]).is_err());
    assert!(batch(&[0], one).verdicts(2, &mut []).is_err());
    assert!(batch(&[0], one).verdicts(usize::MAX, &mut [true]).is_err());
    assert!(batch(&[], &[]).verdicts_by(0, &mut [], 3).is_ok());
}

#[test]
fn the_compiled_back_ends_are_those_that_ship() {
    let flagged = cfg!(curve25519_dalek_backend = "avx512");
    assert_eq!(
        flagged,
        cfg!(target_arch = "x86_64"),
        "see .cargo/config.toml"
    );
    assert!(["avx512ifma", "avx2", "serial"].contains(&ed25519::backend()));
}
