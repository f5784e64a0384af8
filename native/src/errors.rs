//! The errors of `native/errors.py`, as Rust sees them.

use std::borrow::Cow;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

pyo3::import_exception!(native.errors, FileChanged);
pyo3::import_exception!(native.errors, FileUnreadable);
pyo3::import_exception!(native.errors, BlobTooLarge);
pyo3::import_exception!(native.errors, InputInvalid);

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
