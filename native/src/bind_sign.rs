//! Ed25519 verification: flat buffers in, verdicts or an error out; the facade is `native/sign.py`.

use ed25519::{
    Batch, Error, Fault, Keys as Points, Signers, BATCH_MAX, KEY_BYTES, SIGNATURE_BYTES,
};
use pyo3::exceptions::{PyMemoryError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::{run, Input, Parts, Step};
use crate::errors;
use crate::number::{self, Count};

/// Keys between two looks for signals: some 20 ms.
const STEP_KEYS: usize = 4096;
/// Signatures of each thread between two looks for signals: some 50 ms.
const STEP: usize = 4 * BATCH_MAX;
/// Bytes of messages between two looks for signals: some 30 ms of SHA-512, if one thread has to hash them all.
const STEP_BYTES: usize = 1 << 24;
/// About what a key costs, and a signature of a batch beside its message.
const KEY_NS: u64 = 4_000;
const SIGNATURE_NS: u64 = 20_000;

mod classes {
    pyo3::import_exception!(native.sign, KeyRefused);
    pyo3::import_exception!(native.sign, SignatureWrong);
}

fn raise(py: Python<'_>, error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Argument(_) => errors::input_invalid(py, message),
        Error::Randomness => PyOSError::new_err((5, message)), // EIO
        Error::Threads => PyOSError::new_err((11, message)),   // EAGAIN
        Error::Memory => PyMemoryError::new_err(message),
    }
}

fn wrong(py: Python<'_>, index: Option<usize>) -> PyErr {
    let class = py.get_type::<classes::SignatureWrong>();
    let message = match index {
        None => "the signature is wrong".to_owned(),
        Some(index) => format!("signature {index} is wrong"),
    };
    errors::at_index(py, class, message, index.map(|index| index as u64))
}

/// Whether one signature is right, hearing signals while a long message is hashed.
fn right(
    py: Python<'_>,
    (signers, index): (Signers<'_>, usize),
    message: &[u8],
    signature: &[u8; SIGNATURE_BYTES],
) -> PyResult<bool> {
    if message.len() <= STEP_BYTES {
        return run(py, SIGNATURE_NS, || {
            let key = signers.key(index);
            key.is_some_and(|key| key.verify(message, signature))
        });
    }
    let key = signers.key(index);
    let Some(mut check) = key.as_ref().and_then(|key| key.check(signature)) else {
        return Ok(false);
    };
    for some in message.chunks(STEP_BYTES) {
        run(py, some.len() as u64, || check.update(some))?;
        py.check_signals()?;
    }
    run(py, SIGNATURE_NS, || check.is_right())
}

/// What a batch is made of, as Python gives it.
struct Given<'py> {
    signatures: Input<'py>,
    messages: Input<'py>,
    offsets: Input<'py>,
    threads: usize,
}

impl<'py> Given<'py> {
    fn new(
        signatures: &Bound<'py, PyAny>,
        messages: &Bound<'py, PyAny>,
        offsets: &Bound<'py, PyAny>,
        threads: usize,
    ) -> PyResult<Self> {
        Ok(Self {
            signatures: Input::new(signatures, "signatures")?,
            messages: Input::new(messages, "messages")?,
            offsets: Input::new(offsets, "offsets")?,
            threads,
        })
    }

    /// Calls `see` with the place of some verdicts and the verdicts, from first to last.
    fn judge(
        &self,
        py: Python<'_>,
        signers: Signers<'_>,
        mut see: impl FnMut(usize, &[bool]) -> PyResult<()>,
    ) -> PyResult<()> {
        let signatures = self.signatures.items::<SIGNATURE_BYTES>(py, "signatures")?;
        let offsets = self.offsets.numbers(py, "offsets")?;
        let parts = Parts::new(py, self.messages.bytes(), offsets)?;
        if parts.len() != signatures.len() {
            let message = format!("{} messages, {} signatures", parts.len(), signatures.len());
            return Err(errors::input_invalid(py, message));
        }
        let batch = Batch {
            signers,
            signatures,
            message: &|index| parts.get(index),
        };
        batch
            .check(0, signatures.len())
            .map_err(|error| raise(py, error))?;
        let threads = self.threads;
        let mut verdicts = vec![false; signatures.len().min(STEP * threads)];
        for step in parts.steps(STEP * threads, STEP_BYTES, 1) {
            match step {
                Step::Many(range, bytes) => {
                    let some = &mut verdicts[..range.len()];
                    let cost_ns = bytes as u64 + range.len() as u64 * SIGNATURE_NS;
                    run(py, cost_ns, || {
                        batch.verdicts_by(range.start, some, threads)
                    })?
                    .map_err(|error| raise(py, error))?;
                    see(range.start, some)?;
                }
                Step::Long(index, message) => {
                    let right = right(py, (signers, index), message, &signatures[index])?;
                    see(index, &[right])?;
                }
            }
            py.check_signals()?;
        }
        Ok(())
    }

    /// One byte for each signature.
    fn verdicts(&self, py: Python<'py>, signers: Signers<'_>) -> PyResult<Bound<'py, PyBytes>> {
        let count = self.signatures.bytes().len() / SIGNATURE_BYTES;
        PyBytes::new_with(py, count, |out| {
            self.judge(py, signers, |first, verdicts| {
                for (byte, verdict) in out[first..].iter_mut().zip(verdicts) {
                    *byte = u8::from(*verdict);
                }
                Ok(())
            })
        })
    }

    /// An error for the first that is wrong.
    fn verify(&self, py: Python<'_>, signers: Signers<'_>) -> PyResult<()> {
        self.judge(py, signers, |first, verdicts| {
            match verdicts.iter().position(|verdict| !verdict) {
                None => Ok(()),
                Some(place) => Err(wrong(py, Some(first + place))),
            }
        })
    }
}

/// See `native/sign.py`.
#[pyclass(frozen, module = "native._rust")]
struct Keys {
    points: Points,
}

#[pymethods]
impl Keys {
    #[new]
    #[pyo3(signature = (keys, /))]
    fn new(py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<Self> {
        let keys = Input::new(keys, "keys")?;
        let keys = keys.items::<KEY_BYTES>(py, "keys")?;
        let mut points = Points::default();
        points
            .reserve(keys.len())
            .map_err(|error| raise(py, error))?;
        for some in keys.chunks(STEP_KEYS) {
            run(py, some.len() as u64 * KEY_NS, || points.add(some))?;
            py.check_signals()?;
        }
        Ok(Self { points })
    }

    fn __len__(&self) -> usize {
        self.points.len()
    }

    fn verify(
        &self,
        py: Python<'_>,
        signer: Count,
        message: &Bound<'_, PyAny>,
        signature: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let message = Input::new(message, "message")?;
        let signature = Input::new(signature, "signature")?;
        let signature = signature.item(py, "signature")?;
        let message = message.bytes();
        let number = u32::try_from(signer.0)
            .ok()
            .filter(|number| (*number as usize) < self.points.len())
            .ok_or_else(|| errors::input_invalid(py, "a signer is none of the keys"))?;
        let signers = Signers::Known(&self.points, &[number]);
        right(py, (signers, 0), message, signature)?
            .then_some(())
            .ok_or_else(|| wrong(py, None))
    }

    #[pyo3(signature = (signers, signatures, messages, offsets, *, threads = 1))]
    fn verdicts<'py>(
        &self,
        py: Python<'py>,
        signers: &Bound<'py, PyAny>,
        signatures: &Bound<'py, PyAny>,
        messages: &Bound<'py, PyAny>,
        offsets: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = number::threads)] threads: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let given = Given::new(signatures, messages, offsets, threads)?;
        let numbers = numbers(py, signers)?;
        given.verdicts(py, Signers::Known(&self.points, &numbers))
    }

    #[pyo3(signature = (signers, signatures, messages, offsets, *, threads = 1))]
    fn verify_many(
        &self,
        py: Python<'_>,
        signers: &Bound<'_, PyAny>,
        signatures: &Bound<'_, PyAny>,
        messages: &Bound<'_, PyAny>,
        offsets: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = number::threads)] threads: usize,
    ) -> PyResult<()> {
        let given = Given::new(signatures, messages, offsets, threads)?;
        let numbers = numbers(py, signers)?;
        given.verify(py, Signers::Known(&self.points, &numbers))
    }
}

/// Four bytes of a hundred that each signature has: copied, since they need not lie at a multiple of four.
fn numbers(py: Python<'_>, signers: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    let signers = Input::new(signers, "signers")?;
    let items = signers.items::<4>(py, "signers")?;
    let mut numbers = Vec::new();
    numbers
        .try_reserve_exact(items.len())
        .map_err(|_| PyMemoryError::new_err("there is no memory for so many signers"))?;
    numbers.extend(items.iter().copied().map(u32::from_le_bytes));
    Ok(numbers)
}

#[pyfunction]
#[pyo3(name = "sign_check_key")]
fn check_key(py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<()> {
    let key = Input::new(key, "key")?;
    // 8 us: less than releasing the interpreter is worth.
    ed25519::check_key(key.item(py, "key")?).map_err(|fault: Fault| {
        let class = py.get_type::<classes::KeyRefused>();
        let context = [("reason", fault.as_str().into())];
        errors::zos_error(py, class, fault.to_string(), &context)
    })
}

#[pyfunction]
#[pyo3(name = "sign_verify")]
fn verify(
    py: Python<'_>,
    key: &Bound<'_, PyAny>,
    message: &Bound<'_, PyAny>,
    signature: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let key = Input::new(key, "key")?;
    let key = key.item(py, "key")?;
    let message = Input::new(message, "message")?;
    let message = message.bytes();
    let signature = Input::new(signature, "signature")?;
    let signature = signature.item(py, "signature")?;
    let signers = Signers::Plain(std::slice::from_ref(key));
    right(py, (signers, 0), message, signature)?
        .then_some(())
        .ok_or_else(|| wrong(py, None))
}

#[pyfunction]
#[pyo3(name = "sign_verdicts", signature = (keys, signatures, messages, offsets, *, threads = 1))]
fn verdicts<'py>(
    py: Python<'py>,
    keys: &Bound<'py, PyAny>,
    signatures: &Bound<'py, PyAny>,
    messages: &Bound<'py, PyAny>,
    offsets: &Bound<'py, PyAny>,
    #[pyo3(from_py_with = number::threads)] threads: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let keys = Input::new(keys, "keys")?;
    let keys = keys.items(py, "keys")?;
    let given = Given::new(signatures, messages, offsets, threads)?;
    given.verdicts(py, Signers::Plain(keys))
}

#[pyfunction]
#[pyo3(name = "sign_verify_many", signature = (keys, signatures, messages, offsets, *, threads = 1))]
fn verify_many(
    py: Python<'_>,
    keys: &Bound<'_, PyAny>,
    signatures: &Bound<'_, PyAny>,
    messages: &Bound<'_, PyAny>,
    offsets: &Bound<'_, PyAny>,
    #[pyo3(from_py_with = number::threads)] threads: usize,
) -> PyResult<()> {
    let keys = Input::new(keys, "keys")?;
    let keys = keys.items(py, "keys")?;
    let given = Given::new(signatures, messages, offsets, threads)?;
    given.verify(py, Signers::Plain(keys))
}

#[pyfunction]
#[pyo3(name = "sign_backend")]
fn backend() -> &'static str {
    ed25519::backend()
}

/// Registers class and functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Keys>()?;
    module.add_function(wrap_pyfunction!(backend, module)?)?;
    module.add_function(wrap_pyfunction!(check_key, module)?)?;
    module.add_function(wrap_pyfunction!(verdicts, module)?)?;
    module.add_function(wrap_pyfunction!(verify, module)?)?;
    module.add_function(wrap_pyfunction!(verify_many, module)?)
}
