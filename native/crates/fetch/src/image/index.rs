//! The index of an image: page list and pages from the directory or the sources, and the units of a range.

use super::{Inner, READ_MAX};
use crate::error::{Code, Error, Result};
use crate::index_files::IndexFiles;
use crate::keep::Span;
use crate::layout::{self, Hash, Page, BLOCK, PAGE_UNITS};
use crate::locate::Supplier;
use crate::plan::Observer;
use crate::sync::lock;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether waiting may cure a failure, beside it.
pub(super) type Failed = (Error, bool);

/// A page list or index page: from the directory, else from the first source that has it; verified either way.
pub(super) fn indexed(
    files: &IndexFiles,
    suppliers: &[Supplier],
    hash: &Hash,
    size: usize,
    timeout: Duration,
    observer: &dyn Observer,
) -> std::result::Result<Vec<u8>, Failed> {
    let name = layout::hex(hash);
    let right = |data: &[u8]| blake3::hash(data).as_bytes() == hash;
    if let Some(data) = files.get(&name, size) {
        if right(&data) {
            return Ok(data);
        }
    }
    let mut failed = (Error::new(Code::Missing, "the plan names no source"), false);
    for supplier in suppliers {
        let deadline = Instant::now() + timeout;
        let answer = supplier
            .source
            .whole(&format!("index/{name}"), size as u64, deadline);
        let error = match answer {
            Ok(data) if right(&data) => {
                files.keep(&name, &data);
                return Ok(data);
            }
            Ok(_) => {
                let message = format!("index/{name}: not the bytes that its name says");
                Error::new(Code::Corrupt, message).at(supplier.source.name())
            }
            Err(error) => error,
        };
        observer.source_failed(&error);
        failed = worse(failed, error);
    }
    Err(failed)
}

/// Of two failures the one to report: that which waiting may cure decides whether to wait, the first of its kind what
/// is said.
pub(super) fn worse(old: Failed, error: Error) -> Failed {
    let retry = error.code.retryable();
    match (old.0.source.is_empty(), old.1, retry) {
        (true, _, _) | (false, false, true) => (error, retry),
        _ => old,
    }
}

pub(super) fn span_of(page: &Page, slot: usize) -> Span {
    Span {
        unit: page.first_unit + slot as u32,
        address: page.address(slot),
        len: page.len[slot],
    }
}

impl Inner {
    pub(super) fn check(&self, offset: u64, len: usize) -> Result<()> {
        let end = offset.checked_add(len as u64);
        if len > READ_MAX || end.is_none_or(|end| end > self.size()) {
            return Err(Error::new(
                Code::Range,
                format!("no {len} bytes at {offset}"),
            ));
        }
        Ok(())
    }

    /// An index page from memory, if it is there.
    pub(super) fn known_page(&self, number: u32) -> Option<Arc<Page>> {
        self.pages.get(number as usize)?.try_lock().ok()?.clone()
    }

    /// An index page, fetched if need be.
    pub(super) fn page(&self, number: u32) -> std::result::Result<Arc<Page>, Failed> {
        let mut slot = lock(&self.pages[number as usize]);
        if let Some(page) = slot.as_ref() {
            return Ok(page.clone());
        }
        let size = layout::PAGE_HEAD + layout::PAGE_ENTRY * self.list.count(number) as usize;
        let hash = &self.list.pages[number as usize].hash;
        let timeout = self.plan.fetch_timeout;
        let data = indexed(
            &self.files,
            &self.suppliers(),
            hash,
            size,
            timeout,
            self.observer.as_ref(),
        )?;
        let page = Page::parse(&data, &self.list, number).map_err(|error| (error, false))?;
        let page = Arc::new(page);
        *slot = Some(page.clone());
        Ok(page)
    }

    /// The units of a range, by pages from `page_of`; None when it has not got one.
    pub(super) fn spans<E>(
        &self,
        offset: u64,
        len: usize,
        mut page_of: impl FnMut(u32) -> std::result::Result<Option<Arc<Page>>, E>,
    ) -> std::result::Result<Option<Vec<Span>>, E> {
        let mut spans = Vec::new();
        let end = offset + len as u64;
        let mut at = offset;
        while at < end {
            let block = (at / BLOCK) as u32;
            let number = self.list.page_of_block(block);
            let Some(page) = page_of(number)? else {
                return Ok(None);
            };
            let mut slot = page.slot_of_block(block);
            while at < end && slot < page.len.len() {
                let span = span_of(&page, slot);
                at = span.end();
                spans.push(span);
                slot += 1;
            }
        }
        Ok(Some(spans))
    }

    pub(super) fn known_spans(&self, offset: u64, len: usize) -> Option<Vec<Span>> {
        let known = self.spans::<()>(offset, len, |number| Ok(self.known_page(number)));
        known.ok().flatten()
    }

    pub(super) fn span(&self, unit: u32) -> Option<Span> {
        let page = self.known_page(unit / PAGE_UNITS)?;
        Some(span_of(&page, (unit % PAGE_UNITS) as usize))
    }
}
