//! What a store or a disk can hold in the place of an index, a locator or a presence file (FLIST-IDX, FLIST-LOC, PRES).

use crate::layout::{parse_packs, parse_places, LocatorHead, Page, PageList, LOCATOR_HEAD};
use crate::presence::Presence;
use crate::testing::scratch;

/// The golden bytes of tests/vectors, made from the specification alone.
fn vector(name: &str) -> Vec<u8> {
    let path = format!(
        "{}/../../../tests/vectors/flist/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn fuzz_page_list() {
    let corpus = [vector("page-list.bin"), vector("page-0.bin")];
    assert!(PageList::parse(&corpus[0]).is_ok());
    fuzz::run("page-list", &corpus, |data| {
        let Ok(list) = PageList::parse(data) else {
            return;
        };
        for page in 0..list.pages.len() as u32 {
            assert!(list.count(page) >= 1);
            assert!(list.end_block(page) > list.pages[page as usize].first_block);
        }
        if list.blocks > 0 {
            assert!(list.page_of_block(list.blocks - 1) as usize == list.pages.len() - 1);
        }
    });
}

#[test]
fn fuzz_index_page() {
    let list = PageList::parse(&vector("page-list.bin")).unwrap();
    let corpus = [vector("page-0.bin"), vector("page-1.bin")];
    assert!(Page::parse(&corpus[0], &list, 0).is_ok());
    fuzz::run("index-page", &corpus, |data| {
        for number in 0..2 {
            let Ok(page) = Page::parse(data, &list, number) else {
                continue;
            };
            assert_eq!(page.block.len(), page.len.len() + 1);
            for slot in 0..page.len.len() {
                assert_eq!(page.slot_of_block(page.block[slot]), slot);
                assert_eq!(page.address(slot), u64::from(page.block[slot]) * 4096);
            }
        }
    });
}

#[test]
fn fuzz_locator() {
    let list = PageList::parse(&vector("page-list.bin")).unwrap();
    let page = Page::parse(&vector("page-0.bin"), &list, 0).unwrap();
    let whole = vector("locator.bin");
    let head = LocatorHead::parse(&whole, list.units).unwrap();
    let at = head.entry_offset(0) as usize;
    let entries = whole[at..at + 12 * page.len.len()].to_vec();
    assert!(parse_places(&entries, &page, head.packs).is_ok());
    fuzz::run("locator", &[whole, entries], |data| {
        if let Ok(head) = LocatorHead::parse(data, list.units) {
            assert!(head.size() < 1 << 32);
            let packs = data[LOCATOR_HEAD..].get(..32 * head.packs as usize);
            assert!(packs.is_none_or(|packs| parse_packs(packs).len() == head.packs as usize));
        }
        for place in parse_places(data, &page, 2).unwrap_or_default() {
            assert!(
                place.pack < 2 && u64::from(place.offset) + u64::from(place.wire_len) <= 1 << 30
            );
        }
    });
}

#[test]
fn fuzz_presence_file() {
    let directory = scratch("fuzz-presence");
    let (path, root, units) = (directory.path().join("presence"), [7; 32], 100);
    let mut made = Presence::open(&path, units, &root).unwrap();
    made.write(&[0, 7, 99], true).unwrap();
    drop(made);
    let good = std::fs::read(&path).unwrap();
    fuzz::run("presence", &[good], |data| {
        std::fs::write(&path, data).unwrap();
        let found = Presence::open(&path, units, &root).unwrap();
        let has = (0..units).filter(|unit| found.has(*unit)).count();
        assert!(has <= units as usize);
    });
}
