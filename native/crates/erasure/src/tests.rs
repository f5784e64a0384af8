//! Every path of this machine, and the model of GFNI, against arithmetic in the field.

use std::ops::Range;

use crate::kernel::Path;
use crate::{field, Code, Error, Matrix, Repair, Source, Target};

/// A generator for tests: xorshift64*, seeded, so that a failure can be run again.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }
    pub(crate) fn range(&mut self, range: Range<usize>) -> usize {
        range.start + self.below(range.end - range.start)
    }
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 32) as u8).collect()
    }
    /// `count` different numbers below `limit`, in any order.
    pub(crate) fn choice(&mut self, count: usize, limit: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..limit).collect();
        for at in 0..count {
            let other = self.range(at..limit);
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}

/// The paths that run here; those that do not are printed.
pub(crate) fn paths() -> Vec<Path> {
    let mut here = vec![Path::Model];
    for path in Path::ALL {
        if path.is_available() {
            here.push(path);
        } else {
            println!(
                "skipped: this machine has not the instructions of {}",
                path.name()
            );
        }
    }
    here
}

/// The definition, byte by byte.
fn expected_parity(code: &Code, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let rows = code.parity_rows().chunks_exact(code.k());
    rows.map(|row| {
        (0..data[0].len())
            .map(|at| {
                row.iter().zip(data).fold(0, |sum, (factor, shard)| {
                    sum ^ field::multiply(*factor, shard[at])
                })
            })
            .collect()
    })
    .collect()
}

fn sources(shards: &[Vec<u8>]) -> Vec<Source<'_>> {
    shards
        .iter()
        .map(|shard| Source::from(&shard[..]))
        .collect()
}

fn targets(shards: &mut [Vec<u8>]) -> Vec<Target<'_>> {
    shards
        .iter_mut()
        .map(|shard| Target::from(&mut shard[..]))
        .collect()
}

fn reconstruct(
    code: &Code,
    have: &[usize],
    all: &[Vec<u8>],
    lost: &[usize],
) -> Result<Vec<Vec<u8>>, Error> {
    let shards: Vec<Vec<u8>> = have.iter().map(|index| all[*index].clone()).collect();
    let mut made = vec![vec![0xaa; all[0].len()]; lost.len()];
    let mut repair = code.repair(have, lost)?;
    if repair.is_pending() {
        code.solve(&mut repair)?;
        code.keep(&repair);
    }
    if let Some(task) = code.reconstruct(
        &repair,
        (have, sources(&shards)),
        (lost, targets(&mut made)),
        1,
    )? {
        task.run(0..usize::MAX)?;
    }
    Ok(made)
}

#[test]
fn every_path_encodes_repairs_updates_and_verifies_any_shape_and_length() {
    for path in paths() {
        try_shapes(path, 5, 160);
    }
}

/// As long as one likes: `ERASURE_FUZZ=SEED:ROUNDS cargo test -p erasure --release -- --ignored --nocapture fuzz`. What
/// it found wrong is found again with the same seed.
#[test]
#[ignore = "as long as ERASURE_FUZZ=SEED:ROUNDS says"]
fn fuzz() {
    let asked = std::env::var("ERASURE_FUZZ").unwrap_or_else(|_| "1:2000".into());
    let (seed, rounds) = asked.split_once(':').expect("ERASURE_FUZZ is SEED:ROUNDS");
    let (seed, rounds) = (
        seed.parse().expect("a seed"),
        rounds.parse().expect("rounds"),
    );
    for path in paths() {
        println!("{}: seed {seed}, {rounds} rounds", path.name());
        try_shapes(path, seed, rounds);
    }
}

fn try_shapes(path: Path, seed: u64, rounds: usize) {
    let mut random = Random::new(seed);
    for round in 0..rounds {
        let (k, m) = match round % 8 {
            0 => (random.range(1..129), random.range(1..33)),
            1 => (16, 4),
            _ => (random.range(1..20), random.range(1..9)),
        };
        let length = match round % 3 {
            0 => random.range(1..70),
            1 => random.range(1..700),
            _ => random.range(1..3000),
        };
        let matrix = [Matrix::Cauchy, Matrix::Vandermonde][round % 2];
        let code = Code::new(
            k,
            m,
            matrix,
            Some(path),
            [None, Some(true), Some(false)][round % 3],
        )
        .unwrap();
        let data: Vec<Vec<u8>> = (0..k).map(|_| random.bytes(length)).collect();
        let expected = expected_parity(&code, &data);
        let what = format!("{path:?} {matrix:?} {k}+{m} x {length}");

        let mut parity = vec![vec![0x55; length]; m];
        let task = code
            .encode(sources(&data), targets(&mut parity), 1)
            .unwrap();
        // In two parts that meet anywhere: what an interrupted and continued call does.
        let cut = random.below(length + 1);
        assert_eq!((task.run(0..cut), task.run(cut..length)), (Ok(0), Ok(0)));
        assert_eq!(parity, expected, "{what}");

        let task = code.verify(sources(&data), sources(&parity), 1).unwrap();
        assert_eq!(task.run(0..length), Ok(0), "{what}");
        let (row, at) = (random.below(m), random.below(length));
        parity[row][at] ^= 1 << random.below(8);
        let task = code.verify(sources(&data), sources(&parity), 1).unwrap();
        assert_eq!(task.run(0..length), Ok(1 << row), "{what}");
        parity[row].clone_from(&expected[row]);

        let all: Vec<Vec<u8>> = data.iter().chain(&parity).cloned().collect();
        let losses = random.range(1..m + 1);
        let lost = random.choice(losses, k + m);
        let mut have: Vec<usize> = (0..k + m).filter(|index| !lost.contains(index)).collect();
        have.rotate_left(round % (k + m - losses));
        let made = reconstruct(&code, &have, &all, &lost).unwrap();
        for (index, made) in lost.iter().zip(made) {
            assert_eq!(made, all[*index], "{what}, lost {lost:?}");
        }

        let changed = random.below(k);
        let mut data = data;
        let new = random.bytes(length);
        let task = code
            .update(
                changed,
                (&data[changed][..]).into(),
                (&new[..]).into(),
                targets(&mut parity),
                1,
            )
            .unwrap();
        task.run(0..length).unwrap();
        data[changed] = new;
        assert_eq!(
            parity,
            expected_parity(&code, &data),
            "{what}, update of {changed}"
        );
    }
}

#[test]
fn targets_at_any_alignment_are_written_and_nothing_beside_them() {
    for path in paths() {
        let mut random = Random::new(6);
        let code = Code::new(5, 3, Matrix::Cauchy, Some(path), Some(true)).unwrap();
        for round in 0..200 {
            let length = random.range(1..600);
            let data: Vec<Vec<u8>> = (0..5).map(|_| random.bytes(length)).collect();
            let expected = expected_parity(&code, &data);
            let skew = random.below(65);
            // Alike in every second round, so that streaming stores are used after a head; else each its own.
            let starts: Vec<usize> = (0..3)
                .map(|row| {
                    if round % 2 == 0 {
                        skew
                    } else {
                        (skew + row * 7) % 65
                    }
                })
                .collect();
            #[repr(align(64))]
            #[derive(Clone)]
            struct Room([u8; 1024]);
            let mut rooms = vec![Room([0xee; 1024]); 3];
            let parity = rooms
                .iter_mut()
                .zip(&starts)
                .map(|(room, start)| Target::from(&mut room.0[*start..*start + length]))
                .collect();
            code.encode(sources(&data), parity, 1)
                .unwrap()
                .run(0..length)
                .unwrap();
            for ((room, start), expected) in rooms.iter().zip(&starts).zip(&expected) {
                assert_eq!(&room.0[*start..*start + length], &expected[..]);
                let outside = room.0[..*start].iter().chain(&room.0[*start + length..]);
                assert!(
                    outside.into_iter().all(|byte| *byte == 0xee),
                    "{path:?}, {length} at {starts:?}"
                );
            }
        }
    }
}

#[test]
fn threads_share_a_long_shard() {
    let mut random = Random::new(7);
    let (k, length) = (3, (3 << 20) + 77);
    let code = Code::new(k, 2, Matrix::Cauchy, None, None).unwrap();
    let data: Vec<Vec<u8>> = (0..k).map(|_| random.bytes(length)).collect();
    let mut parity = vec![vec![0; length]; 2];
    code.encode(sources(&data), targets(&mut parity), 1)
        .unwrap()
        .run(0..length)
        .unwrap();
    for threads in [2, 3, 64] {
        let mut other = vec![vec![0; length]; 2];
        code.encode(sources(&data), targets(&mut other), threads)
            .unwrap()
            .run(0..length)
            .unwrap();
        assert!(other == parity, "{threads} threads");
        other[1][length - 1] ^= 1;
        let task = code
            .verify(sources(&data), sources(&other), threads)
            .unwrap();
        assert_eq!(task.run(0..length), Ok(2));
    }
}

#[test]
fn the_refusals() {
    let shape = |k, m| Code::new(k, m, Matrix::Cauchy, None, None).map(|_| ());
    for (k, m) in [(0, 1), (1, 0), (129, 1), (1, 33), (usize::MAX, usize::MAX)] {
        assert!(matches!(shape(k, m), Err(Error::Shape(_))), "{k}+{m}");
    }
    assert_eq!(shape(128, 32), Ok(()));
    let code = Code::new(3, 2, Matrix::Cauchy, None, None).unwrap();
    let data = vec![vec![1; 10]; 3];
    let mut parity = vec![vec![0; 10]; 2];
    fn encode(
        code: &Code,
        data: &[Vec<u8>],
        parity: &mut [Vec<u8>],
        threads: usize,
    ) -> Option<Error> {
        code.encode(sources(data), targets(parity), threads).err()
    }
    assert!(matches!(
        encode(&code, &data[..2], &mut parity, 1),
        Some(Error::Count(_))
    ));
    assert!(matches!(
        encode(&code, &data, &mut parity[..1], 1),
        Some(Error::Count(_))
    ));
    assert_eq!(encode(&code, &data, &mut parity, 0), Some(Error::Threads));
    assert_eq!(encode(&code, &data, &mut parity, 65), Some(Error::Threads));
    let mut uneven = vec![vec![0; 10], vec![0; 11]];
    assert!(matches!(
        encode(&code, &data, &mut uneven, 1),
        Some(Error::Length(_))
    ));
    let empty = vec![vec![]; 3];
    assert_eq!(
        encode(&code, &empty, &mut [vec![], vec![]], 1),
        Some(Error::Empty)
    );
    let repair = |have: &[usize], lost: &[usize]| code.repair(have, lost).err();
    assert!(matches!(repair(&[0, 1, 5], &[2]), Some(Error::Index(_))));
    assert!(matches!(repair(&[0, 1, 1], &[2]), Some(Error::Index(_))));
    assert!(matches!(repair(&[0, 1, 3], &[1]), Some(Error::Index(_))));
    assert_eq!(
        repair(&[0, 3], &[1]),
        Some(Error::TooFew { have: 2, need: 3 })
    );
    assert_eq!(repair(&[0, 3, 4], &[1, 2]), None);
}

#[test]
fn a_repair_of_another_code_or_for_other_shards_is_refused() {
    let path = *paths().first().expect("every machine has a path");
    let make = |matrix| Code::new(3, 2, matrix, Some(path), None).unwrap();
    let (code, other) = (make(Matrix::Cauchy), make(Matrix::Vandermonde));
    let shards = vec![vec![1; 8]; 3];
    let mut made = vec![vec![0xaa; 8]];
    let mut solved = code.plan(&[0, 2, 3], &[1]).unwrap();
    let refused = |code: &Code, repair: &Repair, have: &[usize], lost, made: &mut [Vec<u8>]| {
        code.reconstruct(
            repair,
            (have, sources(&shards)),
            (&[lost], targets(made)),
            1,
        )
        .err()
    };
    let is_of_repair = |error| matches!(error, Some(Error::Repair(_)));
    assert!(
        is_of_repair(refused(&code, &solved, &[0, 2, 3], 1, &mut made)),
        "it was not solved"
    );
    code.solve(&mut solved).unwrap();
    assert!(is_of_repair(refused(
        &other,
        &solved,
        &[0, 2, 3],
        1,
        &mut made
    )));
    let alike = make(Matrix::Cauchy);
    assert!(is_of_repair(refused(
        &alike,
        &solved,
        &[0, 2, 3],
        1,
        &mut made
    )));
    assert!(is_of_repair(refused(
        &code,
        &solved,
        &[0, 2, 4],
        1,
        &mut made
    )));
    assert!(is_of_repair(refused(
        &code,
        &solved,
        &[0, 2, 3],
        4,
        &mut made
    )));
    assert_eq!(made, [[0xaa; 8]], "nothing is written");
    assert_eq!(refused(&code, &solved, &[3, 0, 2], 1, &mut made), None);
}
