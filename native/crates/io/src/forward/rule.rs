//! What a published port is, and how hold keeps it.

use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use wire::WireError;

/// Bytes of a name; leaves room for what hold puts around it (255).
const NAME_MAX: usize = 200;
/// Bytes of a kept rule: two addresses.
const KEPT_MAX: u64 = 4096;

/// Where to listen and where to connect, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `ADDR:PORT`; port 0 is any that is free.
    pub listen: String,
    /// `ADDR:PORT`.
    pub connect: String,
}

/// The two addresses of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where to connect.
    pub connect: SocketAddr,
}

impl Rule {
    /// `forward.bad-address` for what is no address, and for a target that is none.
    pub fn addresses(&self) -> Result<Addresses, WireError> {
        let parse = |text: &str| {
            let shown: String = text.chars().take(80).collect();
            let message = format!("{shown:?} is not ADDRESS:PORT");
            let error = WireError::new("forward.bad-address", message);
            text.parse::<SocketAddr>()
                .map_err(|_| error.with_hint("IPv6 addresses stand in brackets: [::1]:80"))
        };
        let addresses = Addresses {
            listen: parse(&self.listen)?,
            connect: parse(&self.connect)?,
        };
        if addresses.connect.port() == 0 || addresses.connect.ip().is_unspecified() {
            let message = format!("nothing can be reached at {}", addresses.connect);
            return Err(WireError::new("forward.bad-address", message));
        }
        Ok(addresses)
    }

    /// The sealed memfd that hold keeps.
    pub fn keep(&self) -> std::io::Result<OwnedFd> {
        linux::memfd::sealed("zos-rule", &wire::encode(self))
    }

    /// The rule in such a memfd; `None` if it is none.
    pub fn kept(memfd: OwnedFd) -> Option<Rule> {
        if !linux::memfd::is_sealed(&memfd) {
            return None;
        }
        rustix::fs::seek(&memfd, rustix::fs::SeekFrom::Start(0)).ok()?;
        let mut bytes = Vec::new();
        std::fs::File::from(memfd)
            .take(KEPT_MAX)
            .read_to_end(&mut bytes)
            .ok()?;
        wire::decode(&bytes).ok()
    }
}

/// `forward.bad-name` for anything that hold would not take behind `listen/port/`.
pub fn check_name(name: &str) -> Result<(), WireError> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+:/@-".contains(&byte);
    match (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(known) {
        true => Ok(()),
        false => Err(WireError::new(
            "forward.bad-name",
            "a name has 1 to 200 of [A-Za-z0-9_.+:/@-]",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(listen: &str, connect: &str) -> Rule {
        Rule {
            listen: listen.into(),
            connect: connect.into(),
        }
    }

    #[test]
    fn addresses() {
        assert!(rule("127.0.0.1:0", "10.1.0.2:80").addresses().is_ok());
        assert!(rule("[::]:8080", "[fd00::2]:80").addresses().is_ok());
        for (listen, connect) in [
            ("localhost:80", "10.1.0.2:80"),
            ("127.0.0.1", "10.1.0.2:80"),
            ("::1:80", "10.1.0.2:80"),
            ("127.0.0.1:65536", "10.1.0.2:80"),
            ("127.0.0.1:80", "10.1.0.2:0"),
            ("127.0.0.1:80", "0.0.0.0:80"),
            ("127.0.0.1:80", "[::]:80"),
        ] {
            assert_eq!(
                rule(listen, connect).addresses().unwrap_err().code,
                "forward.bad-address"
            );
        }
    }

    #[test]
    fn rules_come_back() {
        let one = rule("127.0.0.1:0", "10.1.0.2:80");
        let memfd = one.keep().unwrap();
        assert_eq!(Rule::kept(memfd.try_clone().unwrap()), Some(one.clone()));
        assert_eq!(
            Rule::kept(memfd),
            Some(one),
            "the copies share a file position"
        );
        assert_eq!(
            Rule::kept(linux::memfd::sealed("t", b"\x80").unwrap()),
            None
        );
    }

    #[test]
    fn names() {
        assert!(check_name("web/0").is_ok());
        assert!(check_name("").is_err());
        assert!(check_name("a b").is_err());
        assert!(check_name(&"a".repeat(201)).is_err());
    }
}
