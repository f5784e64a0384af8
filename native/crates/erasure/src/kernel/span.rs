//! Shards as the kernels take them: memory of the caller, which others may look at meanwhile.

use std::marker::PhantomData;
use std::ops::Range;

/// A shard to read from.
///
/// Not a slice, because the owner of a Python buffer may write to it in the middle of a call: then the result is of no
/// worth, and nothing else happens.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    start: *const u8,
    length: usize,
    owner: PhantomData<&'a [u8]>,
}

/// A shard to write to.
#[derive(Debug)]
pub struct Target<'a> {
    start: *mut u8,
    length: usize,
    owner: PhantomData<&'a mut [u8]>,
}

// SAFETY: a source is read by kernels only, as a shared slice would be; whose memory it is, whoever made it vouched for.
unsafe impl Send for Source<'_> {}
// SAFETY: as above.
unsafe impl Sync for Source<'_> {}
// SAFETY: a target is like an exclusive slice of bytes.
unsafe impl Send for Target<'_> {}
// SAFETY: as above; nothing can be done to a target behind a shared reference but to ask for its place.
unsafe impl Sync for Target<'_> {}

impl<'a> Source<'a> {
    /// A shard at `start`.
    ///
    /// # Safety
    ///
    /// `length` bytes at `start` stay allocated and readable for `'a`.
    pub const unsafe fn new(start: *const u8, length: usize) -> Self {
        Self {
            start,
            length,
            owner: PhantomData,
        }
    }

    /// Its length in bytes.
    pub const fn length(&self) -> usize {
        self.length
    }

    pub(crate) const fn start(&self) -> *const u8 {
        self.start
    }

    pub(crate) fn place(&self) -> Range<usize> {
        self.start.addr()..self.start.addr() + self.length
    }
}

impl<'a> From<&'a [u8]> for Source<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self {
            start: bytes.as_ptr(),
            length: bytes.len(),
            owner: PhantomData,
        }
    }
}

impl<'a> Target<'a> {
    /// A shard at `start`.
    ///
    /// # Safety
    ///
    /// `length` bytes at `start` stay allocated and writable for `'a`.
    pub const unsafe fn new(start: *mut u8, length: usize) -> Self {
        Self {
            start,
            length,
            owner: PhantomData,
        }
    }

    /// Its length in bytes.
    pub const fn length(&self) -> usize {
        self.length
    }

    pub(crate) const fn start(&self) -> *mut u8 {
        self.start
    }

    pub(crate) fn place(&self) -> Range<usize> {
        self.start.addr()..self.start.addr() + self.length
    }
}

impl<'a> From<&'a mut [u8]> for Target<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self {
            start: bytes.as_mut_ptr(),
            length: bytes.len(),
            owner: PhantomData,
        }
    }
}
