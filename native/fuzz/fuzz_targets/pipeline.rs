//! A slot as somebody left it who means harm: opened it is the chunk that was sealed, or nothing.
//!
//! The input: which pipeline, what of a sealed chunk is overlaid from where on, and the overlay.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pipeline::{Cipher, Open, Pipeline, Seal, Settings, Worker};

const CHUNK: usize = 3000;
const KEY: [u8; 32] = [7; 32];

/// A pipeline and what it made of `PLAIN`.
struct Line {
    pipeline: Pipeline,
    slot: Vec<u8>,
    length: [u8; 4],
    ciphered: bool,
}

static PLAIN: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..CHUNK).map(|at| (at * at / 97) as u8).collect());
static LINES: LazyLock<Vec<Line>> = LazyLock::new(|| {
    let kinds = [
        (Some(1), None, None),
        (None, None, Some((2, 1))),
        (Some(1), Some(Cipher::Aes256Gcm), None),
        (None, Some(Cipher::ChaCha20Poly1305), Some((4, 2))),
    ];
    kinds
        .map(|(level, cipher, shape)| {
            let settings = Settings {
                chunk_bytes: CHUNK,
                level,
                cipher: cipher.map(|cipher| (cipher, KEY)),
                shape,
                path: None,
            };
            let pipeline = Pipeline::new(&settings).expect("settings within their limits");
            let mut slot = vec![0; pipeline.slot_bytes()];
            let mut lengths = [[0; 4]];
            let call = Seal::new(&pipeline, &PLAIN, &mut slot, &mut lengths, None, None)
                .expect("buffers that fit");
            pipeline
                .seal(&mut [Worker::default()], call)
                .expect("one chunk");
            Line {
                pipeline,
                slot,
                length: lengths[0],
                ciphered: cipher.is_some(),
            }
        })
        .into()
});

fuzz_target!(|input: &[u8]| {
    let Some(([kind, low, high, longer], overlay)) = input.split_first_chunk() else {
        return;
    };
    let line = &LINES[usize::from(*kind) % LINES.len()];
    let mut slot = line.slot.clone();
    let at = usize::from(u16::from_le_bytes([*low, *high])) % slot.len();
    slot.iter_mut()
        .skip(at)
        .zip(overlay)
        .for_each(|(byte, other)| *byte ^= other);
    let length = u32::from_le_bytes(line.length) ^ u32::from(*longer);
    let mut plain = vec![0xee; CHUNK];
    let have = vec![true; line.pipeline.shards()];
    let lengths = [length.to_le_bytes()];
    let call = Open::new(
        &line.pipeline,
        (&slot, &lengths),
        &mut plain,
        &have,
        None,
        None,
    )
    .expect("buffers that fit");
    match line.pipeline.open(&mut [Worker::default()], call) {
        Ok(_) => assert!(!line.ciphered || plain == *PLAIN, "forged"),
        Err(_) => assert!(plain.iter().all(|byte| *byte == 0), "left over"),
    }
});
