//! The parsers of a profile and of a table of system calls, and the compiler behind them.

use crate::compile;
use crate::profile::{Profile, Table};

const PROFILE: &str = include_str!("../data/profile.json");
const TABLE: &str = include_str!("../data/syscalls-x86_64.json");
/// So that an input is parsed in microseconds and not in milliseconds.
const SMALL: &str = r#"{"based_on": "x", "capabilities": ["CAP_CHOWN"], "rules": []}"#;

#[test]
fn fuzz_seccomp_profile() {
    let table = Table::parse(TABLE).unwrap();
    let corpus = [PROFILE.as_bytes().to_vec(), SMALL.as_bytes().to_vec()];
    assert!(Profile::parse(PROFILE).is_ok());
    fuzz::run("seccomp-profile", &corpus, |data| {
        let Ok(text) = std::str::from_utf8(data) else {
            return;
        };
        if let Ok(profile) = Profile::parse(text) {
            let _ = profile.capability_numbers();
            if let Ok(program) = compile::compile(&profile, &table) {
                assert!(!program.is_empty() && program.len() <= 4096, "BPF_MAXINSNS");
            }
        }
    });
}

/// The table alone: what is compiled with it is ours, at build time, and may take seconds where a table makes no sense.
#[test]
fn fuzz_seccomp_table() {
    fuzz::run("seccomp-table", &[TABLE.as_bytes().to_vec()], |data| {
        let Ok(text) = std::str::from_utf8(data) else {
            return;
        };
        if let Ok(table) = Table::parse(text) {
            let _ = table.audit_architecture();
        }
    });
}
