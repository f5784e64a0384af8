//! A fuzz harness for stable Rust: seeded mutations of a corpus for as long as it may take, failures minimised to a file.
//!
//! A target is a test whose name begins with `fuzz_` and that calls [`run`]. It takes bytes and must come back: with a
//! value or an error of its type, within [`INPUT_CPU_MAX`], and without a panic (overflow and bounds are checked in
//! tests). `ZOS_FUZZ_S` is the time of each target in seconds, `ZOS_FUZZ_SEED` repeats a run, `ZOS_FUZZ_DIR` is where a
//! failure is written.

#![forbid(unsafe_code)]

mod mutate;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use rustix::time::{clock_gettime, ClockId};

pub use mutate::{Mutator, Random};

/// Time of a target where `ZOS_FUZZ_S` says nothing: a few ten thousand inputs.
const TARGET_DEFAULT: Duration = Duration::from_secs(5);
/// CPU time of one input, in an unoptimised build; nothing that is parsed here takes a thousandth of it.
const INPUT_CPU_MAX: Duration = Duration::from_secs(2);
/// Memory that a target may come to need: no length that an input promises is believed.
const GROWTH_KIB_MAX: u64 = 512 * 1024;
/// Attempts to make a failing input smaller, and their time: one that fails by being slow is slow each time.
const MINIMISE_MAX: usize = 400;
const MINIMISE_TIME_MAX: Duration = Duration::from_secs(20);
/// Longest input, but no shorter than the corpus.
const INPUT_BYTES_MAX: usize = 65_536;

/// Feeds `target` with the corpus, and then with mutations of it until the time is over.
///
/// # Panics
///
/// If `target` panics, takes too long or too much memory: the message has the seed and the file of the input.
pub fn run(name: &str, corpus: &[Vec<u8>], target: impl Fn(&[u8])) {
    let seed = setting("ZOS_FUZZ_SEED").unwrap_or_else(any_seed);
    let time = setting("ZOS_FUZZ_S").map_or(TARGET_DEFAULT, Duration::from_secs);
    let before_kib = peak_kib();
    let limit = corpus
        .iter()
        .map(Vec::len)
        .max()
        .unwrap_or(0)
        .max(INPUT_BYTES_MAX);
    let mut mutator = Mutator::new(seed, corpus, limit);
    let end = Instant::now() + time;
    let mut count: u64 = 0;
    for input in corpus {
        check(name, seed, input, &target);
    }
    while Instant::now() < end {
        check(name, seed, mutator.next(), &target);
        count += 1;
    }
    let grown = peak_kib().saturating_sub(before_kib);
    assert!(
        grown < GROWTH_KIB_MAX,
        "{name}: {grown} KiB more than before, seed {seed}"
    );
    assert!(count > 0 || time.is_zero(), "{name}: no input in {time:?}");
    println!("fuzz {name}: {count} inputs, seed {seed}");
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(1, |now| now.as_nanos() as u64)
}

/// What is wrong with `target` on this input, if something is.
fn fault(input: &[u8], target: &impl Fn(&[u8])) -> Option<String> {
    let before = cpu();
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        return Some(format!("panics: {}", said.unwrap_or("without words")));
    }
    let took = cpu().saturating_sub(before);
    (took > INPUT_CPU_MAX).then(|| format!("takes {took:?} for {} bytes", input.len()))
}

fn check(name: &str, seed: u64, input: &[u8], target: &impl Fn(&[u8])) {
    let Some(first) = fault(input, target) else {
        return;
    };
    let small = minimise(input, |input| fault(input, target).is_some());
    let directory = std::env::var_os("ZOS_FUZZ_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = directory.join(format!("zos-fuzz-{name}-{seed}.bin"));
    let written = std::fs::write(&path, &small);
    panic!(
        "{name} {first}; {} bytes of it are in {} ({written:?}), seed {seed}",
        small.len(),
        path.display()
    );
}

/// The input without as many of its pieces as can be left out while it still fails.
fn minimise(input: &[u8], fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut small = input.to_vec();
    let mut piece = small.len() / 2;
    let mut attempts = 0;
    let end = Instant::now() + MINIMISE_TIME_MAX;
    while piece > 0 {
        let mut at = 0;
        while at < small.len() && attempts < MINIMISE_MAX && Instant::now() < end {
            let mut less = small.clone();
            less.drain(at..(at + piece).min(small.len()));
            attempts += 1;
            if fails(&less) {
                small = less;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    small
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// VmHWM of proc_pid_status(5); 0 where it cannot be read.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_input_becomes_small() {
        let input: Vec<u8> = (0..=255).collect();
        let small = minimise(&input, |input| input.contains(&7) && input.contains(&200));
        assert_eq!(small, [7, 200]);
    }

    #[test]
    fn panics_and_slowness_are_faults() {
        assert_eq!(fault(b"x", &|_| {}), None);
        assert_eq!(fault(b"x", &|_| panic!("no")).unwrap(), "panics: no");
        let slow = |_: &[u8]| {
            let end = cpu() + INPUT_CPU_MAX + Duration::from_millis(50);
            while cpu() < end {}
        };
        assert!(fault(b"x", &slow).unwrap().starts_with("takes"));
    }

    #[test]
    fn a_fault_behind_a_magic_number_is_found() {
        let corpus = [b"MAGIC\0\0\0\0rest".to_vec()];
        let mut mutator = Mutator::new(1, &corpus, 64);
        let found = (0..200_000).any(|_| {
            let input = mutator.next();
            input.starts_with(b"MAGIC") && input.get(5..9) == Some(&u32::MAX.to_le_bytes()[..])
        });
        assert!(found);
    }

    #[test]
    fn a_seed_repeats_its_inputs() {
        let inputs = |seed| {
            let corpus = [b"corpus".to_vec()];
            let mut mutator = Mutator::new(seed, &corpus, 64);
            (0..100)
                .map(|_| mutator.next().to_vec())
                .collect::<Vec<_>>()
        };
        assert_eq!(inputs(3), inputs(3));
        assert_ne!(inputs(3), inputs(4));
    }
}
