//! Why a file cannot be executed here, from its first bytes.

use std::fs::File;
use std::io::Read;

/// e_machine of this program (elf.h).
const OURS: u16 = if cfg!(target_arch = "aarch64") {
    183
} else {
    62
};

/// A sentence about a file that execve refused with ENOEXEC; None if it cannot be read.
pub fn hint(path: &str) -> Option<String> {
    let mut head = Vec::new();
    File::open(path)
        .ok()?
        .take(20)
        .read_to_end(&mut head)
        .ok()?;
    Some(explain(&head))
}

fn explain(head: &[u8]) -> String {
    if !head.starts_with(b"\x7fELF") {
        return "it is neither an ELF program nor a script that begins with #!".into();
    }
    let Some(&[low, high]) = head.get(18..20) else {
        return "its ELF header is cut off".into();
    };
    // EI_DATA: 2 is most significant byte first.
    let machine = if head[5] == 2 {
        u16::from_be_bytes([low, high])
    } else {
        u16::from_le_bytes([low, high])
    };
    if machine == OURS {
        return "it is an ELF program of this architecture, but a damaged one".into();
    }
    format!(
        "it is a program for {}, and this machine is {}",
        name(machine),
        name(OURS)
    )
}

fn name(machine: u16) -> String {
    let known = match machine {
        3 => "x86 (32 bit)",
        8 => "MIPS",
        20 => "PowerPC (32 bit)",
        21 => "PowerPC 64",
        22 => "S/390",
        40 => "ARM (32 bit)",
        62 => "x86-64",
        183 => "ARM64",
        243 => "RISC-V",
        258 => "LoongArch",
        other => return format!("ELF machine {other}"),
    };
    known.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_are_named() {
        let mut head = [0u8; 20];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18] = if OURS == 62 { 183 } else { 62 };
        let text = explain(&head);
        assert!(text.contains("ARM64") && text.contains("x86-64"), "{text}");
        head[18] = OURS as u8;
        assert!(explain(&head).contains("damaged"));
        head[5] = 2;
        head[18] = 0;
        head[19] = 22;
        assert!(explain(&head).contains("S/390"));
        assert!(explain(b"hello").contains("#!"));
        assert!(explain(b"\x7fELF").contains("cut off"));
    }
}
