//! Mutations that know no format: what makes lengths, offsets and types of any binary format wrong.

/// Numbers that lie at the edge of something.
const EDGES: [u64; 18] = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x1_0000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFE,
    0xFFFF_FFFF,
    0x1_0000_0000,
    i64::MAX as u64,
    u64::MAX,
];
/// Changes of one input.
const CHANGES_MAX: u64 = 6;

/// splitmix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// Below `end`, or 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.any() % end.max(1)
    }

    fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }
}

/// Gives one input after the other.
#[derive(Debug)]
pub struct Mutator<'a> {
    random: Random,
    corpus: &'a [Vec<u8>],
    limit: usize,
    input: Vec<u8>,
}

impl Mutator<'_> {
    /// Of these inputs, none longer than `limit` bytes.
    #[must_use]
    pub fn new(seed: u64, corpus: &[Vec<u8>], limit: usize) -> Mutator<'_> {
        let random = Random::new(seed);
        Mutator {
            random,
            corpus,
            limit,
            input: Vec::new(),
        }
    }

    /// The next input.
    #[allow(clippy::should_implement_trait)] // it lends what it owns
    pub fn next(&mut self) -> &[u8] {
        let from = self.random.index(self.corpus.len());
        self.input.clear();
        self.input
            .extend_from_slice(self.corpus.get(from).map_or(&[], Vec::as_slice));
        for _ in 0..=self.random.below(CHANGES_MAX) {
            self.change();
        }
        self.input.truncate(self.limit);
        &self.input
    }

    fn change(&mut self) {
        let length = self.input.len();
        let at = self.random.index(length);
        let count = 1 + self.random.index(16.min(length.max(1)));
        match self.random.below(9) {
            0 if length > 0 => self.input[at] ^= 1 << self.random.below(8),
            1 if length > 0 => self.input[at] = self.random.any() as u8,
            2 | 3 => self.edge(),
            4 if length > 0 => drop(self.input.drain(at..(at + count).min(length))),
            5 => {
                let byte = self.random.any() as u8;
                self.input.splice(at..at, std::iter::repeat_n(byte, count));
            }
            6 if length > 0 => {
                let piece = self.input[at..(at + count).min(length)].to_vec();
                let to = self.random.index(length);
                self.input.splice(to..to, piece);
            }
            7 => self.input.truncate(at),
            _ => self.cross(),
        }
    }

    /// Write a number from the edge over 1, 2, 4 or 8 bytes, in either order.
    fn edge(&mut self) {
        let width = 1 << self.random.below(4);
        if self.input.len() < width {
            return;
        }
        let at = self.random.index(self.input.len() - width + 1);
        let mut value = EDGES[self.random.index(EDGES.len())];
        if self.random.below(4) == 0 {
            value = value.wrapping_add(self.random.below(9)).wrapping_sub(4);
        }
        let place = &mut self.input[at..at + width];
        if self.random.below(2) == 0 {
            place.copy_from_slice(&value.to_le_bytes()[..width]);
        } else {
            place.copy_from_slice(&value.to_be_bytes()[8 - width..]);
        }
    }

    /// Go on as another input of the corpus does.
    fn cross(&mut self) {
        let Some(other) = self.corpus.get(self.random.index(self.corpus.len())) else {
            return;
        };
        let from = self.random.index(other.len());
        let at = self.random.index(self.input.len());
        self.input.truncate(at);
        self.input.extend_from_slice(&other[from..]);
    }
}
