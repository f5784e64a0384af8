//! Where one source keeps the units: its locator, fetched when first needed and again when it proves wrong.

use crate::error::{Code, Error, Result};
use crate::layout::{self, Hash, LocatorHead, Page, Place};
use crate::source::Source;
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A locator up to this size is fetched in one request; of a larger one the entries of a page at a time.
const WHOLE_MAX: u64 = 1024 * 1024;

/// A source together with what its locator says.
pub struct Supplier {
    /// The source.
    pub source: Source,
    path: String,
    units: u32,
    table: Mutex<Option<Table>>,
}

struct Table {
    head: LocatorHead,
    packs: Arc<Vec<Hash>>,
    /// The bytes of all entries, when the locator is small.
    whole: Option<Vec<u8>>,
    places: HashMap<u32, Arc<Vec<Place>>>,
    since: Instant,
}

/// Entries of one page.
#[derive(Clone)]
pub struct Places {
    /// Hashes of the packs that the entries point to.
    pub packs: Arc<Vec<Hash>>,
    /// One for each unit of the page.
    pub places: Arc<Vec<Place>>,
}

impl Supplier {
    /// A source whose locator of the image with index root `root` is not fetched yet.
    pub fn new(source: Source, root: &Hash, units: u32) -> Self {
        Self {
            source,
            path: format!("locator/{}", layout::hex(root)),
            units,
            table: Mutex::new(None),
        }
    }

    /// Forgets the locator, unless it was fetched after `before`; whether there is now a new one to be had.
    pub fn forget(&self, before: Instant) -> bool {
        let mut table = lock(&self.table);
        let old = table.as_ref().is_some_and(|table| table.since <= before);
        if old {
            *table = None;
        }
        old
    }

    /// The places of the units of `page`, from memory alone.
    pub fn known(&self, page: u32) -> Option<Places> {
        self.table
            .try_lock()
            .ok()
            .and_then(|table| table.as_ref().and_then(|table| table.get(page)))
    }

    /// The places of the units of page number `number`.
    pub fn places(&self, number: u32, page: &Page, deadline: Instant) -> Result<Places> {
        let mut guard = lock(&self.table);
        if guard.is_none() {
            *guard = Some(self.load(deadline).map_err(of_another_length)?);
        }
        let Some(table) = guard.as_mut() else {
            return Err(Error::new(Code::BadLocator, "no locator"));
        };
        if let Some(places) = table.get(number) {
            return Ok(places);
        }
        let size = layout::LOCATOR_ENTRY * page.len.len();
        let entries = match &table.whole {
            Some(all) => {
                let at = layout::LOCATOR_ENTRY * page.first_unit as usize;
                all[at..at + size].to_vec()
            }
            None => {
                let offset = table.head.entry_offset(page.first_unit);
                let mut entries = vec![0; size];
                self.source
                    .open_range(&self.path, offset, size as u64, deadline)
                    .and_then(|mut body| {
                        body.read_exact(&mut entries)?;
                        body.finish()
                    })
                    .map_err(of_another_length)?;
                entries
            }
        };
        let places = layout::parse_places(&entries, page, table.head.packs)
            .map_err(|error| error.at(self.source.name()))?;
        table.places.insert(number, Arc::new(places));
        table
            .get(number)
            .ok_or_else(|| Error::new(Code::BadLocator, "no locator"))
    }

    fn load(&self, deadline: Instant) -> Result<Table> {
        let blame = |error: Error| error.at(self.source.name());
        // The count of packs is not known before the head is read; one pack of a whole image is the common case.
        let least =
            layout::LOCATOR_HEAD as u64 + 32 + layout::LOCATOR_ENTRY as u64 * u64::from(self.units);
        if least <= WHOLE_MAX {
            let data = self.source.whole(
                &self.path,
                WHOLE_MAX + 32 * u64::from(layout::PACKS_MAX),
                deadline,
            )?;
            let head = LocatorHead::parse(&data, self.units).map_err(blame)?;
            if data.len() as u64 != head.size() {
                return Err(blame(Error::new(Code::BadLocator, "locator: wrong length")));
            }
            let entries = head.entry_offset(0) as usize;
            return Ok(Table {
                packs: Arc::new(layout::parse_packs(&data[layout::LOCATOR_HEAD..entries])),
                whole: Some(data[entries..].to_vec()),
                head,
                places: HashMap::new(),
                since: Instant::now(),
            });
        }
        let mut data = [0; layout::LOCATOR_HEAD];
        let mut body = self
            .source
            .open_range(&self.path, 0, data.len() as u64, deadline)?;
        body.read_exact(&mut data)?;
        body.finish()?;
        let head = LocatorHead::parse(&data, self.units).map_err(blame)?;
        let mut packs = vec![0; 32 * head.packs as usize];
        if !packs.is_empty() {
            let at = layout::LOCATOR_HEAD as u64;
            let mut body = self
                .source
                .open_range(&self.path, at, packs.len() as u64, deadline)?;
            body.read_exact(&mut packs)?;
            body.finish()?;
        }
        Ok(Table {
            packs: Arc::new(layout::parse_packs(&packs)),
            whole: None,
            head,
            places: HashMap::new(),
            since: Instant::now(),
        })
    }
}

/// A locator that is shorter or longer than one of this index is none.
fn of_another_length(mut error: Error) -> Error {
    if matches!(error.code, Code::Short | Code::Long) {
        error.code = Code::BadLocator;
        error.message = format!("locator: {}", error.message);
    }
    error
}

impl Table {
    fn get(&self, page: u32) -> Option<Places> {
        self.places.get(&page).map(|places| Places {
            packs: self.packs.clone(),
            places: places.clone(),
        })
    }
}
