//! The FUSE protocol as far as a file system of one regular file needs it: fuse(4), <linux/fuse.h>. No input or output.

/// The root inode, which is the file.
pub const ROOT: u64 = 1;

/// Operations that are answered otherwise than by ENOSYS.
pub const GETATTR: u32 = 3;
/// See fuse.h, as all that follow.
pub const FORGET: u32 = 2;
pub const OPEN: u32 = 14;
pub const READ: u32 = 15;
pub const STATFS: u32 = 17;
pub const RELEASE: u32 = 18;
pub const INIT: u32 = 26;
pub const INTERRUPT: u32 = 36;
pub const DESTROY: u32 = 38;
pub const BATCH_FORGET: u32 = 42;

/// Bytes of a request's head.
pub const IN_HEADER: usize = 40;
/// Bytes of the longest request that is looked at: READ.
pub const REQUEST_MAX: usize = IN_HEADER + 40;
/// Bytes of an answer's head.
pub const OUT_HEADER: usize = 16;

const MAJOR: u32 = 7;
/// The oldest protocol spoken: kernel 5.10.
const MINOR_MIN: u32 = 31;
/// The newest protocol whose structures are known here.
const MINOR_MAX: u32 = 45;
const ASYNC_READ: u32 = 1;
const ASYNC_DIO: u32 = 1 << 15;
const MAX_PAGES: u32 = 1 << 22;
const FLAGS: u32 = ASYNC_READ | ASYNC_DIO | MAX_PAGES;
/// Pages of the largest READ: 1 MiB.
const PAGES_MAX: u16 = 256;
/// Below the count of slots, so that a request that somebody waits for finds one.
const BACKGROUND_MAX: u16 = 24;
/// Nobody writes; the smallest that is accepted keeps requests within a slot.
const WRITE_MAX: u32 = 4096;
const FOPEN_DIRECT_IO: u32 = 1;
/// Without it `close` asks the server, and waits when there is none.
const FOPEN_NOFLUSH: u32 = 1 << 5;
/// Attributes never change.
const ATTR_VALID_S: u64 = 365 * 24 * 3600;
const S_IFREG: u32 = 0o100_000;

/// A request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the request.
    pub len: u32,
    /// Operation.
    pub opcode: u32,
    /// What the answer repeats.
    pub unique: u64,
    /// Inode.
    pub nodeid: u64,
    /// Thread on whose behalf the request is made.
    pub pid: u32,
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&data[at..at + 4]);
    u32::from_ne_bytes(bytes)
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&data[at..at + 8]);
    u64::from_ne_bytes(bytes)
}

/// A request of which the first [`REQUEST_MAX`] bytes were copied.
pub struct Request {
    /// Its head.
    pub header: Header,
    body: [u8; REQUEST_MAX - IN_HEADER],
}

impl Request {
    /// Looks at a request.
    pub fn new(data: &[u8; REQUEST_MAX]) -> Self {
        let mut body = [0; REQUEST_MAX - IN_HEADER];
        body.copy_from_slice(&data[IN_HEADER..]);
        Self {
            header: Header {
                len: u32_at(data, 0),
                opcode: u32_at(data, 4),
                unique: u64_at(data, 8),
                nodeid: u64_at(data, 16),
                pid: u32_at(data, 32),
            },
            body,
        }
    }

    /// Whether the request has a body of `len` bytes.
    fn has(&self, len: usize) -> bool {
        self.header.len as usize >= IN_HEADER + len
    }

    /// Offset and size of a READ.
    pub fn read(&self) -> Option<(u64, u32)> {
        self.has(40)
            .then(|| (u64_at(&self.body, 8), u32_at(&self.body, 16)))
    }

    /// The request that an INTERRUPT is about.
    pub fn interrupted(&self) -> Option<u64> {
        self.has(8).then(|| u64_at(&self.body, 0))
    }

    /// What the kernel offers in INIT.
    pub fn init(&self) -> Option<Offer> {
        self.has(16).then(|| Offer {
            major: u32_at(&self.body, 0),
            minor: u32_at(&self.body, 4),
            max_readahead: u32_at(&self.body, 8),
            flags: u32_at(&self.body, 12),
        })
    }
}

/// What the kernel offers in INIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Bytes of read-ahead.
    pub max_readahead: u32,
    /// Flags.
    pub flags: u32,
}

/// The answer to INIT and what it settles; None when the kernel speaks another protocol.
pub fn init(offer: &Offer) -> Option<(Vec<u8>, linux::slots::Settled)> {
    if offer.major != MAJOR || offer.minor < MINOR_MIN || offer.flags & MAX_PAGES == 0 {
        return None;
    }
    let settled = linux::slots::Settled {
        major: MAJOR,
        minor: offer.minor.min(MINOR_MAX),
        flags: offer.flags & FLAGS,
        max_readahead: offer.max_readahead,
        max_pages: u32::from(PAGES_MAX),
    };
    let mut out = Vec::with_capacity(64);
    for word in [
        settled.major,
        settled.minor,
        settled.max_readahead,
        settled.flags,
    ] {
        out.extend(word.to_ne_bytes());
    }
    out.extend(BACKGROUND_MAX.to_ne_bytes());
    out.extend((BACKGROUND_MAX * 3 / 4).to_ne_bytes());
    out.extend(WRITE_MAX.to_ne_bytes());
    out.extend(1u32.to_ne_bytes()); // time_gran
    out.extend(PAGES_MAX.to_ne_bytes());
    out.resize(64, 0);
    Some((out, settled))
}

/// The answer to GETATTR of a read-only regular file of `size` bytes.
pub fn attr(size: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(104);
    out.extend(ATTR_VALID_S.to_ne_bytes());
    out.extend([0; 8]); // attr_valid_nsec, dummy
    out.extend(ROOT.to_ne_bytes());
    out.extend(size.to_ne_bytes());
    out.extend(size.div_ceil(512).to_ne_bytes());
    out.extend([0; 24 + 12]); // times and their nanoseconds
    for word in [S_IFREG | 0o400, 1, 0, 0, 0, 4096, 0] {
        out.extend(word.to_ne_bytes()); // mode, nlink, uid, gid, rdev, blksize, flags
    }
    out
}

/// The answer to OPEN: no page cache of this file, since the file system above has its own.
pub fn open() -> Vec<u8> {
    let mut out = vec![0; 8];
    out.extend((FOPEN_DIRECT_IO | FOPEN_NOFLUSH).to_ne_bytes());
    out.extend([0; 4]);
    out
}

/// The answer to STATFS for a blob of `size` bytes.
pub fn statfs(size: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(80);
    for word in [size.div_ceil(4096), 0, 0, 1, 0] {
        out.extend(word.to_ne_bytes()); // blocks, bfree, bavail, files, ffree
    }
    for word in [4096u32, 255, 4096, 0] {
        out.extend(word.to_ne_bytes()); // bsize, namelen, frsize, padding
    }
    out.resize(80, 0);
    out
}

/// The head of an answer with `len` bytes behind it, or of an error.
pub fn out_header(unique: u64, errno: i32, len: usize) -> [u8; OUT_HEADER] {
    let mut out = [0; OUT_HEADER];
    out[..4].copy_from_slice(&((OUT_HEADER + len) as u32).to_ne_bytes());
    out[4..8].copy_from_slice(&(-errno).to_ne_bytes());
    out[8..].copy_from_slice(&unique.to_ne_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_kernel() {
        let offer = Offer {
            major: 7,
            minor: 41,
            max_readahead: 131_072,
            flags: u32::MAX,
        };
        let (out, settled) = init(&offer).unwrap();
        assert_eq!(out.len(), 64);
        assert_eq!(settled.flags, FLAGS);
        assert_eq!(attr(5).len(), 104);
        assert_eq!(open().len(), 16);
        assert_eq!(statfs(5).len(), 80);
        assert!(init(&Offer { minor: 30, ..offer }).is_none());
        assert!(init(&Offer { major: 8, ..offer }).is_none());
    }

    #[test]
    fn short_requests_have_no_body() {
        let mut data = [0xff; REQUEST_MAX];
        data[..4].copy_from_slice(&(IN_HEADER as u32).to_ne_bytes());
        let request = Request::new(&data);
        assert!(
            request.read().is_none() && request.init().is_none() && request.interrupted().is_none()
        );
        data[..4].copy_from_slice(&(REQUEST_MAX as u32).to_ne_bytes());
        assert_eq!(Request::new(&data).read(), Some((u64::MAX, u32::MAX)));
    }
}
