//! BLAKE3: many parts in one call, and bit by bit; the facade is `native/hashing.py`.

use std::sync::{Mutex, TryLockError};

use hash::{Mode, NoThread, DIGEST_BYTES, KEY_BYTES};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::{run, Input, Output, Parts, Step};
use crate::errors;
use crate::number;

/// Bytes of each thread between two looks for signals: some 10 ms.
const STEP_BYTES: usize = 1 << 25;
/// Parts between two looks for signals.
const STEP: usize = 1 << 16;
/// About what a part costs beside its bytes.
const PART_NS: u64 = 80;

/// About what hashing costs: 64 KiB are the 20 us from which on the interpreter is released.
fn cost_ns(bytes: usize, parts: usize) -> u64 {
    bytes as u64 / 3 + parts as u64 * PART_NS
}

fn raise(error: NoThread) -> PyErr {
    PyOSError::new_err((11, error.to_string())) // EAGAIN
}

fn mode(py: Python<'_>, key: Option<&Bound<'_, PyAny>>, context: Option<&str>) -> PyResult<Mode> {
    match (key, context) {
        (None, None) => Ok(Mode::Plain),
        (Some(key), None) => {
            let key = Input::new(key, "key")?;
            Ok(Mode::Keyed(*key.item::<KEY_BYTES>(py, "key")?))
        }
        (None, Some(context)) => Ok(Mode::derived(context)),
        (Some(_), Some(_)) => Err(errors::input_invalid(
            py,
            "a digest has a key or a context, not both",
        )),
    }
}

/// Digests of all parts, hearing signals.
fn hash_all(
    py: Python<'_>,
    mode: &Mode,
    parts: &Parts<'_>,
    digests: &mut [[u8; DIGEST_BYTES]],
    threads: usize,
) -> PyResult<()> {
    for step in parts.steps(STEP, STEP_BYTES, threads) {
        match step {
            Step::Many(some, bytes) => {
                let (first, digests) = (some.start, &mut digests[some]);
                run(py, cost_ns(bytes, digests.len()), || {
                    mode.hash_parts(bytes, &|index| parts.get(first + index), digests, threads)
                })?
                .map_err(raise)?;
            }
            // By one thread.
            Step::Long(index, part) => {
                let mut hasher = mode.hasher();
                for some in part.chunks(STEP_BYTES) {
                    run(py, cost_ns(some.len(), 1), || {
                        hasher.update(some);
                    })?;
                    py.check_signals()?;
                }
                digests[index] = *hasher.finalize().as_bytes();
            }
        }
        py.check_signals()?;
    }
    Ok(())
}

#[pyfunction]
#[pyo3(signature = (data, offsets, *, key = None, context = None, threads = 1))]
fn hash_many<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    offsets: &Bound<'py, PyAny>,
    key: Option<&Bound<'py, PyAny>>,
    context: Option<&str>,
    #[pyo3(from_py_with = number::threads)] threads: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let mode = mode(py, key, context)?;
    let data = Input::new(data, "data")?;
    let offsets = Input::new(offsets, "offsets")?;
    let parts = Parts::new(py, data.bytes(), offsets.numbers(py, "offsets")?)?;
    PyBytes::new_with(py, parts.len() * DIGEST_BYTES, |out| {
        hash_all(py, &mode, &parts, out.as_chunks_mut().0, threads)
    })
}

#[pyfunction]
#[pyo3(signature = (data, offsets, out, *, key = None, context = None, threads = 1))]
fn hash_many_into(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    offsets: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    key: Option<&Bound<'_, PyAny>>,
    context: Option<&str>,
    #[pyo3(from_py_with = number::threads)] threads: usize,
) -> PyResult<()> {
    let mode = mode(py, key, context)?;
    let data = Input::new(data, "data")?;
    let offsets = Input::new(offsets, "offsets")?;
    let mut out = Output::new(out, "out", &[&data, &offsets])?;
    let parts = Parts::new(py, data.bytes(), offsets.numbers(py, "offsets")?)?;
    let out = out.bytes_mut();
    if out.len() != parts.len() * DIGEST_BYTES {
        let message = format!("out has {} bytes for {} digests", out.len(), parts.len());
        return Err(errors::input_invalid(py, message));
    }
    hash_all(py, &mode, &parts, out.as_chunks_mut().0, threads)
}

/// See `native/hashing.py`.
#[pyclass(frozen, module = "native._rust")]
struct Hasher {
    /// Never waited for: a second thread is refused, and so is a child that was forked in between.
    state: Mutex<blake3::Hasher>,
}

impl Hasher {
    fn with<T>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut blake3::Hasher) -> PyResult<T>,
    ) -> PyResult<T> {
        match self.state.try_lock() {
            Ok(mut state) => work(&mut state),
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => Err(
                errors::input_invalid(py, "another thread is using this hasher"),
            ),
        }
    }
}

#[pymethods]
impl Hasher {
    #[new]
    #[pyo3(signature = (*, key = None, context = None))]
    fn new(
        py: Python<'_>,
        key: Option<&Bound<'_, PyAny>>,
        context: Option<&str>,
    ) -> PyResult<Self> {
        let state = Mutex::new(mode(py, key, context)?.hasher());
        Ok(Self { state })
    }

    fn update(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = Input::new(data, "data")?;
        let bytes = data.bytes();
        self.with(py, |state| {
            for (number, some) in bytes.chunks(STEP_BYTES).enumerate() {
                // Not behind the last step: who is told of a signal then must not think that data is missing.
                if number > 0 {
                    py.check_signals()?;
                }
                run(py, cost_ns(some.len(), 1), || {
                    state.update(some);
                })?;
            }
            Ok(())
        })
    }

    fn digest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let digest = self.with(py, |state| Ok(state.finalize()))?;
        Ok(PyBytes::new(py, digest.as_bytes()))
    }

    fn copy(&self, py: Python<'_>) -> PyResult<Self> {
        let state = self.with(py, |state| Ok(state.clone()))?;
        Ok(Self {
            state: Mutex::new(state),
        })
    }
}

/// Registers class and functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Hasher>()?;
    module.add_function(wrap_pyfunction!(hash_many, module)?)?;
    module.add_function(wrap_pyfunction!(hash_many_into, module)?)
}
