//! The fetcher: brings the units of an flist from its sources, verifies every byte by BLAKE3 before anybody sees it,
//! and keeps it.
//!
//! `zos-io block` and `native.fetch` both stand on [`Image`] and [`fetch_object`]. Formats: docs/spec/flist-v1.md and
//! docs/spec/blockd.md.

#![forbid(unsafe_code)]

mod decode;
mod error;
#[cfg(test)]
mod fuzz;
mod image;
mod index_files;
mod keep;
pub mod layout;
mod locate;
mod object;
mod plan;
mod presence;
mod source;
mod sync;
#[cfg(test)]
mod testing;

pub use error::{Code, Error, Result, UnitPlace};
pub use image::Image;
pub use object::{fetch_object, Object};
pub use plan::{Done, Observer, Plan, Silent, Status, UnitFailure, READ_MAX};
pub use source::SourceSpec;
