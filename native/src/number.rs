//! Numbers of Python as unsigned ones of 64 bits.

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

use crate::errors::input_invalid;

/// A count or an index; one that is negative or does not fit is `InputInvalid`.
#[derive(Clone, Copy)]
pub struct Count(pub u64);

impl<'py> FromPyObject<'_, 'py> for Count {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.extract() {
            Ok(number) => Ok(Self(number)),
            Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
                // Not with the number: Python refuses to print one of more than 4300 digits.
                let message = "a number is not from 0 to 2^64 - 1";
                Err(input_invalid(object.py(), message))
            }
            Err(error) => Err(error),
        }
    }
}

/// Most threads that a call may be given.
const THREADS_MAX: u64 = 64;

/// A number of threads, 1 to 64.
pub fn threads(object: &Bound<'_, PyAny>) -> PyResult<usize> {
    let Count(number) = object.extract()?;
    if !(1..=THREADS_MAX).contains(&number) {
        let message = format!("{number} threads: 1 to {THREADS_MAX}");
        return Err(input_invalid(object.py(), message));
    }
    Ok(number as usize)
}
