//! `native._rust.ErasureCode`: buffers in, buffers out; the facade is `native/erasure.py`.

use erasure::{Code, Error, Matrix, Path, Repair, Source, Target, Task};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyList};

use crate::buffer::exported;
use crate::errors;

/// Work that is expected to take longer lets go of the interpreter; below it letting go costs more than it gives.
const DETACH_US_MIN: usize = 20;
/// Work that is done between two looks at signals, so that Ctrl-C ends a call on gigabytes.
const WINDOW_US: usize = 20_000;
/// Bytes that a thread reads and writes between two such looks, however fast it is expected to be: memory that is touched
/// for the first time is 20 times slower than the kernels.
const WINDOW_BYTES: usize = 1 << 24;
/// So many threads at most lengthen what is done between two looks: more may be more than there are processors.
const WINDOW_THREADS: usize = 4;
/// Parts of a shard meet at a multiple of this.
const WINDOW_ALIGN: usize = 4096;

/// What `ZOS_ERASURE_PATH` asked for, given by the facade once.
static CHOSEN: PyOnceLock<Path> = PyOnceLock::new();

/// The path of codes that name none.
pub fn chosen(py: Python<'_>) -> Option<Path> {
    CHOSEN.get(py).copied()
}

/// Shards as Python gave them, exported until this is dropped: a bytearray cannot change its size meanwhile.
struct Shards(Vec<PyUntypedBuffer>);

impl Shards {
    /// Of anything that can be iterated over.
    fn of(items: &Bound<'_, PyAny>, writable: bool) -> PyResult<Self> {
        let mut shards = Vec::with_capacity(items.len().unwrap_or(0).min(erasure::SHARDS_MAX));
        for item in items.try_iter()? {
            shards.push(buffer(&item?, writable)?);
            if shards.len() > erasure::SHARDS_MAX {
                let text = format!("more than {} buffers", erasure::SHARDS_MAX);
                return Err(errors::erasure(items.py(), Error::Count(text)));
            }
        }
        Ok(Self(shards))
    }

    fn sources(&self) -> Vec<Source<'_>> {
        self.0.iter().map(source).collect()
    }

    fn targets(&mut self) -> Vec<Target<'_>> {
        self.0.iter_mut().map(target).collect()
    }
}

fn buffer(item: &Bound<'_, PyAny>, writable: bool) -> PyResult<PyUntypedBuffer> {
    let py = item.py();
    let buffer = match exported(item) {
        Ok(buffer) => buffer,
        // Of a closed memoryview or mmap: ValueError; of what is no buffer: TypeError.
        Err(error)
            if error.is_instance_of::<PyValueError>(py)
                || error.is_instance_of::<PyTypeError>(py)
                || error.is_instance_of::<PyBufferError>(py) =>
        {
            return Err(errors::buffer_unusable(py, &error.value(py).to_string()));
        }
        Err(error) => return Err(error),
    };
    if !buffer.is_c_contiguous() {
        return Err(errors::buffer_unusable(
            py,
            "a shard's buffer is not contiguous",
        ));
    }
    if writable && buffer.readonly() {
        return Err(errors::buffer_unusable(
            py,
            "an output's buffer is read-only",
        ));
    }
    Ok(buffer)
}

fn source(buffer: &PyUntypedBuffer) -> Source<'_> {
    // SAFETY: the buffer is contiguous, and exported for as long as it is borrowed.
    unsafe { Source::new(buffer.buf_ptr().cast(), buffer.len_bytes()) }
}

fn target(buffer: &mut PyUntypedBuffer) -> Target<'_> {
    // SAFETY: as above, and `buffer` saw that it is writable.
    unsafe { Target::new(buffer.buf_ptr().cast(), buffer.len_bytes()) }
}

/// A number that may be too large or negative for one of ours: such a one is out of every limit.
pub fn whole(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    match value.extract::<isize>() {
        Ok(value) => Ok(usize::try_from(value).unwrap_or(usize::MAX)),
        Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => Ok(usize::MAX),
        Err(error) => Err(error),
    }
}

/// Indexes of shards, not more than a code can have.
pub fn indexes(items: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    let mut all = Vec::with_capacity(items.len().unwrap_or(0).min(erasure::SHARDS_MAX));
    for item in items.try_iter()? {
        all.push(whole(&item?)?);
        if all.len() > erasure::SHARDS_MAX {
            let text = format!("more than {} indexes", erasure::SHARDS_MAX);
            return Err(errors::erasure(items.py(), Error::Index(text)));
        }
    }
    Ok(all)
}

/// Runs a checked call: briefly with the interpreter held, else without it, and with a look at signals now and then.
fn run(py: Python<'_>, task: Result<Task<'_>, Error>) -> PyResult<u32> {
    let task = task.map_err(|error| errors::erasure(py, error))?;
    let expected_us = task.expected_us();
    if expected_us < DETACH_US_MIN {
        return erasure::guard(|| task.run(0..usize::MAX))
            .map_err(|error| errors::erasure(py, error));
    }
    let by_time = task.length() / (expected_us / WINDOW_US).max(1);
    let window = by_time
        .min(WINDOW_BYTES / task.shards())
        .max(1)
        .saturating_mul(task.threads().min(WINDOW_THREADS))
        .next_multiple_of(WINDOW_ALIGN);
    let (mut at, mut answer) = (0, 0);
    loop {
        let end = at + window;
        answer |= py
            .detach(|| erasure::guard(|| task.run(at..end)))
            .map_err(|error| errors::erasure(py, error))?;
        if end >= task.length() {
            return Ok(answer);
        }
        at = end;
        py.check_signals()?;
    }
}

/// See `native/erasure.py`.
#[pyclass(module = "native._rust", frozen)]
struct ErasureCode {
    code: Code,
}

impl ErasureCode {
    fn repair(&self, py: Python<'_>, indexes: &[usize], lost: &[usize]) -> PyResult<Repair> {
        let mut repair = self
            .code
            .repair(indexes, lost)
            .map_err(|error| errors::erasure(py, error))?;
        if repair.is_pending() && !lost.is_empty() {
            py.detach(|| erasure::guard(|| self.code.solve(&mut repair)))
                .map_err(|error| errors::erasure(py, error))?;
            self.code.keep(&repair);
        }
        Ok(repair)
    }

    fn reconstruct_shards(
        &self,
        py: Python<'_>,
        repair: &Repair,
        (indexes, shards): (&[usize], &Shards),
        (lost, out): (&[usize], &mut Shards),
        threads: usize,
    ) -> PyResult<()> {
        let task = self.code.reconstruct(
            repair,
            (indexes, shards.sources()),
            (lost, out.targets()),
            threads,
        );
        match task.transpose() {
            Some(task) => run(py, task).map(|_| ()),
            None => Ok(()),
        }
    }
}

/// `count` new bytearrays, and the same as buffers.
fn fresh<'py>(
    py: Python<'py>,
    count: usize,
    length: usize,
) -> PyResult<(Bound<'py, PyList>, Shards)> {
    let made = PyList::empty(py);
    for _ in 0..count {
        made.append(PyByteArray::new_with(py, length, |_| Ok(()))?)?;
    }
    let shards = Shards::of(made.as_any(), true)?;
    Ok((made, shards))
}

#[pymethods]
impl ErasureCode {
    #[new]
    #[pyo3(signature = (k, m, *, matrix = "cauchy", path = None, streaming = None))]
    fn new(
        py: Python<'_>,
        k: &Bound<'_, PyAny>,
        m: &Bound<'_, PyAny>,
        matrix: &str,
        path: Option<&str>,
        streaming: Option<bool>,
    ) -> PyResult<Self> {
        let (k, m) = (whole(k)?, whole(m)?);
        let chosen = chosen(py);
        let make = || {
            let known =
                || Error::Shape(format!("no matrix {matrix:?}; known: cauchy, vandermonde"));
            let matrix = Matrix::from_name(matrix).ok_or_else(known)?;
            let path = path.map(Path::from_name).transpose()?.or(chosen);
            Code::new(k, m, matrix, path, streaming)
        };
        py.detach(|| erasure::guard(make))
            .map(|code| Self { code })
            .map_err(|error| errors::erasure(py, error))
    }

    #[getter]
    fn k(&self) -> usize {
        self.code.k()
    }

    #[getter]
    fn m(&self) -> usize {
        self.code.m()
    }

    #[getter]
    fn path(&self) -> &'static str {
        self.code.path().name()
    }

    #[getter]
    fn factors<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.code.parity_rows())
    }

    #[pyo3(signature = (data, *, threads = None))]
    fn encode<'py>(
        &self,
        data: &Bound<'py, PyAny>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let (py, threads) = (data.py(), threads.map_or(Ok(1), whole)?);
        let data = Shards::of(data, false)?;
        let length = self
            .code
            .parity_length(&data.sources(), threads)
            .map_err(|error| errors::erasure(py, error))?;
        let (made, mut parity) = fresh(py, self.code.m(), length)?;
        run(
            py,
            self.code.encode(data.sources(), parity.targets(), threads),
        )?;
        Ok(made)
    }

    #[pyo3(signature = (data, parity, *, threads = None))]
    fn encode_into(
        &self,
        data: &Bound<'_, PyAny>,
        parity: &Bound<'_, PyAny>,
        threads: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, threads) = (data.py(), threads.map_or(Ok(1), whole)?);
        let data = Shards::of(data, false)?;
        let mut parity = Shards::of(parity, true)?;
        run(
            py,
            self.code.encode(data.sources(), parity.targets(), threads),
        )
        .map(|_| ())
    }

    #[pyo3(signature = (indexes, shards, lost, *, threads = None))]
    fn reconstruct<'py>(
        &self,
        indexes: &Bound<'py, PyAny>,
        shards: &Bound<'py, PyAny>,
        lost: &Bound<'py, PyAny>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let (py, threads) = (shards.py(), threads.map_or(Ok(1), whole)?);
        let (indexes, lost) = (self::indexes(indexes)?, self::indexes(lost)?);
        let shards = Shards::of(shards, false)?;
        let repair = self.repair(py, &indexes, &lost)?;
        let length = self
            .code
            .lost_length((&indexes, &shards.sources()), &lost, threads)
            .map_err(|error| errors::erasure(py, error))?;
        let (made, mut out) = fresh(py, lost.len(), length)?;
        self.reconstruct_shards(py, &repair, (&indexes, &shards), (&lost, &mut out), threads)?;
        Ok(made)
    }

    #[pyo3(signature = (indexes, shards, lost, out, *, threads = None))]
    fn reconstruct_into(
        &self,
        indexes: &Bound<'_, PyAny>,
        shards: &Bound<'_, PyAny>,
        lost: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
        threads: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, threads) = (shards.py(), threads.map_or(Ok(1), whole)?);
        let (indexes, lost) = (self::indexes(indexes)?, self::indexes(lost)?);
        let shards = Shards::of(shards, false)?;
        let mut out = Shards::of(out, true)?;
        let repair = self.repair(py, &indexes, &lost)?;
        self.reconstruct_shards(py, &repair, (&indexes, &shards), (&lost, &mut out), threads)
    }

    #[pyo3(signature = (index, old, new, parity, *, threads = None))]
    fn update(
        &self,
        index: &Bound<'_, PyAny>,
        old: &Bound<'_, PyAny>,
        new: &Bound<'_, PyAny>,
        parity: &Bound<'_, PyAny>,
        threads: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, threads) = (parity.py(), threads.map_or(Ok(1), whole)?);
        let (index, old, new) = (whole(index)?, buffer(old, false)?, buffer(new, false)?);
        let mut parity = Shards::of(parity, true)?;
        let task = self
            .code
            .update(index, source(&old), source(&new), parity.targets(), threads);
        run(py, task).map(|_| ())
    }

    #[pyo3(signature = (data, parity, *, threads = None))]
    fn verify(
        &self,
        data: &Bound<'_, PyAny>,
        parity: &Bound<'_, PyAny>,
        threads: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<usize>> {
        let (py, threads) = (data.py(), threads.map_or(Ok(1), whole)?);
        let (data, parity) = (Shards::of(data, false)?, Shards::of(parity, false)?);
        let wrong = run(
            py,
            self.code.verify(data.sources(), parity.sources(), threads),
        )?;
        let k = self.code.k();
        Ok((0..self.code.m())
            .filter(|row| wrong >> row & 1 == 1)
            .map(|row| k + row)
            .collect())
    }
}

/// Chooses the path of codes that name none; the facade calls it once.
#[pyfunction]
#[pyo3(signature = (name))]
fn erasure_choose_path(py: Python<'_>, name: Option<&str>) -> PyResult<&'static str> {
    let path = match name {
        None | Some("") => Path::best(),
        Some(name) => Path::from_name(name).map_err(|error| errors::erasure(py, error))?,
    };
    Ok(CHOSEN.get_or_init(py, || path).name())
}

/// The paths that this machine can run, the fastest first.
#[pyfunction]
fn erasure_paths() -> Vec<&'static str> {
    let paths = Path::ALL.into_iter();
    paths
        .filter(|path| path.is_available())
        .map(Path::name)
        .collect()
}

/// For `bench/`: XORs all of `data` into each of `out`.
#[pyfunction]
#[pyo3(signature = (data, out, *, streaming))]
fn erasure_roofline(
    data: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    streaming: bool,
) -> PyResult<()> {
    let py = data.py();
    let (data, mut out) = (Shards::of(data, false)?, Shards::of(out, true)?);
    let (sources, targets) = (data.sources(), out.targets());
    py.detach(|| erasure::guard(|| erasure::roofline(&sources, &targets, streaming)))
        .map_err(|error| errors::erasure(py, error))
}

/// Registers the class and the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ErasureCode>()?;
    module.add_function(wrap_pyfunction!(erasure_choose_path, module)?)?;
    module.add_function(wrap_pyfunction!(erasure_paths, module)?)?;
    module.add_function(wrap_pyfunction!(erasure_roofline, module)?)
}
