//! Compiles `data/profile.json` for the target's architecture; see `src/profile.rs` and `src/compile.rs`.

#![forbid(unsafe_code)]

#[path = "src/compile.rs"]
mod compile;
#[path = "src/profile.rs"]
mod profile;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=data");
    println!("cargo::rerun-if-changed=src/compile.rs");
    println!("cargo::rerun-if-changed=src/profile.rs");
    if let Err(message) = run() {
        // The form that cargo shows as an error of this crate.
        println!("cargo::error={message}");
    }
}

fn run() -> Result<(), String> {
    let data = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("data");
    let target = variable("CARGO_CFG_TARGET_ARCH")?;
    let profile = profile::Profile::parse(&read(&data.join("profile.json"))?)?;
    let table = profile::Table::parse(&read(&data.join(format!("syscalls-{target}.json")))?)?;
    let program = compile::compile(&profile, &table)?;
    let mut source = String::new();
    let _ = writeln!(
        source,
        "const PROGRAM: [u8; {}] = {:?};",
        program.len() * 8,
        compile::bytes(&program)
    );
    let _ = writeln!(
        source,
        "const BASED_ON_TEXT: &str = {:?};",
        profile.based_on
    );
    let _ = writeln!(
        source,
        "const ARCHITECTURE_TEXT: &str = {:?};",
        table.architecture
    );
    let _ = writeln!(
        source,
        "const CAPABILITY_NUMBERS: &[u8] = &{:?};",
        profile.capability_numbers()?
    );
    let out = PathBuf::from(variable("OUT_DIR")?).join("program.rs");
    fs::write(&out, source).map_err(|error| format!("{}: {error}", out.display()))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
