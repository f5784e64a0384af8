//! `native._rust.Pipeline`: chunks in, slots out, and back; the facade is `native/pipeline.py`.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use pipeline::{guard, Cipher, Error, Open, Seal, Settings, Worker, KEY_BYTES};
use pyo3::prelude::*;

use crate::bind_erasure;
use crate::buffer::{run, Input, Output};
use crate::errors;
use crate::number;

/// Work of each thread between two looks for signals.
const STEP_NS: usize = 20_000_000;

/// See `native/pipeline.py`.
#[pyclass(module = "native._rust", frozen)]
struct Pipeline {
    line: pipeline::Pipeline,
    /// Who is not at work. Locked with the interpreter held and never for long, so that a fork finds it open.
    idle: Mutex<Vec<Worker>>,
}

impl Pipeline {
    /// Does a call step by step with workers of its own, hearing signals in between.
    ///
    /// `step` does the first so many chunks of a call and gives the rest.
    fn drive<C: Send>(
        &self,
        py: Python<'_>,
        (call, count): (C, usize),
        threads: usize,
        step: impl Fn(&mut [Worker], C, usize) -> Result<C, Error> + Sync,
    ) -> PyResult<()> {
        let mut workers = self.take(threads.min(count));
        let cost_ns = self.line.cost_ns();
        let most = (STEP_NS / cost_ns).max(1) * threads;
        let (mut left, mut rest) = (count, call);
        let done = loop {
            if left == 0 {
                break Ok(());
            }
            let some = left.min(most);
            let work = || step(&mut workers, rest, some);
            match run(py, (cost_ns * some) as u64, work) {
                Ok(Ok(others)) => rest = others,
                Ok(Err(error)) => break Err(errors::pipeline(py, error)),
                Err(panicked) => break Err(panicked),
            }
            left -= some;
            if let Err(signal) = py.check_signals() {
                break Err(signal);
            }
        };
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .append(&mut workers);
        done
    }

    fn take(&self, count: usize) -> Vec<Worker> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.len().saturating_sub(count);
        let mut workers = idle.split_off(kept);
        workers.resize_with(count, Worker::default);
        workers
    }

    /// Which shards are there; all, if nothing is said.
    fn have(&self, py: Python<'_>, indexes: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<bool>> {
        let count = self.line.shards();
        let Some(indexes) = indexes else {
            return Ok(vec![true; count]);
        };
        let mut have = vec![false; count];
        for index in bind_erasure::indexes(indexes)? {
            let wrong = |text| errors::erasure(py, erasure::Error::Index(text));
            let place = have.get_mut(index).ok_or_else(|| {
                wrong(format!(
                    "there is no shard {} of {count}",
                    erasure::Shown(index)
                ))
            })?;
            if std::mem::replace(place, true) {
                return Err(wrong(format!("shard {index} is named twice")));
            }
        }
        Ok(have)
    }
}

#[pymethods]
impl Pipeline {
    #[new]
    #[pyo3(signature = (*, chunk_bytes, level = None, cipher = None, key = None, k = None, m = None))]
    fn new(
        py: Python<'_>,
        chunk_bytes: &Bound<'_, PyAny>,
        level: Option<&Bound<'_, PyAny>>,
        cipher: Option<&str>,
        key: Option<&Bound<'_, PyAny>>,
        k: Option<&Bound<'_, PyAny>>,
        m: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let invalid = |text: &str| errors::input_invalid(py, text);
        let cipher = match (cipher, key) {
            (None, None) => None,
            (Some(name), Some(key)) => {
                let cipher = Cipher::from_name(name).ok_or_else(|| {
                    let known = Cipher::ALL.map(Cipher::name).join(", ");
                    invalid(&format!("no cipher {name:?}; known: {known}"))
                })?;
                Some((
                    cipher,
                    *Input::new(key, "key")?.item::<KEY_BYTES>(py, "key")?,
                ))
            }
            _ => return Err(invalid("a cipher has a key, and a key a cipher")),
        };
        let shape = match (k, m) {
            (None, None) => None,
            (Some(k), Some(m)) => Some((bind_erasure::whole(k)?, bind_erasure::whole(m)?)),
            _ => return Err(invalid("k and m are given together")),
        };
        let level = level.map(bind_erasure::whole).transpose()?;
        let settings = Settings {
            chunk_bytes: bind_erasure::whole(chunk_bytes)?,
            level: level.map(|level| i32::try_from(level).unwrap_or(i32::MAX)),
            cipher,
            shape,
            path: bind_erasure::chosen(py),
        };
        let line = guard(|| pipeline::Pipeline::new(&settings))
            .map_err(|error| errors::pipeline(py, error))?;
        Ok(Self {
            line,
            idle: Mutex::default(),
        })
    }

    #[getter]
    fn chunk_bytes(&self) -> usize {
        self.line.chunk_bytes()
    }

    #[getter]
    fn slot_bytes(&self) -> usize {
        self.line.slot_bytes()
    }

    #[getter]
    fn shards(&self) -> usize {
        self.line.shards()
    }

    #[pyo3(signature = (data, slots, lengths, *, digests = None, shard_digests = None, threads = 1))]
    #[allow(clippy::too_many_arguments)] // as many as Python's signature has
    fn seal_into(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        slots: &Bound<'_, PyAny>,
        lengths: &Bound<'_, PyAny>,
        digests: Option<&Bound<'_, PyAny>>,
        shard_digests: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = number::threads)] threads: usize,
    ) -> PyResult<usize> {
        let data = Input::new(data, "data")?;
        let mut slots = Output::new(slots, "slots", &[&data])?;
        let mut lengths = Output::new(lengths, "lengths", &[&data])?;
        let mut digests = Output::optional(digests, "digests", &[&data])?;
        let mut shard_digests = Output::optional(shard_digests, "shard_digests", &[&data])?;
        Output::apart(
            py,
            &[
                ("slots", Some(&slots)),
                ("lengths", Some(&lengths)),
                ("digests", digests.as_ref()),
                ("shard_digests", shard_digests.as_ref()),
            ],
        )?;
        let call = Seal::new(
            &self.line,
            data.bytes(),
            slots.bytes_mut(),
            lengths.items_mut(py, "lengths")?,
            Output::optional_items_mut(&mut digests, py, "digests")?,
            Output::optional_items_mut(&mut shard_digests, py, "shard_digests")?,
        )
        .map_err(|error| errors::pipeline(py, error))?;
        let count = call.chunks();
        self.drive(py, (call, count), threads, |workers, call, some| {
            let (now, later) = call.split(&self.line, some);
            self.line.seal(workers, now).map(|()| later)
        })?;
        Ok(count)
    }

    #[pyo3(signature = (slots, lengths, out, *, have = None, digests = None, shard_digests = None, threads = 1))]
    #[allow(clippy::too_many_arguments)] // as many as Python's signature has
    fn open_into(
        &self,
        py: Python<'_>,
        slots: &Bound<'_, PyAny>,
        lengths: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
        have: Option<&Bound<'_, PyAny>>,
        digests: Option<&Bound<'_, PyAny>>,
        shard_digests: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = number::threads)] threads: usize,
    ) -> PyResult<Vec<(usize, usize)>> {
        let slots = Input::new(slots, "slots")?;
        let lengths = Input::new(lengths, "lengths")?;
        let digests = Input::optional(digests, "digests")?;
        let shard_digests = Input::optional(shard_digests, "shard_digests")?;
        let mut inputs = vec![&slots, &lengths];
        inputs.extend(&digests);
        inputs.extend(&shard_digests);
        let mut out = Output::new(out, "out", &inputs)?;
        let have = self.have(py, have)?;
        let call = Open::new(
            &self.line,
            (slots.bytes(), lengths.items(py, "lengths")?),
            out.bytes_mut(),
            &have,
            Input::optional_items(&digests, py, "digests")?,
            Input::optional_items(&shard_digests, py, "shard_digests")?,
        )
        .map_err(|error| errors::pipeline(py, error))?;
        let count = call.chunks();
        let wrong = Mutex::new(Vec::new());
        self.drive(py, (call, count), threads, |workers, call, some| {
            let (now, later) = call.split(&self.line, some);
            let found = self.line.open(workers, now)?;
            if !found.is_empty() {
                let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
                wrong.extend(found.into_iter().map(|one| (one.chunk, one.shard)));
            }
            Ok(later)
        })?;
        Ok(wrong.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

thread_local! {
    static BARE: RefCell<pipeline::Bare> = RefCell::default();
}

/// For `bench/`: zstd alone, each chunk into the same `out`. How many bytes all frames have.
#[pyfunction]
fn pipeline_zstd(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    chunk_bytes: usize,
    level: i32,
) -> PyResult<usize> {
    let data = Input::new(data, "data")?;
    let mut out = Output::new(out, "out", &[&data])?;
    let (data, out) = (data.bytes(), out.bytes_mut());
    let work = || BARE.with_borrow_mut(|bare| bare.compress(data, chunk_bytes, level, out));
    py.detach(|| guard(work))
        .map_err(|error| errors::pipeline(py, error))
}

/// Registers the class and the function.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Pipeline>()?;
    module.add_function(wrap_pyfunction!(pipeline_zstd, module)?)
}
