//! What an image is opened with, and what it tells.

use crate::error::{Error, Result};
use crate::layout::Hash;
use crate::source::SourceSpec;
use std::path::PathBuf;
use std::time::Duration;

/// The longest read: a FUSE request of 256 pages.
pub const READ_MAX: usize = 1024 * 1024;

/// What is to be served, and from where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Hash of the page list.
    pub root: Hash,
    /// Pages, units and blocks as the manifest says.
    pub pages: u32,
    /// Units of the image.
    pub units: u32,
    /// Blocks of the blob.
    pub blocks: u32,
    /// Directory of blob, presence and index; None keeps units in memory.
    pub dir: Option<PathBuf>,
    /// Tried in this order.
    pub sources: Vec<SourceSpec>,
    /// Time for one request.
    pub fetch_timeout: Duration,
    /// While every source fails in a way that waiting may cure, readers are told so after this time, or at their own
    /// deadline if that comes first.
    pub patience: Duration,
    /// Most plain bytes kept; 0 is no limit.
    pub keep_max: u64,
}

/// A unit that could not be had, and why.
#[derive(Debug, Clone)]
pub struct UnitFailure {
    /// Number of the unit, or None when the index page that names it is missing.
    pub unit: Option<u32>,
    /// Byte address that was asked for.
    pub address: u64,
    /// The reason.
    pub error: Error,
}

/// Hears what happens to an image. Called from its threads; must not block.
pub trait Observer: Send + Sync {
    /// Somebody waited for a unit and did not get it.
    fn unit_failed(&self, _failure: &UnitFailure) {}
    /// One attempt at one source failed.
    fn source_failed(&self, _error: &Error) {}
    /// Every unit is present and was verified.
    fn full(&self) {}
}

/// An observer that does not listen.
pub struct Silent;

impl Observer for Silent {}

/// Called once with the outcome of a request.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// Counters of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Units of the image.
    pub units: u32,
    /// Units kept, verified in this process or not.
    pub units_present: u32,
    /// Size of the blob.
    pub blob_bytes: u64,
    /// Body bytes received from all sources.
    pub bytes_fetched: u64,
    /// Requests made to all sources.
    pub requests: u64,
    /// Ranges asked for by readers.
    pub reads: u64,
    /// Ranges that failed.
    pub errors: u64,
    /// Every unit was verified in one pass.
    pub full: bool,
}
