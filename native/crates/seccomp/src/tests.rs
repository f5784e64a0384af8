//! The program against the data, against moby's profile where that is at hand, and against the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::compile::{bytes, compile, Instruction};
use crate::compile::{JUMP, JUMP_ANY_BIT, JUMP_AT_LEAST, JUMP_EQUAL, LOAD, RETURN};
use crate::compile::{RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS};
use crate::profile::{capability, Condition, Profile, Table, Verdict};

const EPERM: u32 = RET_ERRNO | 1;
const ENOSYS: u32 = RET_ERRNO | 38;

fn profile() -> Profile {
    Profile::parse(include_str!("../data/profile.json")).unwrap()
}

fn tables() -> [Table; 2] {
    [
        Table::parse(include_str!("../data/syscalls-x86_64.json")).unwrap(),
        Table::parse(include_str!("../data/syscalls-aarch64.json")).unwrap(),
    ]
}

/// struct seccomp_data.
fn call(architecture: u32, number: u32, arguments: [u64; 6]) -> Vec<u8> {
    let mut data = number.to_le_bytes().to_vec();
    data.extend(architecture.to_le_bytes());
    data.extend(0x1234_5678_9ABC_DEF0u64.to_le_bytes());
    data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
    data
}

/// What a program returns, and the offsets that it has loaded.
fn run(program: &[Instruction], data: &[u8]) -> (u32, BTreeSet<u32>) {
    let (mut at, mut accumulator, mut loaded) = (0, 0, BTreeSet::new());
    loop {
        let one = program[at];
        at += 1;
        let branch = |holds: bool| usize::from(if holds { one.jump_true } else { one.jump_false });
        match one.code {
            LOAD => {
                let from = one.k as usize;
                accumulator = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                loaded.insert(one.k);
            }
            JUMP => at += one.k as usize,
            JUMP_EQUAL => at += branch(accumulator == one.k),
            JUMP_AT_LEAST => at += branch(accumulator >= one.k),
            JUMP_ANY_BIT => at += branch(accumulator & one.k != 0),
            RETURN => return (one.k, loaded),
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn expected(verdict: &Verdict, arguments: &[u64; 6]) -> u32 {
    let holds = |condition: &Condition| match condition {
        Condition::OneOf(index, values) => values
            .iter()
            .any(|value| u64::from(*value) == arguments[usize::from(*index)]),
        Condition::NoneOfBits(index, bits) => arguments[usize::from(*index)] & bits == 0,
    };
    match verdict {
        Verdict::Allow => RET_ALLOW,
        Verdict::Errno(errno) => RET_ERRNO | u32::from(*errno),
        Verdict::AllowIf(condition, _) if holds(condition) => RET_ALLOW,
        Verdict::AllowIf(_, errno) => RET_ERRNO | u32::from(*errno),
    }
}

/// Values around every edge of a condition, with and without something in the upper half.
fn edges(verdict: &Verdict) -> Vec<[u64; 6]> {
    let mut low = BTreeSet::from([
        0,
        1,
        2,
        u64::from(u32::MAX),
        u64::from(u32::MAX) - 1,
        0x8000_0000,
    ]);
    let mut at = 0;
    if let Verdict::AllowIf(condition, _) = verdict {
        match condition {
            Condition::OneOf(index, values) => {
                at = usize::from(*index);
                low.extend((0..=300).chain(values.iter().flat_map(|value| {
                    let value = u64::from(*value);
                    [
                        value.saturating_sub(1),
                        value,
                        value + 1,
                        value | 0x8000_0000,
                    ]
                })));
            }
            Condition::NoneOfBits(index, bits) => {
                at = usize::from(*index);
                low.extend((0..64).map(|bit| 1 << bit));
                low.extend([*bits, !*bits, u64::MAX]);
            }
        }
    }
    let tops = [0u64, 1 << 32, 1 << 63, 0xFFFF_FFFF << 32];
    let values = low.iter().flat_map(|low| tops.map(|top| low | top));
    values
        .flat_map(|value| {
            [0, u64::MAX].map(|rest| {
                let mut arguments = [rest; 6];
                arguments[at] = value;
                arguments
            })
        })
        .collect()
}

#[test]
fn the_built_program_is_that_of_the_target() {
    let table = tables()
        .into_iter()
        .find(|table| table.architecture == crate::ARCHITECTURE)
        .unwrap();
    let program = compile(&profile(), &table).unwrap();
    assert_eq!(crate::default_filter(), bytes(&program));
    assert_eq!(crate::INSTRUCTIONS, program.len());
    assert_eq!(crate::ARCHITECTURE, std::env::consts::ARCH);
    assert_eq!(crate::BASED_ON, profile().based_on);
    assert!(crate::BASED_ON.starts_with("github.com/moby/profiles/seccomp v"));
    assert_eq!(
        crate::DEFAULT_CAPABILITIES,
        [0, 1, 3, 4, 5, 10, 31, 6, 8, 7, 18]
    );
}

#[test]
fn every_call_gets_the_verdict_of_the_data() {
    for table in tables() {
        let (profile, architecture) = (profile(), table.audit_architecture().unwrap());
        let program = compile(&profile, &table).unwrap();
        println!("{}: {} instructions", table.architecture, program.len());
        assert!(program.len() < 400, "{} instructions", program.len());
        let newest = profile.newest(&table).unwrap();
        let verdicts = profile.verdicts(&table).unwrap();
        for number in 0..=newest {
            let unknown = Verdict::Errno(1);
            let verdict = verdicts.get(&number).unwrap_or(&unknown);
            for arguments in edges(verdict) {
                let (answer, loaded) = run(&program, &call(architecture, number, arguments));
                assert_eq!(
                    answer,
                    expected(verdict, &arguments),
                    "{number} {arguments:x?}"
                );
                if !matches!(verdict, Verdict::AllowIf(..)) {
                    assert_eq!(
                        loaded,
                        BTreeSet::from([0, 4]),
                        "{number} cannot be cached by the kernel"
                    );
                }
            }
        }
        for number in [
            newest + 1,
            600,
            0x3FFF_FFFF,
            0x4000_0000,
            0x4000_0027,
            0x4000_0200,
            0x8000_0000,
            u32::MAX,
        ] {
            assert_eq!(
                run(&program, &call(architecture, number, [0; 6])).0,
                ENOSYS,
                "{number:#x}"
            );
        }
        for other in [
            0,
            0x4000_0003,
            0xC000_003E ^ 1,
            0xC000_00B7 ^ 1,
            0x4000_0028,
            u32::MAX,
        ] {
            assert_eq!(
                run(&program, &call(other, 0, [0; 6])).0,
                RET_KILL_PROCESS,
                "{other:#x}"
            );
        }
    }
}

#[test]
fn a_search_of_any_shape_jumps_right() {
    // Alternating verdicts and wide value lists make a program so long that jumps need a stepping stone.
    for gap in [1, 2, 3, 7] {
        let values: Vec<String> = (0..700).map(|i| (i * gap).to_string()).collect();
        let mut numbers: BTreeMap<String, u32> =
            (0..900).map(|i| (format!("c{i}"), i * 2)).collect();
        numbers.insert("socket".into(), 2000);
        let allowed: Vec<String> = numbers
            .keys()
            .filter(|name| name.ends_with(['0', '3', '4']))
            .map(|name| format!("{name:?}"))
            .collect();
        let profile = format!(
            r#"{{"format": "zos-seccomp-1", "based_on": "", "kernel_min": "6.1", "otherwise": "EPERM", "newer": "ENOSYS",
            "x32": "ENOSYS", "foreign_architecture": "kill-process", "capabilities": [], "rules": [
            {{"name": "a", "why": "", "action": "allow", "syscalls": [{}]}},
            {{"name": "b", "why": "", "action": "allow", "argument": {{"index": 5, "one_of": [{}]}},
              "syscalls": ["c900", "socket", "c1", "c77"]}}]}}"#,
            allowed.join(","),
            values.join(",")
        );
        let profile = Profile::parse(&profile).unwrap();
        let mut table = tables().into_iter().next().unwrap();
        table.numbers = numbers;
        let Ok(program) = compile(&profile, &table) else {
            assert!(gap > 1, "one run is short");
            continue;
        };
        for (number, verdict) in profile.verdicts(&table).unwrap() {
            for arguments in edges(&verdict).into_iter().step_by(7) {
                let answer = run(&program, &call(0xC000_003E, number, arguments)).0;
                assert_eq!(
                    answer,
                    expected(&verdict, &arguments),
                    "{number} {arguments:x?}"
                );
            }
        }
    }
}

#[test]
fn what_must_never_pass() {
    for table in tables() {
        let (profile, architecture) = (profile(), table.audit_architecture().unwrap());
        let program = compile(&profile, &table).unwrap();
        let answer = |name: &str, first: u64| {
            run(
                &program,
                &call(architecture, table.numbers[name], [first, 0, 0, 0, 0, 0]),
            )
            .0
        };
        for name in [
            "unshare",
            "setns",
            "mount",
            "umount2",
            "pivot_root",
            "fsopen",
            "open_tree",
            "move_mount",
            "mount_setattr",
            "bpf",
            "keyctl",
            "add_key",
            "request_key",
            "userfaultfd",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "perf_event_open",
            "kexec_load",
            "kexec_file_load",
            "init_module",
            "finit_module",
            "delete_module",
            "open_by_handle_at",
            "reboot",
            "swapon",
            "settimeofday",
            "syslog",
            "acct",
            "quotactl",
            "nfsservctl",
            "move_pages",
            "vhangup",
            "sethostname",
            "setdomainname",
            "fanotify_init",
            "lookup_dcookie",
        ] {
            if table.numbers.contains_key(name) {
                assert_eq!(answer(name, 0), EPERM, "{name}");
            }
        }
        assert_eq!(answer("clone3", 0), ENOSYS);
        assert_eq!(answer("clone", 0x1100), RET_ALLOW);
        assert_eq!(answer("clone", 0x1000_0000), EPERM);
        assert_eq!(answer("socket", 38), EPERM);
        assert_eq!(answer("socket", 40), EPERM);
        assert_eq!(answer("chroot", 0), RET_ALLOW);
    }
}

#[test]
fn capabilities_decide() {
    let mut profile = profile();
    let table = tables().into_iter().next().unwrap();
    profile.capabilities = vec!["CAP_SYS_ADMIN".into()];
    let verdicts = profile.verdicts(&table).unwrap();
    let verdict = |name: &str| &verdicts[&table.numbers[name]];
    assert_eq!(*verdict("clone"), Verdict::Allow);
    assert_eq!(*verdict("clone3"), Verdict::Allow);
    assert_eq!(*verdict("mount"), Verdict::Allow);
    assert_eq!(*verdict("chroot"), Verdict::Errno(1));
    profile.capabilities = vec!["CAP_SYS_ADMINISTRATOR".into()];
    assert!(profile.verdicts(&table).is_err());
    profile.capabilities = vec![];
    profile.kernel_min = "4.7".into();
    assert_eq!(
        profile.verdicts(&table).unwrap()[&table.numbers["ptrace"]],
        Verdict::Errno(1)
    );
}

#[test]
fn every_name_exists_on_one_architecture() {
    let tables = tables();
    for rule in profile().rules {
        for name in rule.syscalls {
            assert!(
                tables.iter().any(|table| table.numbers.contains_key(&name)),
                "{name} in {}",
                rule.name
            );
        }
    }
}

/// The profile that ours is based on, if the Go module cache has it.
fn moby() -> Option<serde_json::Value> {
    let cache = std::env::var_os("GOMODCACHE")
        .map(PathBuf::from)
        .or_else(|| {
            let root = std::env::var_os("GOPATH").map(PathBuf::from);
            Some(
                root.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join("go")))?
                    .join("pkg/mod"),
            )
        })?;
    let folder = crate::BASED_ON.replace(' ', "@");
    serde_json::from_str(&std::fs::read_to_string(cache.join(folder).join("default.json")).ok()?)
        .ok()
}

fn names(value: &serde_json::Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

/// What moby's rules for a call say of a call; a second reading of its format, without anything of ours.
fn moby_answer(
    rules: &[&serde_json::Value],
    architecture: &str,
    held: &[String],
    arguments: &[u64; 6],
) -> u32 {
    let mut refusal = EPERM;
    for rule in rules {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let here = architecture.to_owned();
        let left_out = !names(&includes["arches"]).is_empty()
            && !names(&includes["arches"]).contains(&here)
            || names(&includes["caps"])
                .iter()
                .any(|capability| !held.contains(capability))
            || names(&excludes["arches"]).contains(&here)
            || names(&excludes["caps"])
                .iter()
                .any(|capability| held.contains(capability));
        // The one minimum kernel in it is 4.8, older than all of ours.
        assert!(includes["minKernel"].is_null() || includes["minKernel"] == "4.8");
        assert!(excludes["minKernel"].is_null());
        if left_out {
            continue;
        }
        if rule["action"] == "SCMP_ACT_ERRNO" {
            refusal = RET_ERRNO | rule["errnoRet"].as_u64().unwrap() as u32;
            continue;
        }
        assert_eq!(rule["action"], "SCMP_ACT_ALLOW");
        let fits = rule["args"].as_array().into_iter().flatten().all(|test| {
            let argument = arguments[test["index"].as_u64().unwrap() as usize];
            let value = test["value"].as_u64().unwrap();
            match test["op"].as_str().unwrap() {
                "SCMP_CMP_EQ" => argument == value,
                "SCMP_CMP_LT" => argument < value,
                "SCMP_CMP_MASKED_EQ" => argument & value == test["valueTwo"].as_u64().unwrap_or(0),
                other => panic!("operator {other}"),
            }
        });
        if fits {
            return RET_ALLOW;
        }
    }
    refusal
}

#[test]
fn the_same_as_moby() {
    let Some(moby) = moby() else {
        println!("SKIP: {} is not in the Go module cache", crate::BASED_ON);
        return;
    };
    let rules = moby["syscalls"].as_array().unwrap();
    assert_eq!(
        (&moby["defaultAction"], moby["defaultErrnoRet"].as_u64()),
        (&"SCMP_ACT_ERRNO".into(), Some(1))
    );
    for capabilities in [
        profile().capabilities,
        vec![],
        vec!["CAP_SYS_ADMIN".into()],
        vec!["CAP_SYS_PTRACE".into()],
    ] {
        for (table, name) in tables().iter().zip(["amd64", "arm64"]) {
            let mut profile = profile();
            profile.capabilities = capabilities.clone();
            let program = compile(&profile, table).unwrap();
            let verdicts = profile.verdicts(table).unwrap();
            let newest = profile.newest(table).unwrap();
            for (call_name, number) in table
                .numbers
                .iter()
                .filter(|(_, number)| **number <= newest)
            {
                let named: Vec<_> = rules
                    .iter()
                    .filter(|rule| names(&rule["names"]).contains(call_name))
                    .collect();
                for arguments in edges(&verdicts[number]) {
                    let ours = run(
                        &program,
                        &call(table.audit_architecture().unwrap(), *number, arguments),
                    )
                    .0;
                    let theirs = moby_answer(&named, name, &capabilities, &arguments);
                    assert_eq!(
                        ours, theirs,
                        "{call_name} {arguments:x?} with {capabilities:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn capabilities_have_the_numbers_of_the_kernel() {
    let known = [
        ("CAP_CHOWN", 0),
        ("CAP_SYS_CHROOT", 18),
        ("CAP_SYS_ADMIN", 21),
        ("CAP_SETFCAP", 31),
    ];
    for (name, number) in known
        .into_iter()
        .chain([("CAP_PERFMON", 38), ("CAP_BPF", 39)])
    {
        assert_eq!(capability(name), Ok(number));
    }
    assert!(capability("CHOWN").is_err());
}
