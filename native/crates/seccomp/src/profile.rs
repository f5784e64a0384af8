//! The data files: which rules there are (`data/profile.json`) and the numbers of the calls (`data/syscalls-*.json`).
//!
//! A rule applies if every condition of its `when` holds for the architecture, the capabilities and the oldest kernel
//! that zos runs on. Of the rules that apply to one call, an `allow` without `argument` wins, then any `allow` whose
//! argument fits, then an `errno`; a call that no rule allows gives `otherwise`, and one whose number is above all that
//! the profile names gives `newer`, so that a C library which tries it falls back as it would on an older kernel.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `data/profile.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    format: String,
    /// The profile whose rules these are, and its version.
    pub based_on: String,
    /// `MAJOR.MINOR` of the oldest kernel.
    pub kernel_min: String,
    /// Errno of a known call that no rule allows.
    pub otherwise: String,
    /// Errno of a call above all that the profile names.
    pub newer: String,
    /// Errno of the x32 numbers (bit 30) on x86_64.
    pub x32: String,
    /// `kill-process`.
    pub foreign_architecture: String,
    /// What a container holds by default, which also decides the rules that depend on it.
    pub capabilities: Vec<String>,
    /// In no particular order.
    pub rules: Vec<Rule>,
}

/// One rule for a few calls.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// For messages.
    pub name: String,
    /// For readers.
    #[allow(dead_code)]
    pub why: String,
    #[serde(default)]
    when: When,
    /// `allow` or `errno`.
    action: String,
    errno: Option<String>,
    argument: Option<Argument>,
    /// Names as in the kernel's own tables.
    pub syscalls: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    architecture: Option<String>,
    capability: Option<String>,
    without_capability: Option<String>,
    kernel: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Argument {
    index: u8,
    one_of: Option<Vec<u32>>,
    none_of_bits: Option<u64>,
}

/// A condition on one argument, all 64 bits of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// One of these values.
    OneOf(u8, Vec<u32>),
    /// None of these bits.
    NoneOfBits(u8, u64),
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Allow,
    /// It is not made, and gives this errno.
    Errno(u16),
    /// Allowed if the condition holds, else this errno.
    AllowIf(Condition, u16),
}

/// `data/syscalls-ARCH.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    format: String,
    /// `MAJOR.MINOR` of the kernel whose headers these numbers are from.
    #[allow(dead_code)]
    pub kernel: String,
    /// As Rust names it.
    pub architecture: String,
    /// Number of each call.
    pub numbers: BTreeMap<String, u32>,
}

impl Table {
    /// Parse and check the format's name.
    pub fn parse(text: &str) -> Result<Table, String> {
        let table: Table = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match table.format.as_str() {
            "zos-syscalls-1" => Ok(table),
            other => Err(format!("a table of format {other:?}")),
        }
    }

    /// AUDIT_ARCH_* of linux/audit.h.
    pub fn audit_architecture(&self) -> Result<u32, String> {
        match self.architecture.as_str() {
            "x86_64" => Ok(0xC000_003E),
            "aarch64" => Ok(0xC000_00B7),
            other => Err(format!("no filter for architecture {other:?}")),
        }
    }
}

impl Profile {
    /// Parse and check the format's name.
    pub fn parse(text: &str) -> Result<Profile, String> {
        let profile: Profile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match (
            profile.format.as_str(),
            profile.foreign_architecture.as_str(),
        ) {
            ("zos-seccomp-1", "kill-process") => Ok(profile),
            other => Err(format!(
                "a profile of format and foreign architecture {other:?}"
            )),
        }
    }

    /// The capabilities as numbers, in the order of the file.
    pub fn capability_numbers(&self) -> Result<Vec<u8>, String> {
        self.capabilities
            .iter()
            .map(|name| capability(name))
            .collect()
    }

    /// What becomes of every call that the table names.
    pub fn verdicts(&self, table: &Table) -> Result<BTreeMap<u32, Verdict>, String> {
        let otherwise = errno(&self.otherwise)?;
        self.capability_numbers()?;
        let mut by_number: BTreeMap<u32, Vec<&Rule>> = table
            .numbers
            .values()
            .map(|number| (*number, Vec::new()))
            .collect();
        for rule in &self.rules {
            if !self.applies(rule, table)? {
                continue;
            }
            for number in rule
                .syscalls
                .iter()
                .filter_map(|name| table.numbers.get(name))
            {
                by_number.entry(*number).or_default().push(rule);
            }
        }
        by_number
            .into_iter()
            .map(|(number, rules)| Ok((number, verdict(&rules, otherwise)?)))
            .collect()
    }

    /// The highest number that any rule names, whether it applies or not.
    pub fn newest(&self, table: &Table) -> Result<u32, String> {
        let names = self.rules.iter().flat_map(|rule| &rule.syscalls);
        names
            .filter_map(|name| table.numbers.get(name))
            .max()
            .copied()
            .ok_or_else(|| "no rules".into())
    }

    fn applies(&self, rule: &Rule, table: &Table) -> Result<bool, String> {
        let when = &rule.when;
        let held = |name: &String| capability(name).map(|_| self.capabilities.contains(name));
        Ok(when
            .architecture
            .as_ref()
            .is_none_or(|name| *name == table.architecture)
            && when.capability.as_ref().map_or(Ok(true), held)?
            && !when.without_capability.as_ref().map_or(Ok(false), held)?
            && match &when.kernel {
                None => true,
                Some(needed) => version(needed)? <= version(&self.kernel_min)?,
            })
    }
}

fn verdict(rules: &[&Rule], otherwise: u16) -> Result<Verdict, String> {
    let mut refusal = otherwise;
    let mut conditions = Vec::new();
    for rule in rules {
        let bad = || format!("rule {:?} is not one that can be compiled", rule.name);
        match (rule.action.as_str(), &rule.errno, &rule.argument) {
            ("allow", None, None) => return Ok(Verdict::Allow),
            ("allow", None, Some(argument)) => {
                conditions.push(condition(argument).ok_or_else(bad)?)
            }
            ("errno", Some(name), None) => refusal = errno(name)?,
            _ => return Err(bad()),
        }
    }
    match conditions.len() {
        0 => Ok(Verdict::Errno(refusal)),
        1 => Ok(Verdict::AllowIf(conditions.remove(0), refusal)),
        _ => Err(format!(
            "more than one condition for a call: {conditions:?}"
        )),
    }
}

fn condition(argument: &Argument) -> Option<Condition> {
    match (argument.index, &argument.one_of, argument.none_of_bits) {
        (0..=5, Some(values), None) => {
            let mut values = values.clone();
            values.sort_unstable();
            values.dedup();
            Some(Condition::OneOf(argument.index, values))
        }
        (0..=5, None, Some(bits)) => Some(Condition::NoneOfBits(argument.index, bits)),
        _ => None,
    }
}

fn version(text: &str) -> Result<(u32, u32), String> {
    let parts = text
        .split_once('.')
        .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parts.ok_or_else(|| format!("{text:?} is no kernel version"))
}

/// The numbers of the few errnos that a profile may name; they are the same on both architectures.
pub fn errno(name: &str) -> Result<u16, String> {
    match name {
        "EPERM" => Ok(1),
        "ENOSYS" => Ok(38),
        other => Err(format!("errno {other:?} is not known here")),
    }
}

/// Numbers of linux/capability.h.
pub fn capability(name: &str) -> Result<u8, String> {
    const NAMES: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];
    let short = name
        .strip_prefix("CAP_")
        .ok_or_else(|| format!("{name:?} is no capability"))?;
    let number = NAMES.iter().position(|known| *known == short);
    number
        .map(|number| number as u8)
        .ok_or_else(|| format!("{name:?} is no capability"))
}
