//! The errors of `native/errors.py`, as Rust sees them.

use std::borrow::Cow;

use pyo3::exceptions::{PyMemoryError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

pyo3::import_exception!(native.errors, FileChanged);
pyo3::import_exception!(native.errors, FileUnreadable);
pyo3::import_exception!(native.errors, BlobTooLarge);
pyo3::import_exception!(native.errors, InputInvalid);

pyo3::import_exception!(native.erasure_errors, BufferUnusable);
pyo3::import_exception!(native.erasure_errors, BuffersOverlap);
pyo3::import_exception!(native.erasure_errors, KernelPanicked);
pyo3::import_exception!(native.erasure_errors, LengthMismatch);
pyo3::import_exception!(native.erasure_errors, PathUnavailable);
pyo3::import_exception!(native.erasure_errors, ShapeInvalid);
pyo3::import_exception!(native.erasure_errors, ShardCountWrong);
pyo3::import_exception!(native.erasure_errors, ShardEmpty);
pyo3::import_exception!(native.erasure_errors, ShardIndexInvalid);
pyo3::import_exception!(native.erasure_errors, ThreadsInvalid);
pyo3::import_exception!(native.erasure_errors, TooFewShards);

pyo3::import_exception!(native.pipeline_errors, ChunkMalformed);
pyo3::import_exception!(native.pipeline_errors, DigestWrong);
pyo3::import_exception!(native.pipeline_errors, SealBroken);

/// Raises a `ZosError` class with a message and its context.
pub fn zos_error(
    py: Python<'_>,
    class: Bound<'_, pyo3::types::PyType>,
    message: String,
    context: &[(&str, Cow<'_, str>)],
) -> PyErr {
    let keywords = PyDict::new(py);
    for (key, value) in context {
        if let Err(error) = keywords.set_item(key, value.as_ref()) {
            return error;
        }
    }
    match class.call((message,), Some(&keywords)) {
        Ok(instance) => PyErr::from_value(instance),
        Err(error) => error,
    }
}

/// Maps what stopped the packer; writing fails with an `OSError`, so that ENOSPC stays visible.
pub fn pack(py: Python<'_>, error: pack::Error) -> PyErr {
    let message = error.to_string();
    match error {
        pack::Error::Argument(_) => PyValueError::new_err(message),
        pack::Error::Changed { path, .. } => {
            let context = [("path", String::from_utf8_lossy(&path))];
            zos_error(py, py.get_type::<FileChanged>(), message, &context)
        }
        pack::Error::Read { path, .. } => {
            let context = [("path", String::from_utf8_lossy(&path))];
            zos_error(py, py.get_type::<FileUnreadable>(), message, &context)
        }
        pack::Error::Write { source } => match source.raw_os_error() {
            Some(errno) => PyOSError::new_err((errno, message)),
            None => PyOSError::new_err(message),
        },
        pack::Error::BlobTooLarge => zos_error(py, py.get_type::<BlobTooLarge>(), message, &[]),
    }
}

/// An argument with which no call can be made.
pub fn input_invalid(py: Python<'_>, message: impl Into<String>) -> PyErr {
    zos_error(py, py.get_type::<InputInvalid>(), message.into(), &[])
}

/// Raises a `ZosError` class that says which item of a batch it is about.
pub fn at_index(
    py: Python<'_>,
    class: Bound<'_, pyo3::types::PyType>,
    message: String,
    index: Option<u64>,
) -> PyErr {
    let keywords = PyDict::new(py);
    let filled = index.map_or(Ok(()), |index| keywords.set_item("index", index));
    match filled.and_then(|()| class.call((message,), Some(&keywords))) {
        Ok(instance) => PyErr::from_value(instance),
        Err(error) => error,
    }
}

/// Maps what is wrong with a call of the erasure code.
pub fn erasure(py: Python<'_>, error: erasure::Error) -> PyErr {
    use erasure::Error;
    let class = match &error {
        Error::Shape(_) => py.get_type::<ShapeInvalid>(),
        Error::Path(_) => py.get_type::<PathUnavailable>(),
        Error::Count(_) => py.get_type::<ShardCountWrong>(),
        Error::Length(_) => py.get_type::<LengthMismatch>(),
        Error::Empty => py.get_type::<ShardEmpty>(),
        Error::Index(_) => py.get_type::<ShardIndexInvalid>(),
        Error::TooFew { .. } => py.get_type::<TooFewShards>(),
        Error::Overlap(_) => py.get_type::<BuffersOverlap>(),
        Error::Threads => py.get_type::<ThreadsInvalid>(),
        Error::NoThread(_) => return PyOSError::new_err((11, error.to_string())), // EAGAIN
        // The binding makes each repair for its very call.
        Error::Repair(_) | Error::Panicked(_) => py.get_type::<KernelPanicked>(),
    };
    zos_error(py, class, error.to_string(), &[])
}

/// Maps why a chunk was not sealed or opened.
pub fn pipeline(py: Python<'_>, error: pipeline::Error) -> PyErr {
    use pipeline::Error;
    let message = error.to_string();
    let (class, chunk) = match error {
        Error::Setting(_) => return input_invalid(py, message),
        Error::Erasure(error) => return erasure(py, error),
        Error::NoMemory => return PyMemoryError::new_err(message),
        Error::NoThread(_) => return PyOSError::new_err((11, message)), // EAGAIN
        Error::TooFew { chunk, .. } => (py.get_type::<TooFewShards>(), chunk),
        Error::Malformed { chunk, .. } => (py.get_type::<ChunkMalformed>(), chunk),
        Error::SealBroken { chunk } => (py.get_type::<SealBroken>(), chunk),
        Error::DigestWrong { chunk } => (py.get_type::<DigestWrong>(), chunk),
    };
    at_index(py, class, message, Some(chunk as u64))
}

/// A shard that is no buffer, or none that can be used.
pub fn buffer_unusable(py: Python<'_>, reason: &str) -> PyErr {
    let class = py.get_type::<BufferUnusable>();
    zos_error(py, class, reason.to_owned(), &[])
}
