//! What logd keeps in memory of hold's (docs/spec/logd.md, LOG-SLOT): the slot of a log, and the take that is under way.
//! Each is written by one pwrite within one page, which a kill does not divide.

/// Bytes of a slot.
pub const SLOT_SIZE: usize = 96;
/// Bytes of a take.
pub const TAKE_SIZE: usize = 320;
/// What is put where bytes are about to be read.
pub const FILL_SIZE: usize = 16;

const SLOT_MAGIC: [u8; 8] = *b"ZOSLOGS1";
const TAKE_MAGIC: [u8; 8] = *b"ZOSLOGT1";
/// More bytes than any log has, with room for sums.
const BYTES_MAX: u64 = 1 << 62;

/// Limits of a log, and how far it is written. A single pwrite moves it from one consistent state to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slot {
    /// The last take whose bytes are in here: written or counted as dropped.
    pub take: u64,
    /// Bytes of one file.
    pub file_bytes_max: u64,
    /// Where the next frame goes.
    pub offset: u64,
    /// Bytes that could not be written.
    pub dropped_bytes: u64,
    /// `dropped_bytes` of the last note about them.
    pub dropped_noted: u64,
    /// Bytes of files that were deleted.
    pub deleted_bytes: u64,
    /// `deleted_bytes` of the last note about them.
    pub deleted_noted: u64,
    /// Files that are kept.
    pub files_max: u32,
    /// The file that is written, 0 before the first.
    pub seq: u32,
    /// The oldest file that is kept.
    pub oldest: u32,
}

impl Slot {
    /// The bytes that hold keeps.
    pub fn encode(&self) -> [u8; SLOT_SIZE] {
        let mut bytes = [0; SLOT_SIZE];
        bytes[..8].copy_from_slice(&SLOT_MAGIC);
        let wide = [
            self.take,
            self.file_bytes_max,
            self.offset,
            self.dropped_bytes,
            self.dropped_noted,
            self.deleted_bytes,
            self.deleted_noted,
        ];
        for (word, to) in wide.iter().zip(bytes[8..].chunks_exact_mut(8)) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        let narrow = [self.files_max, self.seq, self.oldest];
        for (word, to) in narrow.iter().zip(bytes[64..].chunks_exact_mut(4)) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// `None` for anything that `encode` does not give, and for what no log can have come to.
    pub fn decode(bytes: &[u8; SLOT_SIZE]) -> Option<Slot> {
        let wide = |at: usize| u64_at(bytes, 8 + 8 * at);
        let narrow = |at: usize| u32_at(bytes, 64 + 4 * at);
        let slot = Slot {
            take: wide(0),
            file_bytes_max: wide(1),
            offset: wide(2),
            dropped_bytes: wide(3),
            dropped_noted: wide(4),
            deleted_bytes: wide(5),
            deleted_noted: wide(6),
            files_max: narrow(0),
            seq: narrow(1),
            oldest: narrow(2),
        };
        let is_possible = [slot.offset, slot.dropped_bytes, slot.deleted_bytes]
            .iter()
            .all(|bytes| *bytes <= BYTES_MAX);
        (is_possible && slot.encode() == *bytes).then_some(slot)
    }
}

/// Bytes that are about to be read from a pipe, have been read, or are being written: one at a time for all of logd.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Take {
    /// Counts takes from 1.
    pub number: u64,
    /// For the frame.
    pub time_ns: u64,
    /// Where the frame goes.
    pub offset: u64,
    /// What stands in the place of the data until it is read.
    pub fill: [u8; FILL_SIZE],
    /// The file that the frame goes to; 0 if there is none, and the bytes are dropped.
    pub seq: u32,
    /// How many bytes were in the pipe.
    pub length: u32,
    /// Of the pipe.
    pub stream: u8,
    /// Of the log.
    pub name: String,
}

impl Take {
    /// The bytes that hold keeps.
    pub fn encode(&self) -> [u8; TAKE_SIZE] {
        let mut bytes = [0; TAKE_SIZE];
        bytes[..8].copy_from_slice(&TAKE_MAGIC);
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.time_ns.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.offset.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.fill);
        bytes[48..52].copy_from_slice(&self.seq.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.length.to_le_bytes());
        bytes[56] = self.stream;
        let name = &self.name.as_bytes()[..self.name.len().min(255)];
        bytes[57] = name.len() as u8;
        bytes[58..58 + name.len()].copy_from_slice(name);
        bytes
    }

    /// `None` for anything that `encode` does not give; all zeros are the take before the first.
    pub fn decode(bytes: &[u8; TAKE_SIZE]) -> Option<Take> {
        if *bytes == [0; TAKE_SIZE] {
            return Some(Take::default());
        }
        let name = bytes.get(58..58 + usize::from(bytes[57]))?;
        let mut fill = [0; FILL_SIZE];
        fill.copy_from_slice(&bytes[32..48]);
        let take = Take {
            number: u64_at(bytes, 8),
            time_ns: u64_at(bytes, 16),
            offset: u64_at(bytes, 24),
            fill,
            seq: u32_at(bytes, 48),
            length: u32_at(bytes, 52),
            stream: bytes[56],
            name: String::from_utf8(name.to_vec()).ok()?,
        };
        (take.encode() == *bytes).then_some(take)
    }

    /// How many bytes the read has put over the fill.
    ///
    /// If the last of them are no longer the fill, then all. Otherwise the read has not happened; or, if the kernel
    /// stopped in its middle, it ends where the fill begins.
    pub fn taken(&self, data: &[u8]) -> usize {
        let untouched = |(at, byte): (usize, &u8)| *byte == self.fill[at % FILL_SIZE];
        let tail = data.len().saturating_sub(FILL_SIZE);
        if !data.iter().enumerate().skip(tail).all(untouched) {
            return data.len();
        }
        let last = data.iter().enumerate().rposition(|pair| !untouched(pair));
        last.map_or(0, |at| at + 1)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back() {
        let slot = Slot {
            take: 1,
            file_bytes_max: 2,
            offset: 3,
            dropped_bytes: 4,
            dropped_noted: 5,
            deleted_bytes: 6,
            deleted_noted: 7,
            files_max: 8,
            seq: 9,
            oldest: 10,
        };
        assert_eq!(Slot::decode(&slot.encode()), Some(slot));
        assert_eq!(Slot::decode(&[0; SLOT_SIZE]), None);
        let mut other = slot.encode();
        other[SLOT_SIZE - 1] = 1;
        assert_eq!(Slot::decode(&other), None);
    }

    #[test]
    fn takes_come_back() {
        let take = Take {
            number: 1,
            time_ns: 2,
            offset: 3,
            fill: [4; FILL_SIZE],
            seq: 5,
            length: 6,
            stream: 2,
            name: "a".repeat(255),
        };
        assert_eq!(Take::decode(&take.encode()), Some(take.clone()));
        assert_eq!(Take::decode(&[0; TAKE_SIZE]), Some(Take::default()));
        let mut other = take.encode();
        other[0] = 1;
        assert_eq!(Take::decode(&other), None);
    }

    #[test]
    fn what_a_read_has_overwritten() {
        let mut fill = [0; FILL_SIZE];
        fill.iter_mut()
            .zip(1..)
            .for_each(|(byte, value)| *byte = value);
        let take = Take {
            fill,
            ..Take::default()
        };
        for length in [1usize, 5, 16, 17, 100] {
            let filled: Vec<u8> = (0..length).map(|at| fill[at % FILL_SIZE]).collect();
            assert_eq!(take.taken(&filled), 0);
            for read in 1..=length {
                let mut data = filled.clone();
                data[..read].fill(b'x');
                // A read that stopped does so at the edge of a page, never among the last bytes.
                let expected = if read + FILL_SIZE > length {
                    length
                } else {
                    read
                };
                assert_eq!(take.taken(&data), expected, "{read} of {length}");
            }
            let mut data = filled.clone();
            data[length - 1] = b'x';
            assert_eq!(
                take.taken(&data),
                length,
                "the last byte alone proves a whole read"
            );
        }
    }
}
