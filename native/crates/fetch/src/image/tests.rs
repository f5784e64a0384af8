//! An image against stores and servers that behave, and that do not.

use crate::error::Code;
use crate::plan::{Observer, Plan, Silent, UnitFailure};
use crate::source::SourceSpec;
use crate::testing::{answer, honest, make, scratch, status, Made, Server};
use crate::{Error, Image, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const SIZES: [usize; 12] = [
    1, 4095, 4096, 4097, 65_536, 100_000, 262_144, 5000, 9, 30_000, 30_000, 30_000,
];

fn open_plan(plan: Plan, observer: Arc<dyn Observer>) -> Result<Image> {
    Image::open(plan, observer, &AtomicBool::new(false))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn open(made: &Made, source: SourceSpec) -> Image {
    open_plan(made.plan(None, vec![source]), Arc::new(Silent)).unwrap()
}

fn read_all(image: &Image) -> Result<Vec<u8>> {
    let mut blob = vec![0; image.size() as usize];
    let mut at = 0;
    for part in blob.chunks_mut(100_000) {
        image.read_at(at, part, soon())?;
        at += part.len() as u64;
    }
    Ok(blob)
}

/// The code with which a read of the first unit fails at a server that lies about packs.
fn lie(
    made: &Made,
    timeout: Duration,
    answer: impl Fn(Vec<u8>, (u64, u64)) -> Vec<u8> + Send + Sync + 'static,
) -> Error {
    let store = made.store.path().to_owned();
    let server = Server::start(Box::new(move |path, range| {
        let good = honest(&store, path, range);
        match range {
            Some(range) if path.starts_with("pack/") => answer(good, range),
            _ => good,
        }
    }));
    let mut plan = made.plan(None, vec![server.source.clone()]);
    plan.fetch_timeout = timeout;
    let image = open_plan(plan, Arc::new(Silent)).unwrap();
    let started = Instant::now();
    let error = image
        .read_at(0, &mut [0; 1], started + Duration::from_millis(700))
        .unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(3), "in time");
    error
}

/// Hears unit failures and the end of filling.
struct Ear(Mutex<Sender<Option<UnitFailure>>>);

impl Observer for Ear {
    fn unit_failed(&self, failure: &UnitFailure) {
        self.0.lock().unwrap().send(Some(failure.clone())).unwrap();
    }

    fn full(&self) {
        self.0.lock().unwrap().send(None).unwrap();
    }
}

fn ear() -> (Arc<Ear>, Receiver<Option<UnitFailure>>) {
    let (send, receive) = channel();
    (Arc::new(Ear(Mutex::new(send))), receive)
}

#[test]
fn every_byte_in_memory_and_on_disk() {
    let made = make("every-byte", &SIZES);
    assert_eq!(read_all(&open(&made, made.dir())).unwrap(), made.blob());
    let dir = scratch("every-byte-kept");
    let image = open_plan(
        made.plan(Some(dir.path()), vec![made.dir()]),
        Arc::new(Silent),
    )
    .unwrap();
    assert_eq!(read_all(&image).unwrap(), made.blob());
    let mut across = vec![0; 5000];
    image.read_at(4090, &mut across, soon()).unwrap();
    assert_eq!(across, made.blob()[4090..9090]);
    assert_eq!(
        image
            .read_at(image.size() - 1, &mut across, soon())
            .unwrap_err()
            .code,
        Code::Range
    );
    assert_eq!(
        image
            .read_at(u64::MAX, &mut across, soon())
            .unwrap_err()
            .code,
        Code::Range
    );
}

#[test]
fn an_empty_image() {
    let made = make("empty", &[]);
    assert_eq!(open(&made, made.dir()).size(), 0);
}

#[test]
fn many_pages() {
    let sizes: Vec<usize> = (0..600).map(|number| 1 + number * 37 % 9000).collect();
    let made = make("many-pages", &sizes);
    assert_eq!(read_all(&open(&made, made.dir())).unwrap(), made.blob());
}

#[test]
fn neighbours_come_in_one_request() {
    let made = make("neighbours", &SIZES);
    let store = made.store.path().to_owned();
    let server = Server::start(Box::new(move |path, range| honest(&store, path, range)));
    let image = open(&made, server.source.clone());
    assert_eq!(read_all(&image).unwrap(), made.blob());
    assert!(
        server.count("pack/") <= 5,
        "{} requests",
        server.count("pack/")
    );
    assert_eq!(server.count("locator/"), 1);
}

#[test]
fn two_readers_one_fetch() {
    let made = make("dedup", &SIZES);
    let store = made.store.path().to_owned();
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let opened = gate.clone();
    let server = Server::start(Box::new(move |path, range| {
        if path.starts_with("pack/") {
            let closed = |open: &mut bool| !*open;
            drop(
                opened
                    .1
                    .wait_while(opened.0.lock().unwrap(), closed)
                    .unwrap(),
            );
        }
        honest(&store, path, range)
    }));
    let image = open(&made, server.source.clone());
    let waiting: Vec<_> = (0..20)
        .map(|_| image.request_channel(0, 4096, soon()))
        .collect();
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    for waiter in waiting {
        waiter.recv().unwrap().unwrap();
    }
    assert_eq!(server.count("pack/"), 1);
}

#[test]
fn servers_that_lie() {
    let made = make("liars", &SIZES);
    let long = Duration::from_secs(5);
    let ranged = |(first, last): (u64, u64), body: &[u8]| {
        answer(
            &format!("206 Partial Content\r\nContent-Range: bytes {first}-{last}/*"),
            body,
        )
    };
    let longer = lie(&made, long, move |_, (first, last)| {
        ranged((first, last), &vec![1; (last - first + 2) as usize])
    });
    assert_eq!(
        longer.code,
        Code::Corrupt,
        "the first unit is wrong before the end is seen"
    );
    let said = |what: &'static str| {
        move |_, range| {
            let (first, last): (u64, u64) = range;
            answer(&format!("206 Partial Content\r\nContent-Range: bytes {first}-{last}/*\r\nContent-Length: {what}"), &[1; 10])
        }
    };
    assert_eq!(
        lie(&made, long, said("18446744073709551615")).code,
        Code::Long
    );
    assert_eq!(
        lie(&made, long, |_, _| answer("200 OK", &[0; 10])).code,
        Code::Deadline,
        "ignores ranges, is asked again"
    );
    assert_eq!(
        lie(&made, long, move |_, (first, last)| ranged(
            (first + 1, last + 1),
            &[1; 10]
        ))
        .code,
        Code::Deadline
    );
    assert_eq!(
        lie(&made, long, move |_, (first, last)| ranged(
            (first, last - 1),
            &[1; 10]
        ))
        .code,
        Code::Short
    );
    assert_eq!(lie(&made, long, |_, _| status(404)).code, Code::Missing);
    assert_eq!(lie(&made, long, |_, _| status(416)).code, Code::Short);
    assert_eq!(
        lie(&made, long, |_, _| b"garbage\r\n\r\n".to_vec()).code,
        Code::Deadline
    );
    let gone = lie(&made, long, |_, _| Vec::new());
    assert_eq!(gone.code, Code::Deadline);
    assert!(!gone.source.is_empty(), "says who: {gone}");
    let failing = lie(&made, long, |_, _| status(500));
    assert!(failing.message.contains("500"), "says why: {failing}");
    let flipped = lie(&made, long, |mut good, _| {
        let end = good
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap()
            + 4;
        good[end] ^= 1;
        good
    });
    assert_eq!(flipped.code, Code::Corrupt);
}

#[test]
fn a_server_that_drips() {
    let made = make("drips", &SIZES);
    let store = made.store.path().to_owned();
    // The head comes at once, then nothing: the server's thread waits for the end of the test.
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let server = {
        let gate = gate.clone();
        Server::start(Box::new(move |path, range| {
            if path.starts_with("pack/") {
                let closed = |open: &mut bool| !*open;
                drop(gate.1.wait_while(gate.0.lock().unwrap(), closed).unwrap());
            }
            honest(&store, path, range)
        }))
    };
    let mut plan = made.plan(None, vec![server.source.clone(), made.dir()]);
    plan.fetch_timeout = Duration::from_millis(200);
    let image = open_plan(plan, Arc::new(Silent)).unwrap();
    let started = Instant::now();
    image.read_at(0, &mut [0; 1], soon()).unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "the second source is asked when the time of the first is over"
    );
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

#[test]
fn a_rotten_index_is_refused() {
    let made = make("rotten-index", &SIZES);
    let other = make("rotten-index-good", &SIZES);
    for name in std::fs::read_dir(made.store.path().join("index")).unwrap() {
        std::fs::write(name.unwrap().path(), b"rotten").unwrap();
    }
    let refused = open_plan(made.plan(None, vec![made.dir()]), Arc::new(Silent));
    assert!(matches!(
        refused.err().unwrap().code,
        Code::Corrupt | Code::Short
    ));
    let both = open_plan(
        made.plan(None, vec![made.dir(), other.dir()]),
        Arc::new(Silent),
    )
    .unwrap();
    assert_eq!(
        read_all(&both).unwrap(),
        made.blob(),
        "the second source has it"
    );
}

#[test]
fn kept_units_are_hashed_again() {
    let made = make("kept", &SIZES);
    let dir = scratch("kept-dir");
    let plan = made.plan(Some(dir.path()), vec![made.dir()]);
    let image = open_plan(plan.clone(), Arc::new(Silent)).unwrap();
    assert_eq!(read_all(&image).unwrap(), made.blob());
    assert_eq!(
        open_plan(plan.clone(), Arc::new(Silent))
            .err()
            .unwrap()
            .code,
        Code::Busy
    );
    image.close().unwrap();
    let blob = dir.path().join("blob");
    let mut bytes = std::fs::read(&blob).unwrap();
    assert_eq!(bytes, made.blob());
    bytes[made.address(5) as usize] ^= 1;
    std::fs::write(&blob, &bytes).unwrap();
    // Nothing but what is kept: only the flipped unit is missing.
    let nowhere = made.plan(Some(dir.path()), Vec::new());
    let image = open_plan(nowhere, Arc::new(Silent)).unwrap();
    image
        .read_at(made.address(4), &mut [0; 4096], soon())
        .unwrap();
    let error = image
        .read_at(made.address(5), &mut [0; 1], soon())
        .unwrap_err();
    assert_eq!(error.code, Code::Missing);
    image.close().unwrap();
    let image = open_plan(plan, Arc::new(Silent)).unwrap();
    assert_eq!(read_all(&image).unwrap(), made.blob());
    image.close().unwrap();
    assert_eq!(std::fs::read(&blob).unwrap(), made.blob());
}

#[test]
fn filling_ends_full_and_says_so() {
    let made = make("fill", &SIZES);
    let dir = scratch("fill-dir");
    let (observer, heard) = ear();
    let plan = made.plan(Some(dir.path()), vec![made.dir()]);
    let image = open_plan(plan.clone(), observer).unwrap();
    image.fill().unwrap();
    assert!(heard
        .recv_timeout(Duration::from_secs(10))
        .unwrap()
        .is_none());
    assert!(image.status().full);
    image.close().unwrap();
    assert_eq!(std::fs::read(dir.path().join("presence")).unwrap()[10], 2);
    let image = open_plan(plan, Arc::new(Silent)).unwrap();
    assert!(image.status().full);
}

#[test]
fn filling_goes_on_when_a_source_comes_back() {
    let made = make("refill", &SIZES);
    let dir = scratch("refill-dir");
    let down = Arc::new(AtomicBool::new(true));
    let (is_down, store) = (down.clone(), made.store.path().to_owned());
    let server = Server::start(Box::new(move |path, range| {
        if is_down.load(Ordering::SeqCst) && path.starts_with("pack/") {
            return status(503);
        }
        honest(&store, path, range)
    }));
    let (observer, heard) = ear();
    let image = open_plan(
        made.plan(Some(dir.path()), vec![server.source.clone()]),
        observer,
    )
    .unwrap();
    image.fill().unwrap();
    while server.count("pack/") < 2 {
        std::thread::yield_now();
    }
    down.store(false, Ordering::SeqCst);
    assert!(heard
        .recv_timeout(Duration::from_secs(10))
        .unwrap()
        .is_none());
}

#[test]
fn demand_goes_before_filling() {
    let sizes = vec![200_000; 60];
    let made = make("demand-first", &sizes);
    let dir = scratch("demand-first-dir");
    let store = made.store.path().to_owned();
    let server = Server::start(Box::new(move |path, range| honest(&store, path, range)));
    let image = open_plan(
        made.plan(Some(dir.path()), vec![server.source.clone()]),
        Arc::new(Silent),
    )
    .unwrap();
    image.fill().unwrap();
    image
        .read_at(made.address(59), &mut [0; 4096], soon())
        .unwrap();
    assert!(image.status().units_present < 60);
}

#[test]
fn a_limit_on_what_is_kept() {
    let sizes = vec![50_000; 40];
    let made = make("limit", &sizes);
    let dir = scratch("limit-dir");
    for keep in [Some(dir.path()), None] {
        let mut plan = made.plan(keep, vec![made.dir()]);
        plan.keep_max = 300_000;
        let image = open_plan(plan, Arc::new(Silent)).unwrap();
        assert_eq!(read_all(&image).unwrap(), made.blob());
        assert_eq!(read_all(&image).unwrap(), made.blob());
        // One unit more for each thread that has just stored one.
        assert!(image.status().units_present <= 6 + 8);
        assert_eq!(image.fill().unwrap_err().code, Code::BadPlan);
    }
}

#[test]
fn closing_tells_who_waits() {
    let made = make("closing", &SIZES);
    let store = made.store.path().to_owned();
    let server = Server::start(Box::new(move |path, range| {
        if path.starts_with("pack/") {
            return status(503);
        }
        honest(&store, path, range)
    }));
    let image = open(&made, server.source.clone());
    let waiting = image.request_channel(0, 4096, soon());
    image.close().unwrap();
    assert_eq!(waiting.recv().unwrap().unwrap_err().code, Code::Closed);
    assert_eq!(
        image
            .request_channel(0, 1, soon())
            .recv()
            .unwrap()
            .unwrap_err()
            .code,
        Code::Closed
    );
}

#[test]
fn who_gave_up_meanwhile_locks_no_directory() {
    let made = make("given-up-made", &SIZES);
    let dir = scratch("given-up");
    let plan = made.plan(Some(dir.path()), vec![made.dir()]);
    let given_up = Image::open(plan.clone(), Arc::new(Silent), &AtomicBool::new(true));
    assert_eq!(given_up.err().unwrap().code, Code::Closed);
    assert!(!dir.path().join("presence").exists());
    open_plan(plan, Arc::new(Silent)).unwrap();
}
