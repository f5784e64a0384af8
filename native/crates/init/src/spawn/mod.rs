//! The role `spawn` (docs/spec/spawn.md): mounts, namespaces, containers and execs, for a supervisor that never forks.

mod context;
mod elf;
mod failure;
mod fault;
mod helper;
mod image;
mod launch;
mod netns;
mod payload;
mod place;
mod probe;
mod remove;
mod request;
mod rootfs;
pub(crate) mod server;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use wire::HoldClient;

use failure::{from_hold, Outcome, Step};

/// Exit status for wrong arguments.
const EXIT_USAGE: u8 = 90;
/// Exit status for a start that failed, or a hold that has gone.
const EXIT_FAILED: u8 = 91;

/// Runs the role; `args` are those after `spawn`.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let Some(options) = Options::parse(args) else {
        linux::complain!("usage: zos-init spawn --state DIR [--without NAME[,NAME]...]");
        return ExitCode::from(EXIT_USAGE);
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            linux::complain!("zos-spawn: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// The command line.
#[derive(Debug)]
struct Options {
    state: PathBuf,
    /// Names of `probe` that are to be taken as missing: the mechanisms of older kernels are used.
    without: Vec<String>,
    /// Faults on purpose, for tests.
    faults: Option<PathBuf>,
}

impl Options {
    fn parse(args: Vec<OsString>) -> Option<Options> {
        let (mut state, mut without, mut faults) = (None, Vec::new(), None);
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let value = args.next()?;
            match arg.to_str()? {
                "--state" => state = Some(PathBuf::from(value)),
                "--without" => without = value.to_str()?.split(',').map(str::to_owned).collect(),
                "--faults" => faults = Some(PathBuf::from(value)),
                _ => return None,
            }
        }
        Some(Options {
            faults,
            state: state.filter(|path| path.is_absolute())?,
            without,
        })
    }
}

fn run(options: &Options) -> Outcome<()> {
    let mut hold = HoldClient::inherited().step("channel")?;
    linux::process::set_name("zos-spawn");
    // No child can be looked into before it has become something else (CVE-2016-9962), nor spawn itself.
    linux::privilege::undumpable().step("dumpable")?;
    linux::sigwait::ignore_children();
    linux::sigwait::unblock_all().step("signals")?;
    let listener = hold
        .get(&["listen/spawn"])
        .map_err(|error| from_hold("get-listener", error))?;
    let listener = listener
        .into_iter()
        .next()
        .ok_or_else(|| failure::bad_value("hold has no listen/spawn"))?;
    let faults = fault::Orders::open(options.faults.as_deref()).step("faults")?;
    let place = place::Place::enter(&options.state)?;
    let layers = probe::layers(&place, &options.without)?;
    server::Server::let_run_all(&mut hold)?;
    hold.ready().map_err(|error| from_hold("ready", error))?;
    let without = options.without.clone();
    let listener = wire::Door::new(listener).step("listener")?;
    server::Server::new(hold, listener, place, layers, without, faults).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line() {
        let parse = |args: &[&str]| Options::parse(args.iter().map(OsString::from).collect());
        let options = parse(&["--state", "/s", "--without", "a,b"]).unwrap();
        assert_eq!(options.state, PathBuf::from("/s"));
        assert_eq!(options.without, ["a", "b"]);
        assert!(parse(&[]).is_none());
        assert!(parse(&["--state"]).is_none());
        assert!(parse(&["--state", "relative"]).is_none());
        assert!(parse(&["--other", "/s"]).is_none());
    }
}
