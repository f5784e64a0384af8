//! From verdicts to a classic BPF program (seccomp(2), bpf(4) of the BSDs).
//!
//! The numbers are cut into runs with the same verdict, and the runs become a binary search, so that any call costs
//! about eight comparisons. Kernels from 5.11 on run the program once for each number when it is installed, and never
//! again for those that it allows whatever their arguments; for that, nothing but the number and the architecture may
//! be loaded on the way to such an "allow".

use std::collections::BTreeMap;

use crate::profile::{errno, Condition, Profile, Table, Verdict};

/// The kernel's limit, BPF_MAXINSNS.
pub const INSTRUCTIONS_MAX: usize = 4096;

/// Load a word of struct seccomp_data: BPF_LD | BPF_W | BPF_ABS.
pub const LOAD: u16 = 0x20;
/// Jump on: BPF_JMP | BPF_JA.
pub const JUMP: u16 = 0x05;
/// Jump if equal, at least, or any of these bits: BPF_JMP | BPF_J* | BPF_K.
pub const JUMP_EQUAL: u16 = 0x15;
/// See [`JUMP_EQUAL`].
pub const JUMP_AT_LEAST: u16 = 0x35;
/// See [`JUMP_EQUAL`].
pub const JUMP_ANY_BIT: u16 = 0x45;
/// BPF_RET | BPF_K.
pub const RETURN: u16 = 0x06;

/// SECCOMP_RET_* of linux/seccomp.h.
pub const RET_ALLOW: u32 = 0x7FFF_0000;
/// With the errno in the low half.
pub const RET_ERRNO: u32 = 0x0005_0000;
/// SIGSYS for all threads.
pub const RET_KILL_PROCESS: u32 = 0x8000_0000;

/// Offsets in struct seccomp_data; the architectures that we know are little-endian.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;
/// Numbers from here on are those of x32 on x86_64, and nobody's elsewhere.
const X32_BIT: u32 = 0x4000_0000;

/// struct sock_filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// One of the constants of this module.
    pub code: u16,
    /// How many instructions to skip if the comparison holds.
    pub jump_true: u8,
    /// And if not.
    pub jump_false: u8,
    /// Value, offset or distance.
    pub k: u32,
}

/// The program as the kernel wants it in memory on a little-endian machine.
pub fn bytes(program: &[Instruction]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for one in program {
        bytes.extend_from_slice(&one.code.to_le_bytes());
        bytes.extend_from_slice(&[one.jump_true, one.jump_false]);
        bytes.extend_from_slice(&one.k.to_le_bytes());
    }
    bytes
}

/// Compile a profile for the architecture of a table.
pub fn compile(profile: &Profile, table: &Table) -> Result<Vec<Instruction>, String> {
    let unknown: Vec<_> = profile
        .rules
        .iter()
        .filter(|rule| rule.syscalls.is_empty())
        .map(|rule| &rule.name)
        .collect();
    if !unknown.is_empty() {
        return Err(format!("rules without a call: {unknown:?}"));
    }
    let runs = runs(profile, table)?;
    let mut program = Backward::default();
    let search = program.search(&runs)?;
    let load_number = program.load(OFFSET_NUMBER, search);
    let kill = program.end(RET_KILL_PROCESS);
    let check = program.branch(JUMP_EQUAL, table.audit_architecture()?, load_number, kill);
    program.load(OFFSET_ARCHITECTURE, check);
    program.finish()
}

/// First number and verdict of each run, from 0 to the last u32.
fn runs(profile: &Profile, table: &Table) -> Result<Vec<(u32, Verdict)>, String> {
    let verdicts = profile.verdicts(table)?;
    let newest = profile.newest(table)?;
    let otherwise = Verdict::Errno(errno(&profile.otherwise)?);
    let mut starts: BTreeMap<u32, Verdict> = BTreeMap::new();
    for number in 0..=newest {
        starts.insert(number, verdicts.get(&number).unwrap_or(&otherwise).clone());
    }
    starts.insert(newest + 1, Verdict::Errno(errno(&profile.newer)?));
    if table.architecture == "x86_64" {
        starts.insert(X32_BIT, Verdict::Errno(errno(&profile.x32)?));
    }
    Ok(merged(starts))
}

/// Where an instruction is: how many there are from it to the end, itself included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label(usize);

/// A program that is written from its end, because jumps only go forward.
#[derive(Debug, Default)]
struct Backward {
    reversed: Vec<Instruction>,
    ends: BTreeMap<u32, Label>,
}

impl Backward {
    fn push(&mut self, code: u16, jump_true: u8, jump_false: u8, k: u32) -> Label {
        self.reversed.push(Instruction {
            code,
            jump_true,
            jump_false,
            k,
        });
        Label(self.reversed.len())
    }

    /// How many instructions the next one to be written would skip to reach `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - label.0
    }

    /// A return, shared while it is near.
    fn end(&mut self, value: u32) -> Label {
        match self.ends.get(&value) {
            Some(label) if self.distance(*label) < 200 => *label,
            _ => {
                let label = self.push(RETURN, 0, 0, value);
                self.ends.insert(value, label);
                label
            }
        }
    }

    /// `label`, or a jump to it, at most `reach` instructions from the next one to be written.
    fn near(&mut self, label: Label, reach: usize) -> Label {
        match self.distance(label) {
            distance if distance <= reach => label,
            distance => self.push(JUMP, 0, 0, distance as u32),
        }
    }

    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        // Each of the two may put one jump between the branch and the other's target.
        let yes = self.near(yes, 254);
        let no = self.near(no, 255);
        let (jump_true, jump_false) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(code, jump_true, jump_false, k)
    }

    /// A load that is followed by the instruction at `then`.
    fn load(&mut self, offset: u32, then: Label) -> Label {
        self.near(then, 0);
        self.push(LOAD, 0, 0, offset)
    }

    /// The verdict on the number that is loaded.
    fn search(&mut self, runs: &[(u32, Verdict)]) -> Result<Label, String> {
        if let [(_, verdict)] = runs {
            return self.verdict(verdict);
        }
        let (low, high) = runs.split_at(runs.len() / 2);
        let (Some((start, _)), false) = (high.first(), low.is_empty()) else {
            return Err("a search without runs".into());
        };
        let yes = self.search(high)?;
        let no = self.search(low)?;
        Ok(self.branch(JUMP_AT_LEAST, *start, yes, no))
    }

    fn verdict(&mut self, verdict: &Verdict) -> Result<Label, String> {
        match verdict {
            Verdict::Allow => Ok(self.end(RET_ALLOW)),
            Verdict::Errno(number) => Ok(self.end(RET_ERRNO | u32::from(*number))),
            Verdict::AllowIf(condition, number) => {
                self.condition(condition, RET_ERRNO | u32::from(*number))
            }
        }
    }

    fn condition(&mut self, condition: &Condition, refusal: u32) -> Result<Label, String> {
        let no = self.end(refusal);
        match condition {
            Condition::NoneOfBits(index, bits) => {
                let mut yes = self.end(RET_ALLOW);
                for (offset, half) in [
                    (low_half(*index), *bits as u32),
                    (high_half(*index), (*bits >> 32) as u32),
                ] {
                    if half != 0 {
                        let test = self.branch(JUMP_ANY_BIT, half, no, yes);
                        yes = self.load(offset, test);
                    }
                }
                Ok(yes)
            }
            Condition::OneOf(index, values) => {
                let search = self.search(&value_runs(values, refusal as u16))?;
                let low = self.load(low_half(*index), search);
                let high = self.branch(JUMP_EQUAL, 0, low, no);
                Ok(self.load(high_half(*index), high))
            }
        }
    }

    fn finish(mut self) -> Result<Vec<Instruction>, String> {
        self.reversed.reverse();
        match self.reversed.len() {
            length if length <= INSTRUCTIONS_MAX => Ok(self.reversed),
            length => Err(format!(
                "{length} instructions, and the kernel takes {INSTRUCTIONS_MAX}"
            )),
        }
    }
}

/// The values as runs for a search: allowed, or the errno.
fn value_runs(values: &[u32], refusal: u16) -> Vec<(u32, Verdict)> {
    let mut starts = BTreeMap::from([(0, Verdict::Errno(refusal))]);
    for value in values {
        starts.insert(*value, Verdict::Allow);
        if let Some(next) = value.checked_add(1) {
            starts.entry(next).or_insert(Verdict::Errno(refusal));
        }
    }
    merged(starts)
}

/// Without the starts that change nothing.
fn merged(starts: BTreeMap<u32, Verdict>) -> Vec<(u32, Verdict)> {
    let mut runs: Vec<(u32, Verdict)> = Vec::new();
    for (start, verdict) in starts {
        if runs.last().is_none_or(|(_, last)| *last != verdict) {
            runs.push((start, verdict));
        }
    }
    runs
}

fn low_half(index: u8) -> u32 {
    OFFSET_ARGUMENTS + 8 * u32::from(index)
}

fn high_half(index: u8) -> u32 {
    low_half(index) + 4
}
