//! Against the definitions of RFC 6962, written down as they stand there, for every tree up to 65 leaves.

use super::*;

const LEAVES: u64 = 65;

fn leaves(count: u64) -> Vec<Hash> {
    (0..count)
        .map(|number| hash_leaf(&number.to_le_bytes()))
        .collect()
}

fn grown(leaves: &[Hash]) -> Vec<Hash> {
    let mut nodes = vec![Hash::default(); node_count(leaves.len() as u64).unwrap() as usize];
    let mut edge = Edge::new(&[], 0).unwrap();
    edge.add(leaves, &mut nodes).unwrap();
    assert_eq!(edge.size(), leaves.len() as u64);
    nodes
}

/// MTH(D[n]) of section 2.1.
fn mth(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(half(many.len()));
            hash_children(&mth(left), &mth(right))
        }
    }
}

fn half(count: usize) -> usize {
    let mut half = 1;
    while half * 2 < count {
        half *= 2;
    }
    half
}

/// PATH(m, D[n]) of section 2.1.1.
fn path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(half(leaves.len()));
    let (mut found, other) = if index < left.len() {
        (path(index, left), mth(right))
    } else {
        (path(index - left.len(), right), mth(left))
    };
    found.push(other);
    found
}

/// SUBPROOF(m, D[n], b) of section 2.1.2.
fn subproof(old: usize, leaves: &[Hash], known: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if known { vec![] } else { vec![mth(leaves)] };
    }
    let (left, right) = leaves.split_at(half(leaves.len()));
    let (mut found, other) = if old <= left.len() {
        (subproof(old, left, known), mth(right))
    } else {
        (subproof(old - left.len(), right, false), mth(left))
    };
    found.push(other);
    found
}

#[test]
fn the_hashes_are_those_of_the_rfc() {
    let hex = |hash: Hash| hash.map(|byte| format!("{byte:02x}")).concat();
    assert_eq!(
        hex(empty_root()),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    // The empty leaf of the vectors of certificate-transparency.
    assert_eq!(
        hex(hash_leaf(b"")),
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    );
}

#[test]
fn a_leaf_may_come_bit_by_bit() {
    let data: Vec<u8> = (0..200).collect();
    for step in 1..=data.len() {
        let mut leaf = Leaf::default();
        data.chunks(step).for_each(|some| leaf.update(some));
        assert_eq!(leaf.hash(), hash_leaf(&data), "{step}");
    }
}

#[test]
fn roots_and_proofs_are_those_of_the_definitions() {
    let all = leaves(LEAVES);
    let nodes = grown(&all);
    for size in 0..=LEAVES {
        let tree = &all[..size as usize];
        let top = root(&nodes, size).unwrap();
        assert_eq!(top, mth(tree), "{size}");
        for index in 0..size {
            let proof = inclusion(&nodes, size, index).unwrap();
            assert_eq!(proof, path(index as usize, tree), "{index} of {size}");
            assert_eq!(proof.len(), inclusion_length(size, index).unwrap());
            verify_inclusion(&top, size, index, &all[index as usize], &proof).unwrap();
        }
        for old in 1..=size {
            let proof = consistency(&nodes, old, size).unwrap();
            assert_eq!(proof, subproof(old as usize, tree, true), "{old} of {size}");
            let old_top = mth(&all[..old as usize]);
            verify_consistency(&old_top, old, &top, size, &proof).unwrap();
        }
    }
}

#[test]
fn nodes_only_grow_whatever_the_steps() {
    let all = leaves(LEAVES);
    let whole = grown(&all);
    for step in 1..=LEAVES {
        let mut nodes = Vec::new();
        let mut size = 0;
        while size < LEAVES {
            let end = (size + step).min(LEAVES);
            let mut edge = Edge::new(&nodes, size).unwrap();
            let before = nodes.len();
            nodes.resize(node_count(end).unwrap() as usize, Hash::default());
            edge.add(&all[size as usize..end as usize], &mut nodes[before..])
                .unwrap();
            assert_eq!(nodes, whole[..nodes.len()]);
            size = end;
        }
        assert_eq!(nodes, whole);
    }
}

#[test]
fn no_other_place_size_leaf_or_proof_passes() {
    let all = leaves(LEAVES);
    let nodes = grown(&all);
    for size in 1..=33 {
        let top = root(&nodes, size).unwrap();
        for index in 0..size {
            let leaf = &all[index as usize];
            let proof = inclusion(&nodes, size, index).unwrap();
            for other in (0..size).filter(|other| *other != index) {
                assert!(verify_inclusion(&top, size, other, leaf, &proof).is_err());
            }
            for place in 0..proof.len() {
                let mut changed = proof.clone();
                changed[place][7] ^= 4;
                assert_eq!(
                    verify_inclusion(&top, size, index, leaf, &changed),
                    Err(Error::Mismatch("root"))
                );
            }
            let mut longer = proof.clone();
            longer.push(top);
            assert_eq!(
                verify_inclusion(&top, size, index, leaf, &longer),
                Err(Error::Length {
                    expected: proof.len(),
                    found: proof.len() + 1
                })
            );
            if let Some((_, shorter)) = proof.split_last() {
                assert!(verify_inclusion(&top, size, index, leaf, shorter).is_err());
            }
            assert!(verify_inclusion(&top, size, index, &top, &proof).is_err() || size == 1);
        }
    }
}

#[test]
fn a_forked_log_is_not_consistent() {
    let all = leaves(LEAVES);
    let nodes = grown(&all);
    for size in 2..=LEAVES {
        let top = root(&nodes, size).unwrap();
        for old in 1..=size {
            let proof = consistency(&nodes, old, size).unwrap();
            let old_top = root(&nodes, old).unwrap();
            let mut forked = all[..old as usize].to_vec();
            forked[(old / 2) as usize][0] ^= 1;
            let forked_top = mth(&forked);
            assert!(verify_consistency(&forked_top, old, &top, size, &proof).is_err());
            for place in 0..proof.len() {
                let mut changed = proof.clone();
                changed[place][31] ^= 128;
                assert!(verify_consistency(&old_top, old, &top, size, &changed).is_err());
            }
            let mut longer = proof.clone();
            longer.push(top);
            assert!(matches!(
                verify_consistency(&old_top, old, &top, size, &longer),
                Err(Error::Length { .. })
            ));
            assert!(verify_consistency(&old_top, old, &forked_top, size, &proof).is_err());
        }
    }
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let nodes = grown(&leaves(5));
    let hash = Hash::default();
    assert!(matches!(inclusion(&nodes, 5, 5), Err(Error::Argument(_))));
    assert!(matches!(inclusion(&nodes, 0, 0), Err(Error::Argument(_))));
    assert!(matches!(inclusion(&nodes, 6, 0), Err(Error::Argument(_))));
    assert!(matches!(root(&nodes, 6), Err(Error::Argument(_))));
    assert!(matches!(root(&nodes, u64::MAX), Err(Error::Argument(_))));
    assert!(matches!(consistency(&nodes, 0, 5), Err(Error::Argument(_))));
    assert!(matches!(consistency(&nodes, 5, 4), Err(Error::Argument(_))));
    for size in [SIZE_MAX + 1, u64::MAX] {
        assert!(matches!(node_count(size), Err(Error::Argument(_))));
        assert!(matches!(
            verify_inclusion(&hash, size, 0, &hash, &[]),
            Err(Error::Argument(_))
        ));
        assert!(matches!(
            verify_consistency(&hash, 1, &hash, size, &[]),
            Err(Error::Argument(_))
        ));
        assert!(matches!(Edge::new(&nodes, size), Err(Error::Argument(_))));
    }
    let mut edge = Edge::new(&nodes, 4).unwrap();
    for room in [0, 2] {
        let refused = edge.add(&[hash], &mut vec![hash; room]);
        assert!(matches!(refused, Err(Error::Argument(_))));
    }
    assert_eq!(edge.growth(4), Ok(8));
    assert!(matches!(edge.growth(usize::MAX), Err(Error::Argument(_))));
    assert_eq!(node_count(SIZE_MAX), Ok((1 << 49) - 1));
    // The longest proofs there are: nothing overflows.
    assert_eq!(
        verify_inclusion(&hash, SIZE_MAX, SIZE_MAX - 1, &hash, &[hash; 48]),
        Err(Error::Mismatch("root"))
    );
    assert_eq!(inclusion_length(SIZE_MAX - 1, SIZE_MAX - 2), Ok(47));
}
