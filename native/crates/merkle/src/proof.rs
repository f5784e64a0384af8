//! Proofs, built from nodes.

use crate::nodes::{check_nodes, range, split};
use crate::{Error, Hash};

/// Number of hashes of an inclusion proof (MERKLE-4).
pub fn inclusion_length(size: u64, index: u64) -> Result<usize, Error> {
    if index >= size {
        return Err(Error::Argument("the tree has no leaf of this index"));
    }
    let (inner, border) = decompose(size, index);
    Ok(inner + border)
}

/// Levels at which the path of `index` may go either way, and those above, where it is the right edge of the tree.
pub(crate) fn decompose(size: u64, index: u64) -> (usize, usize) {
    let inner = u64::BITS - (index ^ (size - 1)).leading_zeros();
    let border = index.checked_shr(inner).unwrap_or(0).count_ones();
    (inner as usize, border as usize)
}

/// Proof that leaf `index` is one of the first `size` (RFC 6962, 2.1.1; MERKLE-4).
pub fn inclusion(nodes: &[Hash], size: u64, index: u64) -> Result<Vec<Hash>, Error> {
    let mut proof = vec![Hash::default(); inclusion_length(size, index)?];
    inclusion_into(nodes, size, index, &mut proof)?;
    Ok(proof)
}

/// The same, into exactly as many hashes as it has (`inclusion_length`).
pub fn inclusion_into(
    nodes: &[Hash],
    size: u64,
    index: u64,
    proof: &mut [Hash],
) -> Result<(), Error> {
    check_nodes(nodes, size)?;
    if inclusion_length(size, index)? != proof.len() {
        return Err(Error::Argument("out has another length than the proof"));
    }
    // From the root down to the leaf, which is from the end of the proof.
    let (mut low, mut high) = (0, size);
    for other in proof.iter_mut().rev() {
        let middle = low + split(high - low);
        if index < middle {
            *other = range(nodes, middle, high);
            high = middle;
        } else {
            *other = range(nodes, low, middle);
            low = middle;
        }
    }
    Ok(())
}

/// Proof that the first `old_size` leaves of the tree are still what they were (RFC 6962, 2.1.2; MERKLE-5).
pub fn consistency(nodes: &[Hash], old_size: u64, size: u64) -> Result<Vec<Hash>, Error> {
    check_nodes(nodes, size)?;
    check_sizes(old_size, size)?;
    let mut proof = Vec::new();
    let (mut low, mut high) = (0, size);
    while old_size != high {
        let middle = low + split(high - low);
        if old_size <= middle {
            proof.push(range(nodes, middle, high));
            high = middle;
        } else {
            proof.push(range(nodes, low, middle));
            low = middle;
        }
    }
    // A subtree that begins at leaf 0 and ends with the old tree is the old tree, whose root the reader has.
    if low > 0 {
        proof.push(range(nodes, low, high));
    }
    proof.reverse();
    Ok(proof)
}

/// Refuses sizes between which nothing can be proved.
pub(crate) fn check_sizes(old_size: u64, size: u64) -> Result<(), Error> {
    if old_size == 0 {
        return Err(Error::Argument(
            "every tree extends the empty one: there is nothing to prove",
        ));
    }
    if old_size > size {
        return Err(Error::Argument("the old tree is larger than the new one"));
    }
    Ok(())
}
