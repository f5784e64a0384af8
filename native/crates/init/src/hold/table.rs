//! The service table: what hold listens on and which processes it keeps alive.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::store::name_is_valid;

/// Bytes of the encoded table.
pub const TABLE_MAX: usize = 1024 * 1024;
/// Far above what an instance has; each costs hold three descriptors.
const SERVICES_MAX: usize = 32;
const LISTENERS_MAX: usize = 64;
/// Restarts are remembered one by one.
const RESTARTS_MAX: u32 = 1_000;
/// Hold's own socket.
pub const HOLD_SOCKET: &str = "hold.sock";
/// Hold's lock file.
pub const LOCK_FILE: &str = "lock";
/// The keeper's socket, and its name until it is in charge.
pub const KEEPER_SOCKET: &str = "keep.sock";
pub const KEEPER_SOCKET_NEW: &str = "keep.sock.new";
/// Descriptors that hold keeps at most.
pub const DESCRIPTORS_MAX: u32 = 16_384;

/// The whole table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Name of the instance, for `ZOS_INSTANCE`.
    pub instance: String,
    /// Sockets and the lock live here; exists, and only its owner can write to it.
    pub run_dir: PathBuf,
    /// Logs of hold and of the services; exists.
    pub log_dir: PathBuf,
    /// Descriptors to keep at most, for small machines and tests; by default 16,384.
    #[serde(default)]
    pub descriptors_max: Option<u32>,
    /// Whether a keeper stands by, so that what is kept outlives hold (HOLD-KEEP).
    #[serde(default)]
    pub keeper: bool,
    /// Sockets that outlive the services.
    pub listeners: Vec<Listener>,
    /// Started in this order, ended in the reverse.
    pub services: Vec<Service>,
}

/// A listening socket, kept as `listen/<name>`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The part after `listen/`.
    pub name: String,
    /// A file name within the run directory.
    pub path: String,
    /// STREAM, not SEQPACKET.
    #[serde(default)]
    pub stream: bool,
}

/// Where a service's program comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// A sealed copy of hold's own executable.
    #[serde(rename = "self")]
    Own,
    /// The file at `path`, or at `argv[0]`.
    Exec,
}

/// A process that hold keeps alive.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// For `ZOS_SERVICE`, events and the log file.
    pub name: String,
    /// The first is the process title and, for `exec` without `path`, the file.
    pub argv: Vec<String>,
    /// The whole environment, beside `ZOS_INSTANCE`, `ZOS_SERVICE` and `ZOS_GENERATION`.
    pub env: BTreeMap<String, String>,
    /// Where the program comes from.
    pub program: Program,
    /// The file of an `exec` whose `argv[0]` is a mere title.
    #[serde(default)]
    pub path: Option<String>,
    /// To say `ready` in, or be killed; 0: no limit.
    pub ready_timeout_ms: u32,
    /// Between SIGTERM and SIGKILL.
    pub stop_timeout_ms: u32,
    /// Restarts within the window before the fallback.
    pub restarts_max: u32,
    /// Length of the window, and of the fallback's life.
    pub restart_window_ms: u32,
    /// It goes on without hold, and takes a new hold's channel over the listener of its own name (HOLD-TAKE).
    #[serde(default)]
    pub survives: bool,
    /// Arguments (of the same program) that run when the service does not stay up.
    #[serde(default)]
    pub fallback: Option<Vec<String>>,
}

impl Service {
    /// The file to execute, `None` for hold's own.
    pub fn file<'a>(&'a self, argv: &'a [String]) -> Option<&'a str> {
        match self.program {
            Program::Own => None,
            Program::Exec => self.path.as_deref().or(argv.first().map(String::as_str)),
        }
    }
}

impl Table {
    /// Decode and check a table.
    pub fn parse(bytes: &[u8]) -> Result<Table, String> {
        let table: Table = wire::decode(bytes).map_err(|error| error.to_string())?;
        table.check()?;
        Ok(table)
    }

    fn check(&self) -> Result<(), String> {
        if !is_word(&self.instance) {
            return Err(format!("instance {:?} is no name", self.instance));
        }
        for (what, path) in [("run_dir", &self.run_dir), ("log_dir", &self.log_dir)] {
            if !is_absolute(path) {
                return Err(format!("{what} {path:?} is not absolute"));
            }
        }
        if self.services.len() > SERVICES_MAX || self.listeners.len() > LISTENERS_MAX {
            return Err(format!(
                "more than {SERVICES_MAX} services or {LISTENERS_MAX} listeners"
            ));
        }
        let mut paths = BTreeSet::from([HOLD_SOCKET, LOCK_FILE, KEEPER_SOCKET, KEEPER_SOCKET_NEW]);
        let mut names = BTreeSet::new();
        for listener in &self.listeners {
            if !name_is_valid(&format!("listen/{}", listener.name)) || !names.insert(&listener.name)
            {
                return Err(format!(
                    "listener {:?} is no name, or stands twice",
                    listener.name
                ));
            }
            if !is_word(&listener.path) || !paths.insert(&listener.path) {
                return Err(format!(
                    "listener path {:?} is no file name, or is taken",
                    listener.path
                ));
            }
        }
        let mut names = BTreeSet::from(["hold"]);
        for service in &self.services {
            if !is_word(&service.name) || !names.insert(&service.name) {
                return Err(format!(
                    "service {:?} is no name, or stands twice",
                    service.name
                ));
            }
            service
                .check()
                .map_err(|error| format!("service {}: {error}", service.name))?;
        }
        Ok(())
    }
}

impl Service {
    fn check(&self) -> Result<(), String> {
        if self.restarts_max > RESTARTS_MAX {
            return Err(format!("restarts_max is above {RESTARTS_MAX}"));
        }
        for argv in [Some(&self.argv), self.fallback.as_ref()]
            .into_iter()
            .flatten()
        {
            if argv.is_empty() || argv.iter().any(|arg| arg.contains('\0')) {
                return Err("argv is empty or has a NUL".into());
            }
            if let Some(file) = self.file(argv) {
                if !is_absolute(Path::new(file)) {
                    return Err(format!("program {file:?} is not absolute"));
                }
            }
        }
        if self.program == Program::Own && self.path.is_some() {
            return Err("path belongs to program exec".into());
        }
        let bad = |(key, value): (&String, &String)| {
            key.is_empty()
                || key.contains(['=', '\0'])
                || key.starts_with("ZOS_") && is_ours(key)
                || value.contains('\0')
        };
        if let Some((key, _)) = self.env.iter().find(|item| bad(*item)) {
            return Err(format!("environment variable {key:?}"));
        }
        Ok(())
    }
}

fn is_ours(key: &str) -> bool {
    ["ZOS_INSTANCE", "ZOS_SERVICE", "ZOS_GENERATION"].contains(&key)
}

fn is_absolute(path: &Path) -> bool {
    path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0)
}

/// A file name that needs no quoting and hides nothing: `[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}`.
fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=64).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(plain)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde::Serialize;

    /// The table as its writers see it.
    #[derive(Clone, Serialize)]
    struct Written {
        instance: &'static str,
        run_dir: &'static str,
        log_dir: &'static str,
        listeners: Vec<BTreeMap<&'static str, &'static str>>,
        services: Vec<WrittenService>,
    }

    #[derive(Clone, Serialize)]
    struct WrittenService {
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

    fn written() -> Written {
        Written {
            instance: "t",
            run_dir: "/run/t",
            log_dir: "/var/log/t",
            listeners: vec![BTreeMap::from([("name", "spawn"), ("path", "spawn.sock")])],
            services: vec![WrittenService {
                name: "spawn",
                argv: vec!["zos-spawn", "spawn"],
                env: BTreeMap::from([("A", "b")]),
                program: "self",
                ready_timeout_ms: 1,
                stop_timeout_ms: 2,
                restarts_max: 3,
                restart_window_ms: 4,
                fallback: None,
            }],
        }
    }

    fn refused(change: impl FnOnce(&mut Written)) {
        let mut table = written();
        change(&mut table);
        assert!(Table::parse(&wire::encode(&table)).is_err());
    }

    #[test]
    fn a_good_table() {
        let table = Table::parse(&wire::encode(&written())).unwrap();
        assert_eq!(table.services[0].program, Program::Own);
        assert!(!table.listeners[0].stream);
    }

    #[test]
    fn bad_tables() {
        refused(|table| table.instance = "a/b");
        refused(|table| table.run_dir = "run");
        refused(|table| table.log_dir = "/a\0b");
        refused(|table| table.listeners[0] = BTreeMap::from([("name", "a"), ("path", "../a")]));
        refused(|table| {
            table.listeners[0] = BTreeMap::from([("name", "a"), ("path", "hold.sock")])
        });
        refused(|table| table.listeners[0] = BTreeMap::from([("name", "a b"), ("path", "a")]));
        refused(|table| table.listeners.push(table.listeners[0].clone()));
        refused(|table| table.services.push(table.services[0].clone()));
        refused(|table| table.services[0].name = "hold");
        refused(|table| table.services[0].argv.clear());
        refused(|table| table.services[0].program = "exec");
        refused(|table| table.services[0].program = "other");
        refused(|table| table.services[0].restarts_max = 1_001);
        refused(|table| table.services[0].fallback = Some(vec![]));
        refused(|table| table.services[0].env = BTreeMap::from([("A=", "b")]));
        refused(|table| table.services[0].env = BTreeMap::from([("ZOS_SERVICE", "b")]));
        assert!(Table::parse(b"\x80").is_err());
        assert!(Table::parse(b"").is_err());
    }
}
