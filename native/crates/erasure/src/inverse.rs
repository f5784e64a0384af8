//! What was computed for a set of lost shards is kept: the inversion of 16 x 16 takes as long as a small stripe.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::kernel::tables::Tables;

/// Most entries of a cache.
const ENTRIES_MAX: usize = 256;
/// And most bytes of tables in it; but at least `ENTRIES_MIN` entries.
const BYTES_MAX: usize = 4 << 20;
const ENTRIES_MIN: usize = 8;

/// A set of shard indexes.
pub(crate) type Mask = [u64; 4];

/// The set of these indexes, each below 256.
pub(crate) fn mask(indexes: &[usize]) -> Mask {
    let mut mask = [0; 4];
    for index in indexes {
        mask[index / 64] |= 1 << (index % 64);
    }
    mask
}

/// The tables that make the lost shards (second set) from the survivors (first set), by least recent use.
///
/// The lock is never held while anything is computed, so a caller that holds the interpreter's lock around each call
/// can neither wait for long nor fork in the middle of one.
pub(crate) struct Inverses {
    entries_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    clock: u64,
    entries: HashMap<(Mask, Mask), (u64, Arc<Tables>)>,
}

impl Inverses {
    /// For a code of this shape.
    pub(crate) fn new(k: usize, m: usize) -> Self {
        let bytes = m * k * 32;
        Self {
            entries_max: (BYTES_MAX / bytes).clamp(ENTRIES_MIN, ENTRIES_MAX),
            kept: Mutex::default(),
        }
    }

    /// The tables, if they are here.
    pub(crate) fn get(&self, survivors: Mask, lost: Mask) -> Option<Arc<Tables>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clock += 1;
        let now = kept.clock;
        let (used, tables) = kept.entries.get_mut(&(survivors, lost))?;
        *used = now;
        Some(Arc::clone(tables))
    }

    /// Keeps tables; what was used longest ago makes room.
    pub(crate) fn put(&self, survivors: Mask, lost: Mask, tables: Arc<Tables>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clock += 1;
        let now = kept.clock;
        if kept.entries.len() >= self.entries_max && !kept.entries.contains_key(&(survivors, lost))
        {
            let oldest = kept.entries.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(key) = oldest.map(|(key, _)| *key) {
                kept.entries.remove(&key);
            }
        }
        kept.entries.insert((survivors, lost), (now, tables));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Path;

    #[test]
    fn the_least_recently_used_makes_room() {
        let inverses = Inverses::new(128, 32);
        assert_eq!(inverses.entries_max, 32);
        let tables = Arc::new(Tables::new(Path::Scalar, &[1], 1));
        for index in 0..32 {
            inverses.put(mask(&[index]), [0; 4], Arc::clone(&tables));
        }
        assert!(inverses.get(mask(&[0]), [0; 4]).is_some());
        inverses.put(mask(&[200]), [0; 4], Arc::clone(&tables));
        assert!(inverses.get(mask(&[0]), [0; 4]).is_some());
        assert!(inverses.get(mask(&[1]), [0; 4]).is_none());
        assert!(inverses.get(mask(&[200]), [0; 4]).is_some());
        assert_eq!(
            inverses.kept.lock().map(|kept| kept.entries.len()).ok(),
            Some(32)
        );
    }
}
