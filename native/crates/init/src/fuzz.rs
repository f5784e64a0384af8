//! What hold and spawn are asked for and told: the service table, and every body of spawn with all its checks.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::hold::table::Table;
use crate::spawn::server::Request;

#[derive(Serialize)]
struct User {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// A launch as the supervisor asks for it (docs/spec/spawn.md).
#[derive(Serialize)]
struct Launch {
    name: &'static str,
    generation: u64,
    image: String,
    upper: &'static str,
    work: &'static str,
    args: Vec<serde_bytes::ByteBuf>,
    env: Vec<serde_bytes::ByteBuf>,
    cwd: serde_bytes::ByteBuf,
    user: User,
    hostname: &'static str,
    netns: Option<&'static str>,
    cgroup: &'static str,
    readonly_root: bool,
    rlimits: Vec<BTreeMap<&'static str, u64>>,
    capabilities: Vec<u8>,
    no_new_privileges: bool,
    seccomp: &'static str,
    masked: Vec<serde_bytes::ByteBuf>,
    readonly: Vec<serde_bytes::ByteBuf>,
    init: bool,
    shm_bytes: u64,
}

fn bytes(text: &str) -> serde_bytes::ByteBuf {
    serde_bytes::ByteBuf::from(text.as_bytes().to_vec())
}

fn launch() -> Launch {
    Launch {
        name: "c1",
        generation: 1,
        image: "5a".repeat(32),
        upper: "containers/c1/upper",
        work: "containers/c1/work",
        args: vec![bytes("/bin/sh"), bytes("-c")],
        env: vec![bytes("PATH=/bin")],
        cwd: bytes("/"),
        user: User {
            uid: 0,
            gid: 0,
            groups: vec![7],
        },
        hostname: "box",
        netns: Some("c1"),
        cgroup: "/sys/fs/cgroup/x",
        readonly_root: false,
        rlimits: vec![BTreeMap::from([
            ("resource", 7),
            ("soft", 1),
            ("hard", u64::MAX),
        ])],
        capabilities: vec![0, 1, 21],
        no_new_privileges: true,
        seccomp: "default",
        masked: vec![bytes("/proc/kcore")],
        readonly: vec![bytes("/proc/sys")],
        init: true,
        shm_bytes: 65_536,
    }
}

#[test]
fn fuzz_spawn_bodies() {
    const OPS: [&str; 8] = [
        "probe",
        "fuse_open",
        "mount_image",
        "forget_image",
        "netns",
        "launch",
        "exec",
        "remove",
    ];
    let path = BTreeMap::from([("path", "containers/c1")]);
    let image = BTreeMap::from([("image", "5a".repeat(32))]);
    let mount = BTreeMap::from([
        ("image", "5a".repeat(32)),
        ("provider", "file".into()),
        ("meta", "a/b".into()),
    ]);
    let corpus = [
        wire::request(1, "launch", &launch()),
        wire::request(1, "remove", &path),
        wire::request(1, "fuse_open", &image),
        wire::request(1, "mount_image", &mount),
    ];
    assert!(Request::parse("launch", &corpus[0]).is_ok());
    assert!(Request::parse("remove", &corpus[1]).is_ok());
    fuzz::run("spawn-bodies", &corpus, |map| {
        for op in OPS {
            let _ = Request::parse(op, map);
        }
    });
}

#[test]
fn fuzz_service_table() {
    #[derive(Serialize)]
    struct Service {
        name: &'static str,
        argv: Vec<&'static str>,
        env: BTreeMap<&'static str, &'static str>,
        program: &'static str,
        ready_timeout_ms: u32,
        stop_timeout_ms: u32,
        restarts_max: u32,
        restart_window_ms: u32,
        fallback: Option<Vec<&'static str>>,
    }
    #[derive(Serialize)]
    struct Written {
        instance: &'static str,
        run_dir: &'static str,
        log_dir: &'static str,
        listeners: Vec<BTreeMap<&'static str, &'static str>>,
        services: Vec<Service>,
    }
    let service = Service {
        name: "spawn",
        argv: vec!["zos-spawn", "spawn"],
        env: BTreeMap::from([("A", "b")]),
        program: "self",
        ready_timeout_ms: 1,
        stop_timeout_ms: 2,
        restarts_max: 3,
        restart_window_ms: 4,
        fallback: None,
    };
    let table = wire::encode(&Written {
        instance: "t",
        run_dir: "/run/t",
        log_dir: "/var/log/t",
        listeners: vec![BTreeMap::from([("name", "spawn"), ("path", "spawn.sock")])],
        services: vec![service],
    });
    assert!(Table::parse(&table).is_ok());
    fuzz::run("service-table", &[table], |data| {
        if let Ok(table) = Table::parse(data) {
            assert!(table.run_dir.is_absolute());
        }
    });
}
