//! There and back by several threads, and what a caller in Rust can do wrong.

use crate::{guard, Cipher, Digest, Error, Open, Pipeline, Seal, Settings, Worker};

pub const KEY: [u8; 32] = [7; 32];
pub const CHUNK: usize = 20_000;

/// Every stage but those that are taken away.
pub fn settings() -> Settings {
    Settings {
        chunk_bytes: CHUNK,
        level: Some(1),
        cipher: Some((Cipher::Aes256Gcm, KEY)),
        shape: Some((4, 2)),
        path: None,
    }
}

/// What a call leaves.
#[derive(Clone, PartialEq, Debug)]
pub struct Sealed {
    pub slots: Vec<u8>,
    pub lengths: Vec<[u8; 4]>,
    pub digests: Vec<Digest>,
    pub shard_digests: Vec<Digest>,
}

pub fn seal(line: &Pipeline, data: &[u8], threads: usize) -> Sealed {
    let count = line.chunks(data.len());
    let mut sealed = Sealed {
        slots: vec![0; count * line.slot_bytes()],
        lengths: vec![[0; 4]; count],
        digests: vec![[0; 32]; count],
        shard_digests: vec![[0; 32]; count * line.shards()],
    };
    let call = Seal::new(
        line,
        data,
        &mut sealed.slots,
        &mut sealed.lengths,
        Some(&mut sealed.digests),
        Some(&mut sealed.shard_digests),
    );
    let mut workers: Vec<Worker> = (0..threads).map(|_| Worker::default()).collect();
    line.seal(&mut workers, call.unwrap()).unwrap();
    sealed
}

pub fn open(
    line: &Pipeline,
    workers: &mut [Worker],
    sealed: &Sealed,
    length: usize,
    have: &[bool],
) -> Result<(Vec<u8>, usize), Error> {
    let mut plain = vec![0xee; length];
    let call = Open::new(
        line,
        (&sealed.slots, &sealed.lengths),
        &mut plain,
        have,
        Some(&sealed.digests),
        Some(&sealed.shard_digests),
    )?;
    let wrong = line.open(workers, call)?.len();
    Ok((plain, wrong))
}

pub fn data(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * at / 977) as u8).collect()
}

#[test]
fn threads_change_nothing() {
    for shape in [None, Some((4, 2))] {
        let line = Pipeline::new(&Settings {
            shape,
            ..settings()
        })
        .unwrap();
        for length in [0, 1, CHUNK, CHUNK + 1, 7 * CHUNK - 5] {
            let plain = data(length);
            let one = seal(&line, &plain, 1);
            let have = vec![true; line.shards()];
            for threads in 1..6 {
                assert_eq!(seal(&line, &plain, threads), one, "{length} by {threads}");
                let mut workers: Vec<Worker> = (0..threads).map(|_| Worker::default()).collect();
                let (opened, wrong) = open(&line, &mut workers, &one, length, &have).unwrap();
                assert_eq!((opened == plain, wrong), (true, 0), "{length} by {threads}");
            }
        }
    }
}

#[test]
fn a_worker_serves_one_pipeline_after_another() {
    let plain = data(3 * CHUNK);
    let mut workers = [Worker::default()];
    for (shape, lost) in [
        ((4, 2), 0),
        ((5, 2), 0),
        ((4, 3), 0),
        ((4, 2), 3),
        ((4, 2), 0),
    ] {
        for level in [1, 5] {
            let line = Pipeline::new(&Settings {
                shape: Some(shape),
                level: Some(level),
                ..settings()
            })
            .unwrap();
            let sealed = seal(&line, &plain, 1);
            let mut have = vec![true; line.shards()];
            have[lost] = false;
            let opened = open(&line, &mut workers, &sealed, plain.len(), &have);
            assert_eq!(opened, Ok((plain.clone(), 0)), "{shape:?} {lost} {level}");
        }
    }
}

#[test]
fn a_worker_is_right_after_an_error() {
    let line = Pipeline::new(&settings()).unwrap();
    let plain = data(2 * CHUNK);
    let good = seal(&line, &plain, 1);
    let mut bad = good.clone();
    let mut workers = [Worker::default()];
    for at in [0, 5, 100] {
        bad.slots[at] ^= 1;
    }
    bad.shard_digests[0] = *blake3::hash(&bad.slots[..bad_length(&bad)]).as_bytes();
    let have = vec![true; line.shards()];
    let opened = open(&line, &mut workers, &bad, plain.len(), &have);
    assert!(
        matches!(opened, Err(Error::Malformed { chunk: 0, .. })),
        "{opened:?}"
    );
    assert_eq!(
        open(&line, &mut workers, &good, plain.len(), &have),
        Ok((plain, 0))
    );
}

fn bad_length(sealed: &Sealed) -> usize {
    u32::from_le_bytes(sealed.lengths[0]) as usize
}

#[test]
fn nobody_works_without_workers() {
    let line = Pipeline::new(&settings()).unwrap();
    let sealed = seal(&line, &data(10), 1);
    let opened = open(&line, &mut [], &sealed, 10, &[true; 6]);
    assert_eq!(opened, Ok((vec![0xee; 10], 0)));
}

#[test]
fn a_panic_becomes_an_error() {
    let nothing: [u8; 0] = [];
    let at = std::hint::black_box(3);
    let caught = guard(|| Ok(nothing[at]));
    assert!(
        matches!(&caught, Err(Error::Erasure(erasure::Error::Panicked(text))) if text.contains("of bounds")),
        "{caught:?}"
    );
    assert_eq!(guard(|| Ok(7)), Ok(7));
    assert_eq!(guard::<()>(|| Err(Error::NoMemory)), Err(Error::NoMemory));
}
