//! Refuses sub-interpreters. CPython before 3.12 hands a module that is loaded already to any of them, unasked.

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

/// Refuses any but the main one; for the module's own beginning, and for what it is handed to without one.
#[pyfunction]
pub fn require_main_interpreter(_py: Python<'_>) -> PyResult<()> {
    // SAFETY: the interpreter is held (`_py`), which is all that both calls ask for; neither can fail then.
    let number =
        unsafe { pyo3::ffi::PyInterpreterState_GetID(pyo3::ffi::PyInterpreterState_Get()) };
    if number == 0 {
        return Ok(());
    }
    Err(PyImportError::new_err(format!(
        "native does not support subinterpreters: this is number {number}, use the main one, or ZOS_NATIVE=reference"
    )))
}

/// Registers the function.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(require_main_interpreter, module)?)
}
