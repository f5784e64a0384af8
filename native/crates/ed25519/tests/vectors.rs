//! Vectors that others published, and every way in which we can check them.

use std::path::Path;

use ed25519::{check_key, verify, Batch, Fault, Keys, Signers};

fn vectors(name: &str) -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../tests/vectors/ed25519")
        .join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn hex<const N: usize>(value: &serde_json::Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn bytes(value: &serde_json::Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Singly, and in a batch among `others` copies of itself.
fn verdict(key: [u8; 32], message: &[u8], signature: [u8; 64], others: usize) -> bool {
    let single = verify(&key, message, &signature);
    let keys = Keys::new(&[key]);
    let batch = Batch {
        signers: Signers::Known(&keys, &vec![0; others]),
        signatures: &vec![signature; others],
        message: &|_| message,
    };
    let mut verdicts = vec![!single; others];
    batch.verdicts(0, &mut verdicts).unwrap();
    assert_eq!(verdicts, vec![single; others]);
    single
}

#[test]
fn the_196_of_zip_215_are_right() {
    let vectors = vectors("zip215.json");
    let message = bytes(&vectors["message"]);
    let encodings: Vec<[u8; 32]> = vectors["encodings"]
        .as_array()
        .unwrap()
        .iter()
        .map(hex)
        .collect();
    assert_eq!(encodings.len(), 14);
    let mut all = Vec::new();
    for (signer, key) in (0u32..).zip(&encodings) {
        for r in &encodings {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(r);
            assert!(verdict(*key, &message, signature, 2), "{key:x?} {r:x?}");
            // An s of 1 adds B, which no cofactor takes away.
            signature[32] = 1;
            assert!(!verdict(*key, &message, signature, 2));
            signature[32] = 0;
            all.push((signer, signature));
        }
    }
    let (signers, signatures): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let keys = Keys::new(&encodings);
    let batch = Batch {
        signers: Signers::Known(&keys, &signers),
        signatures: &signatures,
        message: &|_| &message,
    };
    let mut verdicts = [false; 196];
    batch.verdicts(0, &mut verdicts).unwrap();
    assert_eq!(verdicts, [true; 196]);
}

#[test]
fn none_of_their_keys_may_be_registered() {
    let vectors = vectors("zip215.json");
    let canonical = vectors["canonical"].as_u64().unwrap() as usize;
    for (place, key) in vectors["encodings"].as_array().unwrap().iter().enumerate() {
        let fault = if place < canonical {
            Fault::SmallOrder
        } else {
            Fault::NonCanonical
        };
        assert_eq!(check_key(&hex(key)), Err(fault));
    }
    let mut none = [0; 32];
    none[0] = 2;
    assert_eq!(check_key(&none), Err(Fault::NoPoint));
    let mut large = [0xff; 32];
    large[0] = 0xf0; // p + 3, where 3 is the y of a point
    large[31] = 0x7f;
    let mut small = [0; 32];
    small[0] = 3;
    assert_eq!(check_key(&small), Ok(()));
    assert_eq!(check_key(&large), Err(Fault::NonCanonical));
}

#[test]
fn the_12_of_speccheck_are_judged_as_zip_215_says() {
    let vectors = vectors("speccheck.json");
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 12);
    for (number, case) in cases.iter().enumerate() {
        let expected = case["zip215"].as_bool().unwrap();
        let message = bytes(&case["message"]);
        let found = verdict(hex(&case["key"]), &message, hex(&case["signature"]), 3);
        assert_eq!(found, expected, "case {number}");
    }
}
