//! What the tests of this crate share: scratch directories, generated images, servers that misbehave.

use crate::layout::{blocks_of, hex, pages_of, Hash, BLOCK, PAGE_UNITS};
use crate::plan::Plan;
use crate::source::SourceSpec;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A directory that is removed with its owner.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes a new directory.
pub fn scratch(name: &str) -> Scratch {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path =
        std::env::temp_dir().join(format!("zos-fetch-{name}-{}-{count}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    Scratch(path)
}

/// A store with one image, made from the rules of flist v1 alone.
pub struct Made {
    /// The store's directory.
    pub store: Scratch,
    /// Plain units.
    pub units: Vec<Vec<u8>>,
    /// Hash of the page list.
    pub root: Hash,
    /// Blocks of the blob.
    pub blocks: u32,
}

impl Made {
    /// The blob as a reader must see it.
    pub fn blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        for unit in &self.units {
            blob.extend(unit);
            blob.resize(blob.len().next_multiple_of(BLOCK as usize), 0);
        }
        blob
    }

    /// Byte address of a unit.
    pub fn address(&self, unit: usize) -> u64 {
        let blocks: u32 = self.units[..unit]
            .iter()
            .map(|unit| blocks_of(unit.len() as u32))
            .sum();
        u64::from(blocks) * BLOCK
    }

    /// A plan with these sources, kept in `dir`.
    pub fn plan(&self, dir: Option<&Path>, sources: Vec<SourceSpec>) -> Plan {
        Plan {
            root: self.root,
            pages: pages_of(self.units.len() as u32),
            units: self.units.len() as u32,
            blocks: self.blocks,
            dir: dir.map(Path::to_owned),
            sources,
            fetch_timeout: Duration::from_secs(5),
            patience: Duration::MAX,
            keep_max: 0,
        }
    }

    /// The store as a source.
    pub fn dir(&self) -> SourceSpec {
        SourceSpec::Dir(self.store.path().to_owned())
    }
}

/// Makes an image of units of these sizes in one pack; every third unit is stored raw.
pub fn make(name: &str, sizes: &[usize]) -> Made {
    let store = scratch(name);
    for dir in ["index", "pack", "locator", "meta"] {
        std::fs::create_dir_all(store.path().join(dir)).unwrap();
    }
    let words =
        |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    let mut pack = Vec::new();
    let mut entries = Vec::new();
    let units: Vec<Vec<u8>> = sizes
        .iter()
        .enumerate()
        .map(|(number, size)| {
            let mut plain = vec![0; *size];
            if number % 3 == 0 {
                let mut reader = blake3::Hasher::new()
                    .update(&number.to_le_bytes())
                    .finalize_xof();
                reader.fill(&mut plain);
            } else {
                plain.fill(number as u8);
            }
            let frame = zstd::bulk::compress(&plain, 3).unwrap();
            let raw = number % 3 == 0;
            let wire = if raw { &plain } else { &frame };
            let flag = if raw { 1 << 31 } else { 0 };
            entries.extend(words(&[0, pack.len() as u32, wire.len() as u32 | flag]));
            pack.extend(wire);
            plain
        })
        .collect();
    let pack_hash = *blake3::hash(&pack).as_bytes();
    std::fs::write(
        store.path().join(format!("pack/{}", hex(&pack_hash))),
        &pack,
    )
    .unwrap();
    let mut refs = Vec::new();
    let mut block = 0;
    for part in units.chunks(PAGE_UNITS as usize) {
        let mut page = words(&[0x3149_5A46, part.len() as u32, block, 0]);
        page.extend(
            part.iter()
                .flat_map(|unit| (unit.len() as u32).to_le_bytes()),
        );
        page.extend(part.iter().flat_map(|unit| *blake3::hash(unit).as_bytes()));
        let hash = *blake3::hash(&page).as_bytes();
        std::fs::write(store.path().join(format!("index/{}", hex(&hash))), &page).unwrap();
        refs.extend(hash);
        refs.extend(block.to_le_bytes());
        block += part
            .iter()
            .map(|unit| blocks_of(unit.len() as u32))
            .sum::<u32>();
    }
    let mut list = b"ZOSPLIST\x01\0\0\0".to_vec();
    list.extend(words(&[
        (refs.len() / 36) as u32,
        units.len() as u32,
        block,
    ]));
    list.extend(refs);
    let root = *blake3::hash(&list).as_bytes();
    std::fs::write(store.path().join(format!("index/{}", hex(&root))), &list).unwrap();
    let mut locator = b"ZOSLOCAT\x01\0\0\0".to_vec();
    locator.extend(words(&[1, units.len() as u32, 0]));
    locator.extend(pack_hash);
    locator.extend(entries);
    std::fs::write(
        store.path().join(format!("locator/{}", hex(&root))),
        &locator,
    )
    .unwrap();
    Made {
        store,
        units,
        root,
        blocks: block,
    }
}

/// What a [`Server`] does with a request: gets path and range, gives the bytes to send, after which the connection is
/// closed.
pub type Answer = dyn Fn(&str, Option<(u64, u64)>) -> Vec<u8> + Send + Sync;

/// An HTTP server on loopback that says whatever a test wants.
pub struct Server {
    /// Its address as a source.
    pub source: SourceSpec,
    /// Requests so far.
    pub requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    port: u16,
}

impl Server {
    /// Starts one.
    pub fn start(answer: Box<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let answer: Arc<Answer> = answer.into();
        let (log, ended) = (requests.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (mut stream, answer, log) = (stream.unwrap(), answer.clone(), log.clone());
                std::thread::spawn(move || {
                    let Some((path, range)) = request_of(&mut stream) else {
                        return;
                    };
                    log.lock().unwrap().push(path.clone());
                    let _ = stream.write_all(&answer(&path, range));
                });
            }
        });
        Self {
            source: SourceSpec::Http(format!("http://127.0.0.1:{port}")),
            requests,
            stop,
            port,
        }
    }

    /// Requests below a folder of the store so far.
    pub fn count(&self, prefix: &str) -> usize {
        self.requests
            .lock()
            .unwrap()
            .iter()
            .filter(|path| path.starts_with(prefix))
            .count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn request_of(stream: &mut TcpStream) -> Option<(String, Option<(u64, u64)>)> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        text.push(byte[0]);
    }
    let text = String::from_utf8(text).ok()?;
    let path = text.split(' ').nth(1)?.trim_start_matches('/').to_owned();
    let range = text.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
        let range = (first.parse().ok()?, last.parse().ok()?);
        name.eq_ignore_ascii_case("range").then_some(range)
    });
    Some((path, range))
}

/// An honest answer out of a store.
pub fn honest(store: &Path, path: &str, range: Option<(u64, u64)>) -> Vec<u8> {
    let Ok(data) = std::fs::read(store.join(path)) else {
        return status(404);
    };
    match range {
        None => answer(&format!("200 OK\r\nContent-Length: {}", data.len()), &data),
        Some((first, last)) => {
            let last = last.min(data.len() as u64 - 1);
            let part = &data[first as usize..=last as usize];
            let head = format!(
                "206 Partial Content\r\nContent-Range: bytes {first}-{last}/{}\r\nContent-Length: {}",
                data.len(),
                part.len()
            );
            answer(&head, part)
        }
    }
}

/// An answer with this status line and head.
pub fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").into_bytes();
    bytes.extend(body);
    bytes
}

/// An answer of a status alone.
pub fn status(code: u16) -> Vec<u8> {
    answer(&format!("{code} Said\r\nContent-Length: 0"), b"")
}
