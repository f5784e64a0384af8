//! The peer's side of docs/spec/bench-peer.md: lines in, lines out.
#![deny(missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, Read, Write};
use std::time::Instant;

/// Added to the stride of shards: at powers of two they alias in the caches. Ours has the same layout.
const SKEW_BYTES: usize = 4160;
/// From here on ours has huge pages (native/buffer_pool.py), and so has everybody (BENCH-PEER-8).
const HUGE_BYTES: usize = 2 << 20;

/// A work that is ready to be done once.
pub type Work = Box<dyn FnMut() -> Result<(), String>>;

/// What to get ready for.
pub struct Request {
    /// The name of the work.
    pub work: String,
    input: String,
    values: HashMap<String, usize>,
}

impl Request {
    /// A whole number of the request, or 0.
    pub fn number(&self, key: &str) -> usize {
        self.values.get(key).copied().unwrap_or(0)
    }

    /// `k` shards of the input and room for `m` more, in one piece of memory, laid out as ours are.
    pub fn shards(&self, k: usize, m: usize, length: usize) -> Result<Shards, String> {
        let skew = self.values.get("skew_bytes").copied();
        let stride = length + skew.unwrap_or(SKEW_BYTES);
        if k == 0 || m == 0 || length == 0 {
            return Err("k, m and shard_bytes are out of range".to_owned());
        }
        let mut data: Shards = vec![1; (k + m) * stride]
            .leak()
            .chunks_exact_mut(stride)
            .map(|place| &mut place[..length])
            .collect();
        let mut file = File::open(&self.input).map_err(|error| error.to_string())?;
        for shard in &mut data[..k] {
            file.read_exact(shard).map_err(|error| error.to_string())?;
        }
        Ok(data)
    }
}

/// Shards of a work, which stay until the program ends.
pub type Shards = Vec<&'static mut [u8]>;

/// The system's allocator, with huge pages where ours are: also for what the libraries allocate.
struct Pages;

/// What is asked of the system for `layout`: memory that is long enough begins at a huge page.
fn aligned(layout: Layout) -> Layout {
    if layout.size() < HUGE_BYTES {
        return layout;
    }
    layout.align_to(HUGE_BYTES).unwrap_or(layout)
}

// SAFETY: the system's allocator with an alignment that depends on the layout alone, so that memory goes back with the
// one it was taken with; madvise(2) changes no content. Growing copies, as the trait does by itself.
unsafe impl GlobalAlloc for Pages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let made = System.alloc(aligned(layout));
        if layout.size() >= HUGE_BYTES && !made.is_null() {
            // A kernel without transparent huge pages says EINVAL; ours has small ones there, too.
            libc::madvise(made.cast(), layout.size(), libc::MADV_HUGEPAGE);
        }
        made
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        System.dealloc(memory, aligned(layout));
    }
}

#[global_allocator]
static PAGES: Pages = Pages;

/// The version of a crate in the lock file that this program was built with.
pub fn version(package: &str) -> String {
    let mut lines = include_str!("../Cargo.lock").lines();
    let wanted = format!("name = \"{package}\"");
    while let Some(line) = lines.next() {
        if line == wanted {
            let found = lines.next().and_then(|next| next.split('"').nth(1));
            return found.unwrap_or("unknown").to_owned();
        }
    }
    "unknown".to_owned()
}

/// CRC-32, as zlib has it, of the parts, one after the other.
pub fn digest(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let mut crc = u32::MAX;
    for part in parts {
        for byte in part.as_ref() {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
            }
        }
    }
    format!("{:08x}", !crc)
}

fn faults() -> i64 {
    // SAFETY: getrusage(2) fills the structure that it is given, of which zeros are a value.
    unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut used);
        used.ru_minflt
    }
}

fn parse(words: &[&str]) -> Result<Request, String> {
    let mut values = HashMap::new();
    for word in &words[3..] {
        let number = word
            .split_once('=')
            .and_then(|(key, text)| Some((key.to_owned(), text.parse().ok()?)));
        let (key, value) = number.ok_or_else(|| format!("{word} is no number"))?;
        values.insert(key, value);
    }
    Ok(Request {
        work: words[1].to_owned(),
        input: words[2].to_owned(),
        values,
    })
}

fn answer(words: &[&str], work: &mut Option<Work>, prepare: &Prepare) -> Result<String, String> {
    match words {
        ["prepare", _, _, ..] => {
            *work = None;
            let (mut made, digest) = prepare(&parse(words)?)?;
            made()?;
            *work = Some(made);
            Ok(if digest.is_empty() {
                "ok".to_owned()
            } else {
                format!("ok digest={digest}")
            })
        }
        ["run", count] => {
            let work = work.as_mut().ok_or("nothing is prepared")?;
            let count: u64 = count.parse().map_err(|_| format!("{count} is no number"))?;
            let (before, begin) = (faults(), Instant::now());
            for _ in 0..count {
                work()?;
            }
            Ok(format!(
                "ok ns={} faults={}",
                begin.elapsed().as_nanos(),
                faults() - before
            ))
        }
        _ => Err("not understood".to_owned()),
    }
}

/// Makes a work ready and tells the digest of what it gives, or "".
pub type Prepare = dyn Fn(&Request) -> Result<(Work, String), String>;

/// Answer until stdin closes.
pub fn serve(peer: &str, version: &str, works: &[&str], prepare: &Prepare) {
    let mut out = std::io::stdout();
    let mut say = |line: &str| {
        // Whoever asked may have gone: the end of stdin is seen next.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    };
    say(&format!(
        "hello 1 peer={peer} version={version} works={}",
        works.join(",")
    ));
    let mut work = None;
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        say(&answer(&words, &mut work, prepare).unwrap_or_else(|reason| format!("error {reason}")));
    }
}
