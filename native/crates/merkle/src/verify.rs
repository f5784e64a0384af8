//! Proofs, verified: pure functions of roots, sizes and the proof.

use crate::proof::{check_sizes, decompose, inclusion_length};
use crate::{hash_children, Error, Hash, SIZE_MAX};

/// Verifies that leaf `index` of the tree of `size` leaves under `root` has the hash `leaf` (MERKLE-4).
pub fn verify_inclusion(
    root: &Hash,
    size: u64,
    index: u64,
    leaf: &Hash,
    proof: &[Hash],
) -> Result<(), Error> {
    check_size(size)?;
    expect(proof, inclusion_length(size, index)?)?;
    let (inner, border) = proof.split_at(decompose(size, index).0);
    let top = chain(*leaf, inner, index);
    require(chain_right(top, border) == *root, "root")
}

/// Verifies that the tree under `root` begins with all leaves of the one under `old_root` (MERKLE-5).
pub fn verify_consistency(
    old_root: &Hash,
    old_size: u64,
    root: &Hash,
    size: u64,
    proof: &[Hash],
) -> Result<(), Error> {
    check_size(size)?;
    check_sizes(old_size, size)?;
    if old_size == size {
        expect(proof, 0)?;
        return require(old_root == root, "root");
    }
    // The proof is the path of the old tree's last leaf, from the complete subtree that ends with it upward.
    let (inner, border) = decompose(size, old_size - 1);
    let height = old_size.trailing_zeros();
    let inner = inner - height as usize;
    let (seed, path) = if old_size.is_power_of_two() {
        expect(proof, inner + border)?;
        (*old_root, proof)
    } else {
        expect(proof, 1 + inner + border)?;
        (proof[0], &proof[1..])
    };
    let way = (old_size - 1) >> height;
    let (inner, border) = path.split_at(inner);
    let old = inner
        .iter()
        .enumerate()
        .filter(|(level, _)| way >> level & 1 == 1)
        .fold(seed, |right, (_, left)| hash_children(left, &right));
    require(chain_right(old, border) == *old_root, "old root")?;
    let new = chain_right(chain(seed, inner, way), border);
    require(new == *root, "new root")
}

/// Goes up from a node, to the side that the bits of `way` say.
fn chain(from: Hash, path: &[Hash], way: u64) -> Hash {
    path.iter().enumerate().fold(from, |node, (level, other)| {
        if way >> level & 1 == 0 {
            hash_children(&node, other)
        } else {
            hash_children(other, &node)
        }
    })
}

/// Goes up along the right edge of a tree.
fn chain_right(from: Hash, path: &[Hash]) -> Hash {
    path.iter()
        .fold(from, |right, left| hash_children(left, &right))
}

fn check_size(size: u64) -> Result<(), Error> {
    if size > SIZE_MAX {
        return Err(Error::Argument("a tree has at most 2^48 leaves"));
    }
    Ok(())
}

fn expect(proof: &[Hash], expected: usize) -> Result<(), Error> {
    let found = proof.len();
    if found != expected {
        return Err(Error::Length { expected, found });
    }
    Ok(())
}

fn require(holds: bool, which: &'static str) -> Result<(), Error> {
    if !holds {
        return Err(Error::Mismatch(which));
    }
    Ok(())
}
