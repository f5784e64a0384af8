//! A code of any shape, on every path of this machine: the scalar path's parity, and every lost shard back.
//!
//! The input: k, m, the matrix, how many are lost, where they lie, and the data.
#![no_main]

use erasure::{Code, Error, Matrix, Path, Source, Target};
use libfuzzer_sys::fuzz_target;

fn sources<'a>(shards: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<Source<'a>> {
    shards
        .into_iter()
        .map(|shard| Source::from(&shard[..]))
        .collect()
}

fn targets(shards: &mut [Vec<u8>]) -> Vec<Target<'_>> {
    shards
        .iter_mut()
        .map(|shard| Target::from(&mut shard[..]))
        .collect()
}

fn parity(code: &Code, data: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Error> {
    let mut parity = vec![vec![0xaa; data.first().map_or(0, Vec::len)]; code.m()];
    let task = code.encode(sources(data), targets(&mut parity), 1)?;
    task.run(0..usize::MAX)?;
    Ok(parity)
}

fuzz_target!(|input: &[u8]| {
    let Some(([k, m, matrix, count, seed], bytes)) = input.split_first_chunk() else {
        return;
    };
    let (k, m) = (usize::from(*k % 20), usize::from(*m % 10));
    let matrix = if matrix & 1 == 0 {
        Matrix::Cauchy
    } else {
        Matrix::Vandermonde
    };
    let Ok(scalar) = Code::new(k, m, matrix, Some(Path::Scalar), None) else {
        assert!(k == 0 || m == 0, "{k} + {m} is a shape");
        return;
    };
    let length = bytes.len() / k;
    let data: Vec<Vec<u8>> = (0..k)
        .map(|at| bytes[at * length..][..length].to_vec())
        .collect();
    let expected = match parity(&scalar, &data) {
        Ok(parity) => parity,
        Err(_) => {
            assert_eq!(length, 0, "only empty shards are refused");
            return;
        }
    };
    let all: Vec<Vec<u8>> = data.iter().chain(&expected).cloned().collect();
    // Any k of k + m: which, the seed says.
    let count = usize::from(*count) % (m + 1);
    let lost: Vec<usize> = (0..count)
        .map(|at| (usize::from(*seed) + at * 7) % (k + m))
        .collect();
    let mut distinct = lost.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let have: Vec<usize> = (0..k + m).filter(|index| !lost.contains(index)).collect();
    for path in Path::ALL.into_iter().filter(|path| path.is_available()) {
        let code =
            Code::new(k, m, matrix, Some(path), None).expect("the scalar path takes this shape");
        assert_eq!(
            parity(&code, &data).expect("the scalar path did"),
            expected,
            "{}",
            path.name()
        );
        let mut repair = match code.repair(&have, &lost) {
            Ok(repair) => repair,
            Err(_) => {
                assert_ne!(
                    distinct.len(),
                    lost.len(),
                    "different shards, k of them at hand"
                );
                continue;
            }
        };
        code.solve(&mut repair)
            .expect("every k rows are independent");
        let mut made = vec![vec![0x55; length]; lost.len()];
        let shards = have.iter().map(|index| &all[*index]);
        let task = code
            .reconstruct(
                &repair,
                (&have, sources(shards)),
                (&lost, targets(&mut made)),
                1,
            )
            .expect("what is needed is there");
        if let Some(task) = task {
            task.run(0..usize::MAX).expect("nothing is compared");
        }
        for (index, shard) in lost.iter().zip(&made) {
            assert_eq!(
                shard,
                &all[*index],
                "{}: shard {index} of {k} + {m}",
                path.name()
            );
        }
    }
});
