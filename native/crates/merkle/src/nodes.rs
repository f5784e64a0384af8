//! The nodes of a tree: where they lie, how they grow, and what they say of a range of leaves.

use crate::{empty_root, hash_children, Error, Hash, SIZE_MAX};

/// Number of nodes of a tree of `size` leaves (MERKLE-3).
pub fn node_count(size: u64) -> Result<u64, Error> {
    if size > SIZE_MAX {
        return Err(Error::Argument("a tree has at most 2^48 leaves"));
    }
    // Leaf number i completes one subtree more than i + 1 has trailing zero bits; the sum is known in closed form.
    Ok(2 * size - u64::from(size.count_ones()))
}

/// The right edge of a tree: what is needed of it to add leaves.
#[derive(Debug, Clone)]
pub struct Edge {
    size: u64,
    /// Hash of the complete subtree of 2^level leaves on the right edge, where bit `level` of the size is set.
    subtrees: [Hash; u64::BITS as usize],
}

impl Edge {
    /// The edge of the first `size` leaves of the tree whose nodes are given; there may be more.
    pub fn new(nodes: &[Hash], size: u64) -> Result<Self, Error> {
        check_nodes(nodes, size)?;
        let mut subtrees = [Hash::default(); u64::BITS as usize];
        let mut low = 0;
        for level in (0..u64::BITS).rev().filter(|level| size >> level & 1 == 1) {
            subtrees[level as usize] = nodes[position(low, 1 << level)];
            low += 1 << level;
        }
        Ok(Self { size, subtrees })
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of nodes that `leaves` more leaves make (MERKLE-3).
    pub fn growth(&self, leaves: usize) -> Result<usize, Error> {
        // A usize is below 2^64 and a size at most 2^48: a sum that wraps is refused as too large a tree.
        let grown = self.size.saturating_add(leaves as u64);
        Ok((node_count(grown)? - node_count(self.size)?) as usize)
    }

    /// Adds leaves, and writes the nodes that this makes to `out`, which has room for exactly those (`growth`).
    pub fn add(&mut self, leaves: &[Hash], out: &mut [Hash]) -> Result<(), Error> {
        if out.len() != self.growth(leaves.len())? {
            return Err(Error::Argument("out has another length than the new nodes"));
        }
        let mut at = 0;
        for leaf in leaves {
            let mut node = *leaf;
            out[at] = node;
            at += 1;
            // A larger subtree ends here for every trailing one bit of the number of leaves before this one.
            let height = self.size.trailing_ones() as usize;
            for left in &self.subtrees[..height] {
                node = hash_children(left, &node);
                out[at] = node;
                at += 1;
            }
            self.subtrees[height] = node;
            self.size += 1;
        }
        Ok(())
    }
}

/// Root of the first `size` leaves of the tree whose nodes are given; there may be more (MERKLE-2).
pub fn root(nodes: &[Hash], size: u64) -> Result<Hash, Error> {
    check_nodes(nodes, size)?;
    if size == 0 {
        return Ok(empty_root());
    }
    Ok(range(nodes, 0, size))
}

/// Refuses a size that the nodes do not reach.
pub(crate) fn check_nodes(nodes: &[Hash], size: u64) -> Result<(), Error> {
    if node_count(size)? > nodes.len() as u64 {
        return Err(Error::Argument("nodes is too short for this size"));
    }
    Ok(())
}

/// Number of leaves of the left subtree: the largest power of two below `leaves`, which is two or more.
pub(crate) fn split(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// Hash over the leaves from `low` to before `high`, where `low` is a multiple of the next power of two.
pub(crate) fn range(nodes: &[Hash], low: u64, high: u64) -> Hash {
    debug_assert!(low < high);
    // The complete subtrees from left to right, of falling height; their hashes are joined from the right.
    let mut parts = [Hash::default(); u64::BITS as usize];
    let mut count = 0;
    let mut at = low;
    while at < high {
        let leaves = 1 << (high - at).ilog2();
        parts[count] = nodes[position(at, leaves)];
        count += 1;
        at += leaves;
    }
    let (last, others) = parts[..count]
        .split_last()
        .expect("a range has a leaf, so it has a part");
    others
        .iter()
        .rev()
        .fold(*last, |right, left| hash_children(left, &right))
}

/// Where the complete subtree of `leaves` (a power of two) leaves from `low` on has its hash.
fn position(low: u64, leaves: u64) -> usize {
    // It is written when its last leaf is, after the smaller subtrees that end with the same leaf.
    let last = low + leaves - 1;
    (2 * last - u64::from(last.count_ones()) + u64::from(leaves.ilog2())) as usize
}
