//! Bodies of blockd, logd and forward, and what logd finds in its own files and in hold after a crash.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::MemfdFlags;

use crate::block::plan::{FetchObject, ImageName, Index, Plan, Source};
use crate::forward::rule::{check_name, Rule};
use crate::log::buffer::Buffer;
use crate::log::files::{Files, Limits};
use crate::log::name::Name;
use crate::log::record::{Slot, Take, SLOT_SIZE, TAKE_SIZE};

fn plan() -> Plan {
    Plan {
        image: "5a".repeat(32),
        index: Index {
            root: serde_bytes::ByteBuf::from(vec![1; 32]),
            pages: 2,
            units: 300,
            blocks: 9000,
        },
        dir: "/var/lib/zos/t/images/x".into(),
        sources: vec![
            Source::Http {
                url: "http://127.0.0.1:1".into(),
            },
            Source::Dir { path: "/x".into() },
        ],
        fetch_timeout_ms: 20_000,
        read_deadline_ms: 40_000,
        cache_bytes_max: 0,
        serve: true,
    }
}

#[test]
fn fuzz_blockd_bodies() {
    let name = BTreeMap::from([("image", "5a".repeat(32))]);
    let corpus = [
        wire::request(1, "add", &plan()),
        wire::request(2, "remove", &name),
        wire::encode(&plan()),
    ];
    assert!(wire::body::<Plan>(&corpus[0]).unwrap().to_fetch().is_ok());
    fuzz::run("blockd-bodies", &corpus, |map| {
        for plan in [wire::body::<Plan>(map), wire::decode::<Plan>(map)]
            .into_iter()
            .flatten()
        {
            if let Ok(plan) = plan.to_fetch() {
                assert!(plan.dir.is_some_and(|dir| dir.is_absolute()));
            }
        }
        let _ = wire::body::<FetchObject>(map);
        let _ = wire::body::<ImageName>(map);
    });
}

#[test]
fn fuzz_forward_rule() {
    let rule = Rule {
        listen: "[::1]:80".into(),
        connect: "127.0.0.1:8080".into(),
    };
    let corpus = [wire::encode(&rule), b"web/0".to_vec()];
    fuzz::run("forward-rule", &corpus, |data| {
        if let Ok(rule) = wire::decode::<Rule>(data) {
            let _ = rule.addresses();
        }
        let _ = check_name(&String::from_utf8_lossy(data));
    });
}

#[test]
fn fuzz_log_name() {
    let corpus = [
        b"c1/exec-2".to_vec(),
        b"log/c1/stdout".to_vec(),
        b"../x".to_vec(),
    ];
    fuzz::run("log-name", &corpus, |data| {
        let text = String::from_utf8_lossy(data);
        let piped = Name::of_pipe(&text).map(|(name, _)| name);
        for name in Name::parse(&text).into_iter().chain(piped) {
            let directory = name.directory(std::path::Path::new("/logs"));
            let inside = directory.strip_prefix("/logs").unwrap();
            let ordinary = |part| matches!(part, std::path::Component::Normal(_));
            assert!(inside.components().all(ordinary), "{directory:?} leads out");
            assert!(inside.components().next().is_some());
        }
    });
}

#[test]
fn fuzz_log_records() {
    let slot = Slot {
        seq: 3,
        offset: 4096,
        ..Slot::default()
    };
    let take = Take {
        number: 9,
        name: "c1".into(),
        length: 10,
        stream: 1,
        ..Take::default()
    };
    let corpus = [slot.encode().to_vec(), take.encode().to_vec()];
    fuzz::run("log-records", &corpus, |data| {
        let mut bytes = [0; SLOT_SIZE];
        let end = data.len().min(SLOT_SIZE);
        bytes[..end].copy_from_slice(&data[..end]);
        assert!(Slot::decode(&bytes).is_none_or(|slot| slot.encode() == bytes));
        let mut bytes = [0; TAKE_SIZE];
        let end = data.len().min(TAKE_SIZE);
        bytes[..end].copy_from_slice(&data[..end]);
        let first = bytes == [0; TAKE_SIZE];
        assert!(Take::decode(&bytes).is_none_or(|take| first || take.encode() == bytes));
    });
}

fn memfd(data: &[u8]) -> OwnedFd {
    let memfd = rustix::fs::memfd_create("t", MemfdFlags::CLOEXEC).unwrap();
    assert_eq!(
        rustix::io::pwrite(memfd.as_fd(), data, 0).unwrap(),
        data.len()
    );
    memfd
}

/// A slot that is well-formed and says anything, over a directory with any files: logd goes on, or refuses it.
#[test]
fn fuzz_log_files() {
    let directory = std::env::temp_dir().join(format!("zos-fuzz-log-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let limits = Limits::DEFAULT;
    let slot = Slot {
        file_bytes_max: limits.file_bytes_max,
        files_max: limits.files_max,
        seq: 1,
        offset: 16,
        oldest: 1,
        ..Slot::default()
    };
    let corpus = [slot.encode().to_vec()];
    fuzz::run("log-files", &corpus, |data| {
        std::fs::write(directory.join("1.log"), data).unwrap();
        if let Ok(mut files) = Files::open(directory.clone(), memfd(data)) {
            let mut buffer = Buffer::create(1).unwrap();
            let _ = files.recover(&mut buffer);
            let _ = files.place(10, 1);
            files.end(2);
        }
    });
    std::fs::remove_dir_all(&directory).unwrap();
}
