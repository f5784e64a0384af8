//! Names of logs: `<container>` or `<container>/exec-<n>`, and the names in hold that belong to them.

use std::path::{Path, PathBuf};

use wire::WireError;

/// Bytes of a name; leaves room for what hold puts around it (255).
const NAME_MAX: usize = 200;

/// stdout or stderr, with its number in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// Number 1.
    Stdout = 1,
    /// Number 2.
    Stderr = 2,
}

impl Stream {
    /// Both.
    pub const ALL: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

    /// As in names of hold.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// A name that is safe to make a path of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// `logd.bad-name` for anything but one or two parts of `[A-Za-z0-9_.+:@-]`, neither `.` nor `..`.
    pub fn parse(text: &str) -> Result<Name, WireError> {
        let parts: Vec<&str> = text.split('/').collect();
        let plain = |part: &&str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+:@-".contains(&byte);
            !matches!(*part, "" | "." | "..") && part.bytes().all(known)
        };
        // A second part that could be a log file's name would be one.
        let is_file = parts.get(1).is_some_and(|part| part.ends_with(".log"));
        if parts.len() > 2 || text.len() > NAME_MAX || is_file || !parts.iter().all(plain) {
            let shown: String = text.chars().take(64).collect();
            return Err(WireError::new(
                "logd.bad-name",
                format!("{shown:?} is no name of a log"),
            ));
        }
        Ok(Name(text.to_owned()))
    }

    /// The name and stream in `log/<name>/<stream>`.
    pub fn of_pipe(kept: &str) -> Option<(Name, Stream)> {
        let (name, stream) = kept.strip_prefix("log/")?.rsplit_once('/')?;
        let stream = Stream::ALL.into_iter().find(|one| one.as_str() == stream)?;
        Some((Name::parse(name).ok()?, stream))
    }

    /// As given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its directory.
    pub fn directory(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }

    /// `log/<name>/<stream>`.
    pub fn pipe(&self, stream: Stream) -> String {
        format!("log/{}/{}", self.0, stream.as_str())
    }

    /// `logslot/<name>`.
    pub fn slot(&self) -> String {
        format!("logslot/{}", self.0)
    }

    /// Whether `other` is this log, or one of an exec in this container.
    pub fn covers(&self, other: &Name) -> bool {
        other == self
            || other
                .0
                .strip_prefix(&self.0)
                .is_some_and(|rest| rest.starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_names() {
        for good in ["a", "web-1", "a/exec-3", "A.b_c+d:e@f", "1.log"] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        let long = "a".repeat(NAME_MAX + 1);
        for bad in [
            "", ".", "..", "/", "a/", "/a", "a/..", "../a", "a/b/c", "a b", "a\0", "é", "a/1.log",
            &long,
        ] {
            assert_eq!(Name::parse(bad).unwrap_err().code, "logd.bad-name", "{bad}");
        }
    }

    #[test]
    fn names_in_hold() {
        let (name, stream) = Name::of_pipe("log/a/exec-1/stderr").unwrap();
        assert_eq!((name.as_str(), stream), ("a/exec-1", Stream::Stderr));
        assert_eq!(name.pipe(stream), "log/a/exec-1/stderr");
        assert_eq!(name.slot(), "logslot/a/exec-1");
        assert!(Name::of_pipe("log/a/stdin").is_none());
        assert!(Name::of_pipe("log/stdout").is_none());
        assert!(Name::of_pipe("log/../a/b/stdout").is_none());
    }

    #[test]
    fn a_container_covers_its_execs() {
        let a = Name::parse("a").unwrap();
        assert!(a.covers(&Name::parse("a/exec-1").unwrap()));
        assert!(a.covers(&a));
        assert!(!a.covers(&Name::parse("ab").unwrap()));
    }
}
