//! The bodies of blockd's operations (docs/spec/blockd.md).

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;
use wire::WireError;

/// Where bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A store behind HTTP.
    Http {
        /// Base address.
        url: String,
    },
    /// A store in a directory.
    Dir {
        /// Absolute path.
        path: String,
    },
}

/// The index of an image as its manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Hash of the page list.
    pub root: ByteBuf,
    /// Pages.
    pub pages: u32,
    /// Units.
    pub units: u32,
    /// Blocks of the blob.
    pub blocks: u32,
}

/// What is to be served, and from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Manifest digest in hexadecimal.
    pub image: String,
    /// The index.
    pub index: Index,
    /// Absolute path of the image's directory.
    pub dir: String,
    /// In the order in which they are tried.
    pub sources: Vec<Source>,
    /// Time for one request to a source.
    pub fetch_timeout_ms: u32,
    /// Time for one read.
    pub read_deadline_ms: u32,
    /// Most plain bytes kept, 0 for no limit.
    pub cache_bytes_max: u64,
    /// Whether reads come over FUSE.
    pub serve: bool,
}

/// `fetch_object`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchObject {
    /// In the order in which they are tried.
    pub sources: Vec<Source>,
    /// Path in a store.
    pub object: String,
    /// Hash of the plain bytes.
    pub blake3: ByteBuf,
    /// Plain bytes.
    pub size: u64,
    /// Stored as a zstd frame.
    pub zstd: bool,
    /// Absolute path.
    pub to: String,
    /// Time for all of it.
    pub deadline_ms: u32,
}

/// Operations on one image.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageName {
    /// Manifest digest in hexadecimal.
    pub image: String,
}

/// Reply of `add`.
#[derive(Debug, Clone, Serialize)]
pub struct Added {
    /// Units of the image.
    pub units: u32,
    /// Units on the local disk.
    pub units_present: u32,
    /// Size of the blob.
    pub blob_bytes: u64,
}

/// Reply of `status`.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Units of the image.
    pub units: u32,
    /// Units on the local disk.
    pub units_present: u32,
    /// Size of the blob.
    pub blob_bytes: u64,
    /// Body bytes from all sources, in this process.
    pub bytes_fetched: u64,
    /// Requests to all sources, in this process.
    pub requests: u64,
    /// Ranges given to readers.
    pub reads: u64,
    /// Ranges refused.
    pub errors: u64,
    /// Every unit was verified in one pass.
    pub full: bool,
}

/// Reply of `fetch_object`.
#[derive(Debug, Clone, Serialize)]
pub struct Fetched {
    /// Bytes that came over the wire.
    pub bytes: u64,
}

/// Event `unit_error`.
#[derive(Debug, Clone, Serialize)]
pub struct UnitError {
    /// Image.
    pub image: String,
    /// Number of the unit; nil when the index page that names it could not be had.
    pub unit: Option<u32>,
    /// Byte address in the blob.
    pub address: u64,
    /// A `fetch.*` code.
    pub code: String,
    /// One line.
    pub message: String,
    /// Source to blame, may be empty.
    pub source: String,
}

/// Event `source_error`.
#[derive(Debug, Clone, Serialize)]
pub struct SourceError {
    /// Image.
    pub image: String,
    /// Source to blame.
    pub source: String,
    /// A `fetch.*` code.
    pub code: String,
    /// One line.
    pub message: String,
}

/// Event `full`.
#[derive(Debug, Clone, Serialize)]
pub struct Full {
    /// Image.
    pub image: String,
}

/// Code of a request whose values make no sense.
pub const BAD_PLAN: &str = "blockd.bad-plan";
/// The longest time that a plan may name: an hour.
const TIME_MAX_MS: u32 = 3_600_000;
/// The largest plan in hold.
const PLAN_MAX: u64 = 1 << 20;
/// Sources of one plan.
const SOURCES_MAX: usize = 16;

impl Source {
    /// The same for the fetcher.
    pub fn spec(&self) -> fetch::SourceSpec {
        match self {
            Source::Http { url } => fetch::SourceSpec::Http(url.clone()),
            Source::Dir { path } => fetch::SourceSpec::Dir(path.into()),
        }
    }
}

/// A hash of exactly 32 bytes.
pub fn hash(bytes: &[u8]) -> Result<[u8; 32], WireError> {
    bytes
        .try_into()
        .map_err(|_| WireError::new(BAD_PLAN, "a hash has 32 bytes"))
}

impl Plan {
    /// A plan as hold keeps it: a sealed memfd with a map. Its offset is shared with others, so it is not used.
    pub fn from_memfd(memfd: OwnedFd) -> Result<Self, wire::Error> {
        let file = File::from(memfd);
        let size = file.metadata()?.len();
        if size > PLAN_MAX {
            return Err(wire::Error::Decode("the plan is too long".into()));
        }
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, 0)?;
        wire::decode(&bytes)
    }

    /// The same for the fetcher, checked.
    pub fn to_fetch(&self) -> Result<fetch::Plan, WireError> {
        let bad = |what: &str| Err(WireError::new(BAD_PLAN, what));
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if self.image.len() != 64 || !self.image.bytes().all(is_hex) {
            return bad("the image is not a digest of 64 hexadecimal digits");
        }
        if !self.dir.starts_with('/') {
            return bad("the directory is not an absolute path");
        }
        if self.sources.len() > SOURCES_MAX {
            return bad("too many sources");
        }
        let time = 1..=TIME_MAX_MS;
        if !time.contains(&self.fetch_timeout_ms) || !time.contains(&self.read_deadline_ms) {
            return bad("times lie between 1 ms and an hour");
        }
        Ok(fetch::Plan {
            root: hash(&self.index.root)?,
            pages: self.index.pages,
            units: self.index.units,
            blocks: self.index.blocks,
            dir: Some(PathBuf::from(&self.dir)),
            sources: self.sources.iter().map(Source::spec).collect(),
            fetch_timeout: Duration::from_millis(self.fetch_timeout_ms.into()),
            // A reader of a mount waits until its own deadline.
            patience: Duration::MAX,
            keep_max: self.cache_bytes_max,
        })
    }
}

/// A fetch error as a frame carries it.
pub fn wire_error(error: &fetch::Error) -> WireError {
    if error.code == fetch::Code::NoDescriptors {
        return WireError::no_descriptors(&format!("fetch ({error})"));
    }
    WireError::new(error.code.as_str(), error.to_string())
}
