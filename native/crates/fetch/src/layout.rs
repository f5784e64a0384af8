//! The bytes of page list, index page and locator (flist v1): total parsers, no input or output.

use crate::error::{Code, Error, Result};

/// Bytes in a block.
pub const BLOCK: u64 = 4096;
/// Plain bytes in the largest unit.
pub const UNIT_MAX: u32 = 262_144;
/// Units in a full index page.
pub const PAGE_UNITS: u32 = 256;
/// Bytes in the largest pack.
pub const PACK_MAX: u64 = 1 << 30;
/// Bytes on the wire of the largest unit: zstd's own bound for data that does not shrink.
pub const WIRE_UNIT_MAX: u32 = UNIT_MAX + UNIT_MAX / 128 + 128;
/// Bytes before the entries of a page list.
pub const PAGE_LIST_HEAD: usize = 24;
/// Bytes of one entry of a page list.
pub const PAGE_LIST_ENTRY: usize = 36;
/// Bytes before the columns of an index page.
pub const PAGE_HEAD: usize = 16;
/// Bytes of one unit in an index page.
pub const PAGE_ENTRY: usize = 36;
/// Bytes of the largest index page.
pub const PAGE_MAX: usize = PAGE_HEAD + PAGE_ENTRY * PAGE_UNITS as usize;
/// Bytes before the pack hashes of a locator.
pub const LOCATOR_HEAD: usize = 24;
/// Bytes of one unit in a locator.
pub const LOCATOR_ENTRY: usize = 12;
/// Packs that one locator may name: every unit of the largest image in a pack of its own is senseless.
pub const PACKS_MAX: u32 = 65_536;
/// Units of the largest image: 4 TiB of full units, an index of 600 MB.
pub const UNITS_MAX: u32 = 1 << 24;

const PAGE_LIST_MAGIC: &[u8; 8] = b"ZOSPLIST";
const PAGE_MAGIC: u32 = 0x3149_5A46;
const LOCATOR_MAGIC: &[u8; 8] = b"ZOSLOCAT";
const RAW: u32 = 1 << 31;

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// Lower-case hexadecimal of a hash.
pub fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&data[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([data[at], data[at + 1]])
}

fn hash_at(data: &[u8], at: usize) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(&data[at..at + 32]);
    hash
}

/// Blocks that `len` plain bytes take.
pub fn blocks_of(len: u32) -> u32 {
    len.div_ceil(BLOCK as u32)
}

/// Pages that `units` units take.
pub fn pages_of(units: u32) -> u32 {
    units.div_ceil(PAGE_UNITS)
}

/// One page in the page list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRef {
    /// Hash of the page's bytes.
    pub hash: Hash,
    /// First block of its first unit.
    pub first_block: u32,
}

/// The page list: the root of an image's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageList {
    /// Pages in order of address.
    pub pages: Vec<PageRef>,
    /// Units of the image.
    pub units: u32,
    /// Blocks of the blob.
    pub blocks: u32,
}

impl PageList {
    /// Bytes of a page list of `pages` pages.
    pub fn size(pages: u32) -> usize {
        PAGE_LIST_HEAD + PAGE_LIST_ENTRY * pages as usize
    }

    /// Reads a page list; the caller has compared its hash with the root.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let bad = |what: &str| Error::new(Code::BadIndex, format!("page list: {what}"));
        if data.len() < PAGE_LIST_HEAD || &data[..8] != PAGE_LIST_MAGIC {
            return Err(bad("no magic"));
        }
        if u16_at(data, 8) != 1 || u16_at(data, 10) != 0 {
            return Err(bad("unknown version"));
        }
        let (pages, units, blocks) = (u32_at(data, 12), u32_at(data, 16), u32_at(data, 20));
        if units > UNITS_MAX || pages != pages_of(units) {
            return Err(bad("count of pages does not fit the count of units"));
        }
        if data.len() != Self::size(pages) {
            return Err(bad("wrong length"));
        }
        let list: Vec<PageRef> = data[PAGE_LIST_HEAD..]
            .chunks_exact(PAGE_LIST_ENTRY)
            .map(|entry| PageRef {
                hash: hash_at(entry, 0),
                first_block: u32_at(entry, 32),
            })
            .collect();
        let mut previous = None;
        for page in &list {
            let rising = previous.map_or(page.first_block == 0, |before| page.first_block > before);
            if !rising || page.first_block >= blocks {
                return Err(bad("first blocks do not rise"));
            }
            previous = Some(page.first_block);
        }
        if list.is_empty() != (blocks == 0) {
            return Err(bad("blocks without units"));
        }
        Ok(Self {
            pages: list,
            units,
            blocks,
        })
    }

    /// The page that holds the unit at `block`; the caller has checked that it is below `blocks`.
    pub fn page_of_block(&self, block: u32) -> u32 {
        let after = self.pages.partition_point(|page| page.first_block <= block);
        after.saturating_sub(1) as u32
    }

    /// Units in page `page`.
    pub fn count(&self, page: u32) -> u32 {
        (self.units - page * PAGE_UNITS).min(PAGE_UNITS)
    }

    /// First block behind page `page`.
    pub fn end_block(&self, page: u32) -> u32 {
        self.pages
            .get(page as usize + 1)
            .map_or(self.blocks, |next| next.first_block)
    }
}

/// One index page: lengths, hashes and addresses of at most 256 units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Number of the first unit.
    pub first_unit: u32,
    /// Plain length of each unit.
    pub len: Vec<u32>,
    /// Hash of each unit.
    pub hash: Vec<Hash>,
    /// First block of each unit, and the first block behind the page.
    pub block: Vec<u32>,
}

impl Page {
    /// Reads page `page` of `list`; the caller has compared its hash with the list's.
    pub fn parse(data: &[u8], list: &PageList, page: u32) -> Result<Self> {
        let bad = |what: &str| Error::new(Code::BadIndex, format!("index page {page}: {what}"));
        if data.len() < PAGE_HEAD || u32_at(data, 0) != PAGE_MAGIC || u32_at(data, 12) != 0 {
            return Err(bad("no magic"));
        }
        let count = u32_at(data, 4);
        if count != list.count(page) {
            return Err(bad("wrong count of units"));
        }
        if data.len() != PAGE_HEAD + PAGE_ENTRY * count as usize {
            return Err(bad("wrong length"));
        }
        let mut at = u32_at(data, 8);
        if at != list.pages[page as usize].first_block {
            return Err(bad("first block differs from the page list"));
        }
        let hashes = PAGE_HEAD + 4 * count as usize;
        let mut result = Self {
            first_unit: page * PAGE_UNITS,
            len: Vec::with_capacity(count as usize),
            hash: Vec::with_capacity(count as usize),
            block: Vec::with_capacity(count as usize + 1),
        };
        for i in 0..count as usize {
            let len = u32_at(data, PAGE_HEAD + 4 * i);
            if len == 0 || len > UNIT_MAX {
                return Err(bad("length of a unit out of bounds"));
            }
            result.len.push(len);
            result.hash.push(hash_at(data, hashes + 32 * i));
            result.block.push(at);
            at = at
                .checked_add(blocks_of(len))
                .ok_or_else(|| bad("addresses overflow"))?;
        }
        result.block.push(at);
        if at != list.end_block(page) {
            return Err(bad("addresses do not end where the next page begins"));
        }
        Ok(result)
    }

    /// Index within this page of the unit that covers `block`.
    pub fn slot_of_block(&self, block: u32) -> usize {
        self.block.partition_point(|first| *first <= block) - 1
    }

    /// Byte address of the unit at `slot` of this page.
    pub fn address(&self, slot: usize) -> u64 {
        u64::from(self.block[slot]) * BLOCK
    }
}

/// Where a source keeps one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index of the pack among the locator's packs.
    pub pack: u32,
    /// First byte within the pack.
    pub offset: u32,
    /// Bytes on the wire.
    pub wire_len: u32,
    /// Stored as it is, not as a zstd frame.
    pub raw: bool,
}

/// Head of a locator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocatorHead {
    /// Packs named.
    pub packs: u32,
    /// Units placed.
    pub units: u32,
}

impl LocatorHead {
    /// Reads the first [`LOCATOR_HEAD`] bytes of a locator of an image of `units` units.
    pub fn parse(data: &[u8], units: u32) -> Result<Self> {
        let bad = |what: &str| Error::new(Code::BadLocator, format!("locator: {what}"));
        if data.len() < LOCATOR_HEAD || &data[..8] != LOCATOR_MAGIC {
            return Err(bad("no magic"));
        }
        if u16_at(data, 8) != 1 || u16_at(data, 10) != 0 || u32_at(data, 20) != 0 {
            return Err(bad("unknown version"));
        }
        let head = Self {
            packs: u32_at(data, 12),
            units: u32_at(data, 16),
        };
        if head.units != units {
            return Err(bad("count of units differs from the index"));
        }
        if head.packs > PACKS_MAX || (head.packs == 0) != (units == 0) {
            return Err(bad("senseless count of packs"));
        }
        Ok(head)
    }

    /// Bytes of the whole locator.
    pub fn size(&self) -> u64 {
        self.entry_offset(self.units)
    }

    /// Offset of the entry of unit `unit`.
    pub fn entry_offset(&self, unit: u32) -> u64 {
        LOCATOR_HEAD as u64 + 32 * u64::from(self.packs) + LOCATOR_ENTRY as u64 * u64::from(unit)
    }
}

/// Reads the pack hashes of a locator.
pub fn parse_packs(data: &[u8]) -> Vec<Hash> {
    data.chunks_exact(32).map(|hash| hash_at(hash, 0)).collect()
}

/// Reads the entries of the units of `page` and checks each against the index.
pub fn parse_places(data: &[u8], page: &Page, packs: u32) -> Result<Vec<Place>> {
    let bad = |what: &str| Error::new(Code::BadLocator, format!("locator: {what}"));
    if data.len() != LOCATOR_ENTRY * page.len.len() {
        return Err(bad("wrong length"));
    }
    data.chunks_exact(LOCATOR_ENTRY)
        .zip(&page.len)
        .map(|(entry, len)| {
            let wire = u32_at(entry, 8);
            let place = Place {
                pack: u32_at(entry, 0),
                offset: u32_at(entry, 4),
                wire_len: wire & !RAW,
                raw: wire & RAW != 0,
            };
            if place.pack >= packs {
                return Err(bad("names a pack that it does not list"));
            }
            if place.wire_len == 0
                || place.wire_len > WIRE_UNIT_MAX
                || (place.raw && place.wire_len != *len)
            {
                return Err(bad("length of a unit out of bounds"));
            }
            if u64::from(place.offset) + u64::from(place.wire_len) > PACK_MAX {
                return Err(bad("unit lies behind the largest pack"));
            }
            Ok(place)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(units: u32, first_blocks: &[u32], blocks: u32) -> Vec<u8> {
        let mut data = PAGE_LIST_MAGIC.to_vec();
        data.extend(1u16.to_le_bytes());
        data.extend(0u16.to_le_bytes());
        for word in [first_blocks.len() as u32, units, blocks] {
            data.extend(word.to_le_bytes());
        }
        for block in first_blocks {
            data.extend([7; 32]);
            data.extend(block.to_le_bytes());
        }
        data
    }

    fn page(first_block: u32, lens: &[u32]) -> Vec<u8> {
        let mut data = Vec::new();
        for word in [PAGE_MAGIC, lens.len() as u32, first_block, 0] {
            data.extend(word.to_le_bytes());
        }
        for len in lens {
            data.extend(len.to_le_bytes());
        }
        for _ in lens {
            data.extend([9; 32]);
        }
        data
    }

    #[test]
    fn page_list_and_page_agree() {
        let parsed = PageList::parse(&list(3, &[0], 5)).unwrap();
        assert_eq!(parsed.page_of_block(4), 0);
        let parsed_page = Page::parse(&page(0, &[1, 4097, 8192]), &parsed, 0).unwrap();
        assert_eq!(parsed_page.block, [0, 1, 3, 5]);
        assert_eq!(parsed_page.slot_of_block(2), 1);
        assert_eq!(parsed_page.slot_of_block(4), 2);
        assert_eq!(parsed_page.address(2), 3 * 4096);
    }

    #[test]
    fn empty_image() {
        let parsed = PageList::parse(&list(0, &[], 0)).unwrap();
        assert_eq!(parsed.units, 0);
        assert!(PageList::parse(&list(0, &[], 1)).is_err());
    }

    #[test]
    fn hostile_page_lists() {
        let good = list(300, &[0, 256], 300);
        assert!(PageList::parse(&good).is_ok());
        for cut in 0..good.len() {
            assert_eq!(
                PageList::parse(&good[..cut]).unwrap_err().code,
                Code::BadIndex
            );
        }
        let mut long = good.clone();
        long.push(0);
        assert!(PageList::parse(&long).is_err());
        assert!(
            PageList::parse(&list(300, &[0, 0], 300)).is_err(),
            "not rising"
        );
        assert!(
            PageList::parse(&list(300, &[1, 256], 300)).is_err(),
            "does not begin at 0"
        );
        assert!(
            PageList::parse(&list(300, &[0, 300], 300)).is_err(),
            "behind the end"
        );
        assert!(
            PageList::parse(&list(256, &[0, 256], 300)).is_err(),
            "too many pages"
        );
        assert!(PageList::parse(&list(u32::MAX, &[0], 300)).is_err());
        let mut version = good;
        version[8] = 2;
        assert!(PageList::parse(&version).is_err());
    }

    #[test]
    fn hostile_pages() {
        let parsed = PageList::parse(&list(2, &[0], 3)).unwrap();
        let good = page(0, &[4096, 4097]);
        assert!(Page::parse(&good, &parsed, 0).is_ok());
        for cut in 0..good.len() {
            assert!(Page::parse(&good[..cut], &parsed, 0).is_err());
        }
        assert!(Page::parse(&page(1, &[4096, 4097]), &parsed, 0).is_err());
        assert!(Page::parse(&page(0, &[4096, 0]), &parsed, 0).is_err());
        assert!(Page::parse(&page(0, &[4096, UNIT_MAX + 1]), &parsed, 0).is_err());
        assert!(Page::parse(&page(0, &[4096, u32::MAX]), &parsed, 0).is_err());
        assert!(
            Page::parse(&page(0, &[4096, 4096]), &parsed, 0).is_err(),
            "ends early"
        );
        assert!(Page::parse(&page(0, &[4096, 1, 4096]), &parsed, 0).is_err());
    }

    #[test]
    fn hostile_locators() {
        let parsed = PageList::parse(&list(2, &[0], 3)).unwrap();
        let index = Page::parse(&page(0, &[4096, 4097]), &parsed, 0).unwrap();
        let entry = |pack: u32, offset: u32, wire: u32| -> Vec<u8> {
            [pack, offset, wire]
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect()
        };
        let both = |second: Vec<u8>| [entry(0, 0, 100), second].concat();
        let places = parse_places(&both(entry(0, 100, 4097 | RAW)), &index, 1).unwrap();
        assert!(places[1].raw);
        assert_eq!(places[1].wire_len, 4097);
        for bad in [
            entry(1, 0, 100),
            entry(0, 0, 0),
            entry(0, 0, 4096 | RAW),
            entry(0, 0, WIRE_UNIT_MAX + 1),
            entry(0, (1 << 30) - 50, 100),
            entry(u32::MAX, u32::MAX, u32::MAX),
            Vec::new(),
        ] {
            assert_eq!(
                parse_places(&both(bad), &index, 1).unwrap_err().code,
                Code::BadLocator
            );
        }
        let mut head = LOCATOR_MAGIC.to_vec();
        head.extend(1u32.to_le_bytes());
        for word in [1u32, 2, 0] {
            head.extend(word.to_le_bytes());
        }
        assert_eq!(LocatorHead::parse(&head, 2).unwrap().size(), 24 + 32 + 24);
        assert!(LocatorHead::parse(&head, 3).is_err());
        head[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(LocatorHead::parse(&head, 2).is_err());
    }
}
