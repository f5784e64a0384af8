//! Buffers of Python as slices, for as long as a call lasts, also while the interpreter goes on.
//!
//! Rules (each has a test in tests/integration/test_native_buffers.py): any C-contiguous object is taken, read-only ones too;
//! nothing is copied; the object stays exported until the call ends, so that a bytearray cannot be resized under it;
//! what cannot be taken is `InputInvalid`, and a TypeError where there is no buffer at all.
//!
//! Here memory of Python is taken with `unsafe`: PyO3 lends a buffer's memory only as long as the interpreter is
//! held, and holding it for milliseconds is what these calls must not do.

use std::marker::PhantomData;
use std::ops::Range;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::errors::{self, input_invalid};

/// Work in nanoseconds from which on the interpreter is released: below, releasing costs more than it gives.
const RELEASE_NS: u64 = 20_000;

/// A buffer that is read.
pub enum Input<'py> {
    /// The common case: immutable, and without the cost of an export.
    Bytes(Bound<'py, PyBytes>),
    /// Anything else.
    Exported(PyUntypedBuffer, PhantomData<&'py ()>),
}

impl<'py> Input<'py> {
    /// Takes the buffer of an argument, which errors call `name`.
    pub fn new(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Self> {
        if let Ok(bytes) = object.cast_exact::<PyBytes>() {
            return Ok(Self::Bytes(bytes.clone()));
        }
        Ok(Self::Exported(export(object, name)?, PhantomData))
    }

    /// The same of an argument that may be None.
    pub fn optional(object: Option<&Bound<'py, PyAny>>, name: &str) -> PyResult<Option<Self>> {
        object.map(|object| Self::new(object, name)).transpose()
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.as_bytes(),
            Self::Exported(buffer, _) if buffer.len_bytes() == 0 => &[],
            // SAFETY: the exporter keeps `len_bytes` bytes in place until the export is released, which `self` does
            // when it is dropped, and the buffer was found contiguous. Another Python thread may write to a mutable
            // object meanwhile, as it may for hashlib or zlib: every byte is plain data to the kernels, each of which
            // bounds what it does by lengths alone, so such a caller gets an answer about bytes that it mixed itself.
            Self::Exported(buffer, _) => unsafe {
                std::slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.len_bytes())
            },
        }
    }

    /// The bytes as items of `N`; their number must divide the length.
    pub fn items<const N: usize>(&self, py: Python<'_>, name: &str) -> PyResult<&[[u8; N]]> {
        match self.bytes().as_chunks() {
            (items, []) => Ok(items),
            _ => {
                let message = format!(
                    "{name} has {} bytes, no multiple of {N}",
                    self.bytes().len()
                );
                Err(input_invalid(py, message))
            }
        }
    }

    /// The same of an argument that may be None.
    pub fn optional_items<'a, const N: usize>(
        input: &'a Option<Self>,
        py: Python<'_>,
        name: &str,
    ) -> PyResult<Option<&'a [[u8; N]]>> {
        input
            .as_ref()
            .map(|input| input.items(py, name))
            .transpose()
    }

    /// The bytes as one item of `N`.
    pub fn item<const N: usize>(&self, py: Python<'_>, name: &str) -> PyResult<&[u8; N]> {
        self.bytes().try_into().map_err(|_| {
            let message = format!("{name} has {} bytes instead of {N}", self.bytes().len());
            input_invalid(py, message)
        })
    }

    /// The bytes as unsigned numbers of 64 bits, little-endian.
    pub fn numbers(&self, py: Python<'_>, name: &str) -> PyResult<&[[u8; 8]]> {
        self.items::<8>(py, name)
    }
}

/// A buffer that is written.
pub struct Output {
    buffer: PyUntypedBuffer,
}

impl Output {
    /// Takes the buffer of an argument, which errors call `name`; it may share no byte with what is read.
    pub fn new(object: &Bound<'_, PyAny>, name: &str, inputs: &[&Input<'_>]) -> PyResult<Self> {
        let py = object.py();
        let buffer = export(object, name)?;
        if buffer.readonly() {
            return Err(input_invalid(py, format!("{name} cannot be written")));
        }
        let begin = buffer.buf_ptr() as usize;
        let end = begin + buffer.len_bytes();
        for input in inputs {
            let read = input.bytes().as_ptr_range();
            if begin < read.end as usize && (read.start as usize) < end {
                return Err(input_invalid(py, format!("{name} overlaps what is read")));
            }
        }
        Ok(Self { buffer })
    }

    /// The same of an argument that may be None.
    pub fn optional(
        object: Option<&Bound<'_, PyAny>>,
        name: &str,
        inputs: &[&Input<'_>],
    ) -> PyResult<Option<Self>> {
        object
            .map(|object| Self::new(object, name, inputs))
            .transpose()
    }

    /// That no two of these share a byte.
    pub fn apart(py: Python<'_>, outputs: &[(&str, Option<&Self>)]) -> PyResult<()> {
        let mut seen: Vec<(&str, usize, usize)> = Vec::with_capacity(outputs.len());
        for (name, output) in outputs {
            let Some(buffer) = output.map(|output| &output.buffer) else {
                continue;
            };
            let begin = buffer.buf_ptr() as usize;
            let end = begin + buffer.len_bytes();
            if let Some((other, ..)) = seen.iter().find(|(_, b, e)| begin < *e && *b < end) {
                return Err(input_invalid(py, format!("{name} overlaps {other}")));
            }
            seen.push((name, begin, end));
        }
        Ok(())
    }

    /// The bytes as items of `N`; their number must divide the length.
    pub fn items_mut<const N: usize>(
        &mut self,
        py: Python<'_>,
        name: &str,
    ) -> PyResult<&mut [[u8; N]]> {
        let length = self.buffer.len_bytes();
        match self.bytes_mut().as_chunks_mut() {
            (items, []) => Ok(items),
            _ => {
                let message = format!("{name} has {length} bytes, no multiple of {N}");
                Err(input_invalid(py, message))
            }
        }
    }

    /// The same of an argument that may be None.
    pub fn optional_items_mut<'a, const N: usize>(
        output: &'a mut Option<Self>,
        py: Python<'_>,
        name: &str,
    ) -> PyResult<Option<&'a mut [[u8; N]]>> {
        output
            .as_mut()
            .map(|output| output.items_mut(py, name))
            .transpose()
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if self.buffer.len_bytes() == 0 {
            return &mut [];
        }
        // SAFETY: as for `Input::bytes`; the exporter said that it may be written, and none of the call's other
        // slices lies in it.
        unsafe {
            std::slice::from_raw_parts_mut(self.buffer.buf_ptr().cast(), self.buffer.len_bytes())
        }
    }
}

/// Parts of `data` between neighbouring offsets (u64, little-endian, n + 1 of them for n parts).
pub struct Parts<'a> {
    data: &'a [u8],
    offsets: &'a [[u8; 8]],
}

impl<'a> Parts<'a> {
    /// Checks that the offsets rise and stay inside.
    pub fn new(py: Python<'_>, data: &'a [u8], offsets: &'a [[u8; 8]]) -> PyResult<Self> {
        let rising = offsets
            .windows(2)
            .all(|two| u64::from_le_bytes(two[0]) <= u64::from_le_bytes(two[1]));
        match offsets.last() {
            None => Err(input_invalid(
                py,
                "offsets is empty: n parts have n + 1 offsets",
            )),
            Some(last) if u64::from_le_bytes(*last) > data.len() as u64 => {
                Err(input_invalid(py, "offsets lead past the end of data"))
            }
            Some(_) if !rising => Err(input_invalid(py, "offsets fall")),
            Some(_) => Ok(Self { data, offsets }),
        }
    }

    /// Number of parts.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// One part. What was checked may have been written to since: offsets that lead nowhere give no bytes.
    pub fn get(&self, index: usize) -> &'a [u8] {
        let part = || {
            let two = self.offsets.get(index..)?.first_chunk::<2>()?;
            let [begin, end] = two.map(|offset| usize::try_from(u64::from_le_bytes(offset)).ok());
            self.data.get(begin?..end?)
        };
        part().unwrap_or_default()
    }

    /// The parts in steps between which signals are heard: each of at most `count` parts, none of which has more than
    /// `bytes`, and of `threads` times as many bytes in all; or of one part that has more.
    pub fn steps(
        &self,
        count: usize,
        bytes: usize,
        threads: usize,
    ) -> impl Iterator<Item = Step<'a>> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = next;
            let mut sum = 0;
            while next < self.len() && next - first < count {
                let part = self.get(next).len();
                if part > bytes || part > bytes * threads - sum {
                    break;
                }
                sum += part;
                next += 1;
            }
            if next > first {
                return Some(Step::Many(first..next, sum));
            }
            next += usize::from(first < self.len());
            (next > first).then(|| Step::Long(first, self.get(first)))
        })
    }
}

/// What is done at a time.
pub enum Step<'a> {
    /// Parts of these numbers, with so many bytes together.
    Many(Range<usize>, usize),
    /// A part that is too long for one step.
    Long(usize, &'a [u8]),
}

fn export(object: &Bound<'_, PyAny>, name: &str) -> PyResult<PyUntypedBuffer> {
    let py = object.py();
    let buffer = match exported(object) {
        Ok(buffer) => buffer,
        Err(error) if error.is_instance_of::<PyTypeError>(py) => return Err(error),
        // A memoryview that was released, an mmap that was closed, an exporter that refuses.
        Err(error) => {
            return Err(input_invalid(
                py,
                format!("{name} cannot be read: {}", error.value(py)),
            ))
        }
    };
    if !buffer.is_c_contiguous() {
        return Err(input_invalid(py, format!("{name} is not contiguous")));
    }
    Ok(buffer)
}

/// The buffer of any object that has one and holds no references, which to write over would end the process.
///
/// PyO3 takes none without shape or strides, as those of ctypes are; a memoryview fills them in, or has one of bytes.
pub fn exported(object: &Bound<'_, PyAny>) -> PyResult<PyUntypedBuffer> {
    let error = match PyUntypedBuffer::get(object) {
        Ok(buffer) => return check_format(buffer.format().to_bytes()).map(|()| buffer),
        Err(error) if error.is_instance_of::<PyBufferError>(object.py()) => error,
        Err(error) => return Err(error),
    };
    let view = PyMemoryView::from(object)?;
    check_format(view.getattr("format")?.extract::<String>()?.as_bytes())?;
    PyUntypedBuffer::get(&view)
        .or_else(|_| PyUntypedBuffer::get(&view.call_method1("cast", ("B",))?))
        .map_err(|_| error)
}

fn check_format(format: &[u8]) -> PyResult<()> {
    // Names of fields stand between colons.
    let mut codes = format.split(|byte| *byte == b':').step_by(2);
    if codes.any(|codes| codes.contains(&b'O')) {
        let message = "the buffer is one of references to objects";
        return Err(PyBufferError::new_err(message));
    }
    Ok(())
}

/// Runs `work`, without the interpreter when it takes about `cost_ns` of more than 20 us. A panic is `KernelPanicked`:
/// PyO3 would make a BaseException of it, which no caller expects.
pub fn run<T: Send>(py: Python<'_>, cost_ns: u64, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    let guarded = || erasure::guard(|| Ok(work()));
    let done = if cost_ns >= RELEASE_NS {
        py.detach(guarded)
    } else {
        guarded()
    };
    done.map_err(|error| errors::erasure(py, error))
}
