//! Where bytes come from: a directory or an HTTP server that holds a store.
//!
//! Nothing that a source says is believed: lengths are bounded by the caller, a server that sends more or less than
//! it was asked for is an error, and every operation ends by its deadline.

use crate::error::{is_exhausted, Code, Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Idle connections kept for one server: as many as one image fetches with.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// A connection that was idle for longer is not used again, since many servers close it then.
const IDLE_AGE_MAX: Duration = Duration::from_secs(10);
/// Redirects followed; a mirror needs one.
const REDIRECTS_MAX: u32 = 3;
/// A server that does not accept within this time is unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A source as a plan names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// A store behind HTTP: its base address.
    Http(String),
    /// A store in a local directory.
    Dir(PathBuf),
}

/// A source that can be read, with its counters.
pub struct Source {
    spec: SourceSpec,
    name: String,
    agent: ureq::Agent,
    bytes: AtomicU64,
    requests: AtomicU64,
}

enum Stream {
    Http(Box<ureq::BodyReader<'static>>),
    File(File),
}

/// An answer that is being read.
pub struct Body<'a> {
    source: &'a Source,
    stream: Stream,
    /// Bytes that may still come; `exact` says that they all must.
    left: u64,
    exact: bool,
    deadline: Instant,
}

impl Source {
    /// Prepares a source; connects to nothing yet.
    pub fn new(spec: SourceSpec) -> Result<Self> {
        let name = match &spec {
            SourceSpec::Http(url) => {
                if !(url.starts_with("http://") || url.starts_with("https://")) {
                    return Err(Error::new(
                        Code::BadPlan,
                        format!("not an HTTP address: {url}"),
                    ));
                }
                url.trim_end_matches('/').to_owned()
            }
            SourceSpec::Dir(path) => {
                if !path.is_absolute() {
                    return Err(Error::new(
                        Code::BadPlan,
                        format!("not an absolute path: {}", path.display()),
                    ));
                }
                path.display().to_string()
            }
        };
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(REDIRECTS_MAX)
            .max_idle_connections(IDLE_CONNECTIONS_MAX)
            .max_idle_connections_per_host(IDLE_CONNECTIONS_MAX)
            .max_idle_age(IDLE_AGE_MAX)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .input_buffer_size(256 * 1024)
            .user_agent(concat!("zos/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            spec,
            name,
            agent: config.into(),
            bytes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        })
    }

    /// As a plan names it.
    pub fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    /// Its address or path, for events.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Body bytes received since the start.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Requests made since the start.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Reads a whole object of at most `max` bytes.
    pub fn whole(&self, path: &str, max: u64, deadline: Instant) -> Result<Vec<u8>> {
        let mut body = self.open(path, max, deadline)?;
        let mut data = Vec::new();
        let mut chunk = [0; 16 * 1024];
        loop {
            let n = body.read(&mut chunk)?;
            if n == 0 {
                return Ok(data);
            }
            data.extend_from_slice(&chunk[..n]);
        }
    }

    /// Opens a whole object, of which at most `max` bytes are taken: one more is an error.
    pub fn open(&self, path: &str, max: u64, deadline: Instant) -> Result<Body<'_>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let stream = match &self.spec {
            SourceSpec::Dir(root) => Stream::File(self.open_file(root, path)?),
            SourceSpec::Http(_) => {
                let response = self.call(path, None, deadline)?;
                match response.status().as_u16() {
                    200 => {}
                    404 | 410 => {
                        return Err(self.error(Code::Missing, format!("{path} is not there")))
                    }
                    status => {
                        return Err(
                            self.error(Code::Status, format!("{path}: HTTP status {status}"))
                        )
                    }
                }
                Stream::Http(Box::new(response.into_body().into_reader()))
            }
        };
        Ok(Body {
            source: self,
            stream,
            left: max,
            exact: false,
            deadline,
        })
    }

    /// Opens exactly `len` bytes of an object from `offset` on.
    pub fn open_range(
        &self,
        path: &str,
        offset: u64,
        len: u64,
        deadline: Instant,
    ) -> Result<Body<'_>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let stream = match &self.spec {
            SourceSpec::Dir(root) => {
                let file = self.open_file(root, path)?;
                rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(offset))
                    .map_err(|error| Error::local("seek", error).at(&self.name))?;
                Stream::File(file)
            }
            SourceSpec::Http(_) => {
                let last = offset + len - 1;
                let response = self.call(path, Some((offset, last)), deadline)?;
                match response.status().as_u16() {
                    206 => {}
                    200 => {
                        let message = format!("{path}: the server ignores ranges");
                        return Err(self.error(Code::Status, message));
                    }
                    404 | 410 => {
                        return Err(self.error(Code::Missing, format!("{path} is not there")))
                    }
                    416 => {
                        let message = format!("{path}: ends before byte {last}");
                        return Err(self.error(Code::Short, message));
                    }
                    status => {
                        return Err(
                            self.error(Code::Status, format!("{path}: HTTP status {status}"))
                        )
                    }
                }
                let range = response
                    .headers()
                    .get("content-range")
                    .map(|value| value.as_bytes());
                check_content_range(range, offset, last)
                    .map_err(|(code, what)| self.error(code, format!("{path}: {what}")))?;
                if response
                    .body()
                    .content_length()
                    .is_some_and(|said| said > len)
                {
                    return Err(self.error(Code::Long, format!("{path}: more than was asked for")));
                }
                Stream::Http(Box::new(response.into_body().into_reader()))
            }
        };
        Ok(Body {
            source: self,
            stream,
            left: len,
            exact: true,
            deadline,
        })
    }

    fn error(&self, code: Code, message: impl Into<String>) -> Error {
        Error::new(code, message).at(&self.name)
    }

    fn open_file(&self, root: &std::path::Path, path: &str) -> Result<File> {
        use rustix::fs::{Mode, OFlags};
        // NONBLOCK: a fifo in the place of an object must not hold us.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::open(root.join(path), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
                return Err(self.error(Code::Missing, format!("{path} is not there")))
            }
            Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
                return Err(Error::no_descriptors(path).at(&self.name))
            }
            Err(error) => return Err(self.error(Code::Unreachable, format!("{path}: {error}"))),
        };
        match file.metadata() {
            Ok(data) if data.is_file() => Ok(file),
            Ok(_) => Err(self.error(Code::Missing, format!("{path} is not a regular file"))),
            Err(error) => Err(self.error(Code::Unreachable, format!("{path}: {error}"))),
        }
    }

    fn call(
        &self,
        path: &str,
        range: Option<(u64, u64)>,
        deadline: Instant,
    ) -> Result<ureq::http::Response<ureq::Body>> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.error(Code::Deadline, format!("{path}: out of time")));
        }
        let mut request = self.agent.get(format!("{}/{path}", self.name));
        if let Some((first, last)) = range {
            request = request.header("Range", format!("bytes={first}-{last}"));
        }
        request
            .config()
            .timeout_global(Some(left))
            .build()
            .call()
            .map_err(|error| self.http_error(path, error))
    }

    fn http_error(&self, what: &str, error: ureq::Error) -> Error {
        if matches!(&error, ureq::Error::Io(error) if is_exhausted(error)) {
            return Error::no_descriptors(what).at(&self.name);
        }
        let code = match &error {
            ureq::Error::Timeout(ureq::Timeout::Connect) => Code::Unreachable,
            ureq::Error::Timeout(_) => Code::Deadline,
            _ => Code::Unreachable,
        };
        self.error(code, format!("{what}: {error}"))
    }
}

/// Whether a Content-Range names exactly the bytes asked for; its total is not believed.
fn check_content_range(
    value: Option<&[u8]>,
    first: u64,
    last: u64,
) -> std::result::Result<(), (Code, String)> {
    let text = value
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .unwrap_or("");
    let parsed = text
        .strip_prefix("bytes ")
        .and_then(|rest| rest.split_once('/'))
        .and_then(|(range, _)| range.split_once('-'))
        .and_then(|(a, b)| Some((a.trim().parse::<u64>().ok()?, b.trim().parse::<u64>().ok()?)));
    match parsed {
        Some((a, b)) if (a, b) == (first, last) => Ok(()),
        Some((a, b)) if a == first && b < last => {
            Err((Code::Short, format!("ends at byte {b}, asked for {last}")))
        }
        _ => Err((
            Code::Status,
            format!("sent range {text:?}, asked for {first}-{last}"),
        )),
    }
}

impl Body<'_> {
    /// Fills `buffer` as far as the answer goes; 0 is its end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if Instant::now() >= self.deadline {
            return Err(self.source.error(Code::Deadline, "out of time"));
        }
        // One byte more than may come is asked for, so that a source which sends more is found out.
        let room = usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX);
        let want = buffer.len().min(room.max(1));
        let n = match &mut self.stream {
            Stream::File(file) => file.read(&mut buffer[..want]).map_err(|error| {
                self.source
                    .error(Code::Unreachable, format!("read: {error}"))
            })?,
            Stream::Http(reader) => match reader.read(&mut buffer[..want]) {
                Ok(n) => n,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Err(self
                        .source
                        .error(Code::Unreachable, "the connection ended within the answer"))
                }
                Err(error) => return Err(self.source.http_error("read", ureq::Error::from(error))),
            },
        };
        self.source.bytes.fetch_add(n as u64, Ordering::Relaxed);
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => {
                return Err(self
                    .source
                    .error(Code::Long, "more bytes than there may be"))
            }
        }
        Ok(n)
    }

    /// Fills the whole of `buffer`, or fails.
    pub fn read_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let end = buffer
                .len()
                .min(done + usize::try_from(self.left).unwrap_or(usize::MAX));
            let n = if end > done {
                self.read(&mut buffer[done..end])?
            } else {
                0
            };
            if n == 0 {
                // A file that is short stays so; an answer that is short may have been cut on the way.
                let code = match self.stream {
                    Stream::File(_) => Code::Short,
                    Stream::Http(_) => Code::Unreachable,
                };
                return Err(self.source.error(code, "fewer bytes than were asked for"));
            }
            done += n;
        }
        Ok(())
    }

    /// Ends a range that has been read wholly: a server that would send more is found out, and its connection is
    /// fit for the next request.
    pub fn finish(mut self) -> Result<()> {
        if self.exact && self.left > 0 {
            return Err(self.source.error(Code::Short, "range not read to its end"));
        }
        if matches!(self.stream, Stream::Http(_)) && self.read(&mut [0])? != 0 {
            return Err(self
                .source
                .error(Code::Long, "more bytes than there may be"));
        }
        Ok(())
    }
}
