//! A tree of the input's leaves: what it proves holds, and no other proof does.
//!
//! The input: two places, an overlay for a proof, and leaves of one byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use merkle::{
    consistency, hash_leaf, inclusion, node_count, root, verify_consistency, verify_inclusion,
    Edge, Hash,
};

fuzz_target!(|input: &[u8]| {
    let Some(([one, two, wrong], leaves)) = input.split_first_chunk() else {
        return;
    };
    // Whatever is asked of a tree that nobody has.
    let far = |byte: u8| u64::MAX >> (byte & 63);
    let junk = vec![[*wrong; 32]; usize::from(*one)];
    let _ = verify_inclusion(&[0; 32], far(*one), far(*two), &[1; 32], &junk);
    let _ = verify_consistency(&[0; 32], far(*two), &[0; 32], far(*one), &junk);
    if leaves.is_empty() {
        return;
    }
    let size = leaves.len() as u64;
    let hashes: Vec<Hash> = leaves.iter().map(|leaf| hash_leaf(&[*leaf])).collect();
    let mut nodes = vec![Hash::default(); node_count(size).expect("a small tree") as usize];
    Edge::new(&[], 0)
        .and_then(|mut edge| edge.add(&hashes, &mut nodes))
        .expect("as many nodes as were counted");
    let top = root(&nodes, size).expect("a tree");
    let index = u64::from(*one) % size;
    let old = u64::from(*two) % size + 1;
    let mut proof = inclusion(&nodes, size, index).expect("a leaf of the tree");
    let leaf = hashes[index as usize];
    verify_inclusion(&top, size, index, &leaf, &proof).expect("a true proof");
    let old_top = root(&nodes, old).expect("a smaller tree");
    let mut growth = consistency(&nodes, old, size).expect("a smaller tree");
    verify_consistency(&old_top, old, &top, size, &growth).expect("a true proof");
    if *wrong == 0 {
        return;
    }
    for damaged in [&mut proof, &mut growth] {
        if let Some(hash) = damaged.get_mut(usize::from(*two) % 64) {
            hash[usize::from(*one) % 32] ^= wrong;
        } else {
            damaged.push([*wrong; 32]);
        }
    }
    assert!(verify_inclusion(&top, size, index, &leaf, &proof).is_err());
    assert!(verify_consistency(&old_top, old, &top, size, &growth).is_err());
});
