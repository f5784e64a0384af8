//! `native._rust.ImageReader` and `fetch_object`; the facade is `native/fetch.py`.
//!
//! Whatever waits does so without the interpreter and looks for signals in between, so that Ctrl-C is heard, and for the
//! caller's `stop`, because signals reach the main thread alone.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fetch::layout::hex;
use fetch::{Code, Image, Object, Plan, Silent, SourceSpec, READ_MAX};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyType};

/// How often a wait looks for signals and `stop`.
const SIGNAL_PERIOD: Duration = Duration::from_millis(50);
/// Parts of a long read that are under way at once.
const PARTS_AHEAD: usize = 4;
/// The longest time that can be asked for.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

mod classes {
    pyo3::import_exception!(native.fetch, FetchUnavailable);
    pyo3::import_exception!(native.fetch, FetchMissing);
    pyo3::import_exception!(native.fetch, FetchCorrupt);
    pyo3::import_exception!(native.fetch, FetchLocal);
}

/// The class of an error, by its code.
fn raise(py: Python<'_>, error: fetch::Error) -> PyErr {
    let class: Bound<'_, PyType> = match error.code {
        Code::Unreachable | Code::Status | Code::Deadline => {
            py.get_type::<classes::FetchUnavailable>()
        }
        Code::Missing => py.get_type::<classes::FetchMissing>(),
        Code::Short | Code::Long | Code::Corrupt | Code::BadIndex | Code::BadLocator => {
            py.get_type::<classes::FetchCorrupt>()
        }
        Code::NoSpace | Code::NoDescriptors | Code::Local | Code::Busy => {
            py.get_type::<classes::FetchLocal>()
        }
        Code::Range | Code::Closed | Code::BadPlan => {
            return PyValueError::new_err(error.message);
        }
    };
    let context = PyDict::new(py);
    let filled = context
        .set_item("reason", error.code.as_str())
        .and_then(|()| context.set_item("source", &error.source))
        .and_then(|()| match &error.place {
            Some(place) => context
                .set_item("unit", place.unit)
                .and_then(|()| context.set_item("pack", hex(&place.pack)))
                .and_then(|()| context.set_item("offset", place.offset)),
            None => Ok(()),
        });
    match filled.and_then(|()| class.call((error.to_string(),), Some(&context))) {
        Ok(instance) => PyErr::from_value(instance),
        Err(error) => error,
    }
}

fn hash(bytes: &[u8]) -> PyResult<[u8; 32]> {
    bytes
        .try_into()
        .map_err(|_| PyValueError::new_err("a hash has 32 bytes"))
}

/// An HTTP address, or else a directory.
fn source(text: OsString) -> SourceSpec {
    match text.into_string() {
        Ok(text) if text.starts_with("http://") || text.starts_with("https://") => {
            SourceSpec::Http(text)
        }
        Ok(text) => SourceSpec::Dir(text.into()),
        Err(bytes) => SourceSpec::Dir(bytes.into()),
    }
}

fn time(seconds: f64) -> PyResult<Duration> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() => Ok(time.min(TIME_MAX)),
        _ => Err(PyValueError::new_err("a time in seconds is positive")),
    }
}

/// Waits for an answer, hearing signals and `stop`.
fn wait<T: Send>(
    py: Python<'_>,
    mut receive: Receiver<fetch::Result<T>>,
    stop: Option<&Py<PyAny>>,
) -> PyResult<T> {
    loop {
        if let Some(stop) = stop {
            if stop.call_method0(py, "is_set")?.is_truthy(py)? {
                return Err(closed());
            }
        }
        let answer;
        (receive, answer) = py.detach(move || {
            let answer = receive.recv_timeout(SIGNAL_PERIOD);
            (receive, answer)
        });
        match answer {
            Ok(answer) => return answer.map_err(|error| raise(py, error)),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => return Err(closed()),
        }
    }
}

fn closed() -> PyErr {
    PyValueError::new_err("the reader is closed")
}

/// See `native/fetch.py`.
#[pyclass(frozen, module = "native._rust")]
struct ImageReader {
    image: Arc<Image>,
    stop: Option<Py<PyAny>>,
}

#[pymethods]
impl ImageReader {
    #[new]
    #[pyo3(signature = (root, *, pages, units, blocks, sources, fetch_timeout_s, patience_s, keep_bytes_max, stop=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        root: &[u8],
        pages: u32,
        units: u32,
        blocks: u32,
        sources: Vec<OsString>,
        fetch_timeout_s: f64,
        patience_s: f64,
        keep_bytes_max: u64,
        stop: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let plan = Plan {
            root: hash(root)?,
            pages,
            units,
            blocks,
            dir: None,
            sources: sources.into_iter().map(source).collect(),
            fetch_timeout: time(fetch_timeout_s)?,
            patience: time(patience_s)?,
            keep_max: keep_bytes_max,
        };
        let (send, receive) = sync_channel(1);
        std::thread::spawn(move || {
            send.send(Image::open(plan, Arc::new(Silent), &AtomicBool::new(false)))
        });
        let image = Arc::new(wait(py, receive, stop.as_ref())?);
        Ok(Self { image, stop })
    }

    #[getter]
    fn size_bytes(&self) -> u64 {
        self.image.size()
    }

    fn content_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        let (send, receive) = sync_channel(1);
        let image = self.image.clone();
        std::thread::spawn(move || send.send(image.content_bytes()));
        wait(py, receive, self.stop.as_ref())
    }

    #[pyo3(signature = (address, length, *, timeout_s))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        address: u64,
        length: usize,
        timeout_s: f64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let deadline = Instant::now() + time(timeout_s)?;
        let size = self.image.size();
        let Some(end) = address
            .checked_add(length as u64)
            .filter(|end| *end <= size)
        else {
            let message = format!("no {length} bytes at {address} of a blob of {size}");
            return Err(PyValueError::new_err(message));
        };
        // Several parts are under way at once, so that a long read is bound by the link and not by its delay.
        let mut ahead = VecDeque::new();
        let mut next = address;
        let mut at = address;
        PyBytes::new_with(py, length, |bytes| {
            for part in bytes.chunks_mut(READ_MAX) {
                while next < end && ahead.len() < PARTS_AHEAD {
                    let length = (end - next).min(READ_MAX as u64) as usize;
                    ahead.push_back(
                        py.detach(|| self.image.request_channel(next, length, deadline)),
                    );
                    next += length as u64;
                }
                let mut waiting = ahead.pop_front();
                loop {
                    if let Some(receive) = waiting.take() {
                        wait(py, receive, self.stop.as_ref())?;
                    }
                    let present = py.detach(|| self.image.read_present(at, part));
                    if present.map_err(|error| raise(py, error))? {
                        break;
                    }
                    // It was given up again for the limit of what is kept.
                    let length = part.len();
                    waiting = Some(py.detach(|| self.image.request_channel(at, length, deadline)));
                }
                at += part.len() as u64;
            }
            Ok(())
        })
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.image.close())
            .map_err(|error| raise(py, error))
    }
}

#[pyfunction]
#[pyo3(signature = (sources, object, *, hash, size, zstd, to, timeout_s, stop=None))]
#[allow(clippy::too_many_arguments)]
fn fetch_object(
    py: Python<'_>,
    sources: Vec<OsString>,
    object: String,
    hash: &[u8],
    size: u64,
    zstd: bool,
    to: PathBuf,
    timeout_s: f64,
    stop: Option<Py<PyAny>>,
) -> PyResult<u64> {
    let deadline = Instant::now() + time(timeout_s)?;
    let object = Object {
        path: object,
        hash: self::hash(hash)?,
        size,
        zstd,
    };
    let sources: Vec<SourceSpec> = sources.into_iter().map(source).collect();
    let cancelled = Arc::new(AtomicBool::new(false));
    let (send, receive) = sync_channel(1);
    let flag = cancelled.clone();
    std::thread::spawn(move || {
        let outcome = fetch::fetch_object(&sources, &object, &to, deadline, &flag);
        send.send(outcome)
    });
    let outcome = wait(py, receive, stop.as_ref());
    cancelled.store(true, Ordering::Relaxed);
    outcome
}

/// Registers class and function.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ImageReader>()?;
    module.add_function(wrap_pyfunction!(fetch_object, module)?)
}
