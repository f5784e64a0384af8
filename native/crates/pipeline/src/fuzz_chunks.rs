//! What lies in a slot when somebody means harm: opened by a pipeline with every stage, and by ones with fewer.

use crate::tests::{data, seal, settings, CHUNK, KEY};
use crate::{Cipher, Open, Pipeline, Settings, Worker};

/// The input is which pipeline, the length of the plain chunk, and the slot with its true length.
#[test]
fn fuzz_pipeline_chunk() {
    let kinds: Vec<Pipeline> = [
        (Some(1), None, None),
        (None, None, Some((2, 1))),
        (Some(1), Some(Cipher::Aes256Gcm), None),
        (Some(1), Some(Cipher::ChaCha20Poly1305), Some((4, 2))),
    ]
    .into_iter()
    .map(|(level, cipher, shape)| {
        let cipher = cipher.map(|cipher| (cipher, KEY));
        let made = Pipeline::new(&Settings {
            level,
            cipher,
            shape,
            ..settings()
        });
        made.unwrap()
    })
    .collect();
    let plains = [data(300), data(CHUNK), vec![b'a'; 100]];
    let mut corpus = Vec::new();
    for (kind, line) in kinds.iter().enumerate() {
        for plain in &plains {
            let sealed = seal(line, plain, 1);
            let length = u32::from_le_bytes(sealed.lengths[0]) as usize;
            let mut input = vec![kind as u8];
            input.extend_from_slice(&(plain.len() as u16).to_le_bytes());
            input.extend_from_slice(&sealed.slots[..length * line.shards()]);
            corpus.push(input);
        }
    }
    let workers = std::cell::RefCell::new([Worker::default()]);
    fuzz::run("pipeline-chunk", &corpus, |input| {
        let Some(([kind, low, high], sealed)) = input.split_first_chunk() else {
            return;
        };
        let kind = usize::from(*kind) % kinds.len();
        let line = &kinds[kind];
        let length = usize::from(u16::from_le_bytes([*low, *high])).clamp(1, CHUNK);
        let mut slot = vec![0; line.slot_bytes()];
        let bytes = sealed.len().min(slot.len());
        slot[..bytes].copy_from_slice(&sealed[..bytes]);
        let lengths = [((sealed.len() / line.shards()) as u32).to_le_bytes()];
        let mut plain = vec![0xee; length];
        let have = vec![true; line.shards()];
        let call = Open::new(line, (&slot, &lengths), &mut plain, &have, None, None).unwrap();
        match line.open(&mut *workers.borrow_mut(), call) {
            // A cipher lets nothing pass that was not sealed with the key; what was is one of the corpus.
            Ok(_) if kind >= 2 => assert!(plains.contains(&plain), "forged"),
            Ok(_) => {}
            Err(_) => assert!(plain.iter().all(|byte| *byte == 0), "left over"),
        }
    });
}
