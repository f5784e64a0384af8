//! Merkle trees of RFC 6962 over SHA-256 (docs/spec/merkle.md).
//!
//! A tree of n leaves is kept as its *nodes*: the hashes of all complete subtrees, in the order in which they become
//! complete (MERKLE-3). That order never changes when leaves are added, so a log keeps them in a file that only grows;
//! root and proofs of every past size read a few dozen of them. Verifying needs no nodes: roots, sizes and a proof.
//!
//! ```
//! let leaves = [b"a", b"b", b"c"].map(|data| merkle::hash_leaf(data));
//! let mut nodes = [merkle::Hash::default(); 4];
//! merkle::Edge::new(&[], 0).unwrap().add(&leaves, &mut nodes).unwrap();
//! let root = merkle::root(&nodes, 3).unwrap();
//! let proof = merkle::inclusion(&nodes, 3, 2).unwrap();
//! merkle::verify_inclusion(&root, 3, 2, &leaves[2], &proof).unwrap();
//! ```

#![forbid(unsafe_code)]

mod error;
mod nodes;
mod proof;
#[cfg(test)]
mod tests;
mod verify;

use sha2::{Digest, Sha256};

pub use error::Error;
pub use nodes::{node_count, root, Edge};
pub use proof::{consistency, inclusion, inclusion_into, inclusion_length};
pub use verify::{verify_consistency, verify_inclusion};

/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;
/// Most leaves of a tree: their nodes would take 18 PB, and no position overflows.
pub const SIZE_MAX: u64 = 1 << 48;

/// A hash of SHA-256.
pub type Hash = [u8; HASH_BYTES];

/// Hash of a leaf's data (MERKLE-1).
#[must_use]
pub fn hash_leaf(data: &[u8]) -> Hash {
    let mut leaf = Leaf::default();
    leaf.update(data);
    leaf.hash()
}

/// A leaf whose data come bit by bit.
#[derive(Debug, Clone)]
pub struct Leaf(Sha256);

impl Default for Leaf {
    fn default() -> Self {
        Self(Sha256::new().chain_update([0]))
    }
}

impl Leaf {
    /// Adds data at the end.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// Hash of all of it (MERKLE-1).
    #[must_use]
    pub fn hash(self) -> Hash {
        self.0.finalize().into()
    }
}

/// Hash of an inner node (MERKLE-1).
#[must_use]
pub fn hash_children(left: &Hash, right: &Hash) -> Hash {
    let mut message = [1; 1 + 2 * HASH_BYTES];
    message[1..=HASH_BYTES].copy_from_slice(left);
    message[1 + HASH_BYTES..].copy_from_slice(right);
    Sha256::digest(message).into()
}

/// Root of the tree without leaves: the hash of nothing (MERKLE-2).
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}
