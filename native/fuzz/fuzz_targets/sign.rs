//! One verdict: of the single check, of a batch of four, and of two libraries that are not ours.
//!
//! The input: 32 bytes that a key is made of, 96 that are laid over the key and the signature, and the message. Where
//! the last byte of the overlay says so nothing is laid over: the signature is right.
#![no_main]

use ed25519::{verify, Batch, Signers};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((secret, rest)) = input.split_first_chunk::<32>() else {
        return;
    };
    let Some((overlay, message)) = rest.split_first_chunk::<96>() else {
        return;
    };
    let signer = ed25519_zebra::SigningKey::from(*secret);
    let mut key: [u8; 32] = ed25519_zebra::VerificationKeyBytes::from(&signer).into();
    let mut signature: [u8; 64] = signer.sign(message).to_bytes();
    match overlay[95] & 3 {
        0 => {}
        // A damaged one, and one that is the input's own.
        1 => key
            .iter_mut()
            .chain(&mut signature)
            .zip(overlay)
            .for_each(|(byte, other)| *byte ^= other),
        _ => key
            .iter_mut()
            .chain(&mut signature)
            .zip(overlay)
            .for_each(|(byte, other)| *byte = *other),
    }
    let ours = verify(&key, message, &signature);
    let zebra = ed25519_zebra::VerificationKey::try_from(key)
        .is_ok_and(|key| key.verify(&signature.into(), message).is_ok());
    let consensus = ed25519_consensus::VerificationKey::try_from(key)
        .is_ok_and(|key| key.verify(&signature.into(), message).is_ok());
    assert_eq!(
        [ours, ours],
        [zebra, consensus],
        "key {key:x?}, signature {signature:x?}, message {message:x?}"
    );
    let good: [u8; 32] = ed25519_zebra::VerificationKeyBytes::from(&signer).into();
    let signed: [u8; 64] = signer.sign(message).to_bytes();
    let batch = Batch {
        signers: Signers::Plain(&[good, key, good, good]),
        signatures: &[signed, signature, signed, signed],
        message: &|_| message,
    };
    let mut verdicts = [!ours; 4];
    batch.verdicts(0, &mut verdicts).expect("as many of each");
    assert_eq!(verdicts, [true, ours, true, true]);
});
