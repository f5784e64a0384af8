//! The filter in a real kernel: installed for one thread, which then makes calls and starts programs.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

const SIGSYS: i32 = 31;

/// Run `what` in a thread of its own, below the filter.
fn filtered<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            linux::privilege::no_new_privileges().unwrap();
            linux::privilege::seccomp(seccomp::default_filter()).unwrap();
            what()
        });
        thread.join().unwrap()
    })
}

#[test]
fn ordinary_programs_work() {
    let folder = Folder::new("ordinary");
    let copy = folder.0.join("copy");
    filtered(|| {
        std::fs::write(folder.0.join("a"), b"hello").unwrap();
        std::fs::copy(folder.0.join("a"), &copy).unwrap();
        assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
        let output = Command::new("/bin/sh")
            .args([
                "-c",
                "cat \"$1\" | tr a-z A-Z; ls / >/dev/null && exit 5",
                "-",
            ])
            .arg(&copy)
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"HELLO");
        assert_eq!(output.status.code(), Some(5), "{output:?}");
    });
}

#[test]
fn what_is_refused_is_refused() {
    filtered(|| {
        let socket = |family| rustix::net::socket(family, SocketType::DGRAM, None).map(drop);
        assert_eq!(socket(AddressFamily::INET), Ok(()));
        assert_eq!(socket(AddressFamily::from_raw(38)), Err(Errno::PERM));
        assert_eq!(socket(AddressFamily::from_raw(40)), Err(Errno::PERM));
        let opened = rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::empty());
        assert_eq!(opened.map(drop), Err(Errno::PERM));
        assert_eq!(
            rustix::mount::unmount("/nowhere", rustix::mount::UnmountFlags::DETACH),
            Err(Errno::PERM)
        );
        assert_eq!(rustix::system::sethostname(b"x"), Err(Errno::PERM));
    });
}

/// Numbers of another ABI, made by a few instructions in a program of ours.
#[cfg(target_arch = "x86_64")]
mod foreign {
    use super::*;

    /// `exit(eax with the sign turned)`, by the native number 60.
    const EXIT: [u8; 11] = [0xF7, 0xD8, 0x89, 0xC7, 0xB8, 60, 0, 0, 0, 0x0F, 0x05];

    #[test]
    fn an_x32_call_does_not_exist() {
        // mov eax, 0x40000027 (getpid); syscall
        let status = run(
            "x32",
            &[&[0xB8, 0x27, 0, 0, 0x40, 0x0F, 0x05], &EXIT[..]].concat(),
            true,
        );
        assert_eq!(status.code(), Some(38), "ENOSYS, not {status:?}");
    }

    #[test]
    fn a_call_above_all_that_are_known_does_not_exist() {
        // mov eax, 600; syscall
        let status = run(
            "newer",
            &[&[0xB8, 0x58, 2, 0, 0, 0x0F, 0x05], &EXIT[..]].concat(),
            true,
        );
        assert_eq!(status.code(), Some(38), "ENOSYS, not {status:?}");
    }

    #[test]
    fn an_i386_call_kills() {
        // mov eax, 20 (getpid); int 0x80; then a plain exit(0)
        let code = [&[0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0x31, 0xC0][..], &EXIT[..]].concat();
        if run("i386-probe", &code, false).code() != Some(0) {
            println!("SKIP: this kernel has no i386 calls");
            return;
        }
        assert_eq!(run("i386", &code, true).signal(), Some(SIGSYS));
    }

    /// The end of a program that is `code` alone.
    fn run(name: &str, code: &[u8], below_the_filter: bool) -> ExitStatus {
        let folder = Folder::new(name);
        let path = folder.0.join("program");
        write_program(&path, code).unwrap();
        let start = || Command::new(&path).status().unwrap();
        match below_the_filter {
            true => filtered(start),
            false => start(),
        }
    }

    /// The smallest ELF file: header, one program header, code.
    fn write_program(path: &Path, code: &[u8]) -> io::Result<()> {
        const BASE: u64 = 0x40_0000;
        const HEADERS: u64 = 64 + 56;
        let size = HEADERS + code.len() as u64;
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        file.extend((BASE + HEADERS).to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file.extend([0; 12]);
        for half in [64u16, 56, 1, 0, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
        for word in [0, BASE, BASE, size, size, 0x1000] {
            file.extend(word.to_le_bytes());
        }
        file.extend(code);
        let mut out = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(path)?;
        io::Write::write_all(&mut out, &file)
    }
}

/// A folder that goes away with its test. One at a time: a program that is started while another test still has its own
/// open for writing would keep that one "busy".
struct Folder(PathBuf, #[allow(dead_code)] MutexGuard<'static, ()>);

static ONE: Mutex<()> = Mutex::new(());

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("zos-seccomp-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Folder(path, ONE.lock().unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
