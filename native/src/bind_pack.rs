//! `native._rust.Packer`: flat arrays in, flat arrays out; the facade is `native/pack.py`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors;

/// `<QqII`: size, seconds and nanoseconds of mtime, length of the path.
const FILE_SIZE: usize = 24;
/// `<IIQ`: file, length, offset.
const PART_SIZE: usize = 16;
/// `<II`: number of parts, 1 if a piece of a large file.
const UNIT_SIZE: usize = 8;
/// `<32sIIII`: hash, length, pack, offset, stored length.
const EMITTED_SIZE: usize = 48;

/// See `native/pack.py`.
#[pyclass(module = "native._rust")]
struct Packer {
    inner: Option<pack::Packer>,
}

#[pymethods]
impl Packer {
    #[new]
    #[pyo3(signature = (directory, *, level, threads, known, pack_max))]
    fn new(
        py: Python<'_>,
        directory: &[u8],
        level: i32,
        threads: usize,
        known: &[u8],
        pack_max: u64,
    ) -> PyResult<Self> {
        let (hashes, rest) = known.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(PyValueError::new_err("known is not a list of digests"));
        }
        let options = pack::Options {
            level,
            threads,
            pack_max,
        };
        let directory = Path::new(OsStr::from_bytes(directory));
        pack::Packer::new(directory, options, hashes.iter().copied())
            .map(|inner| Self { inner: Some(inner) })
            .map_err(|error| errors::pack(py, error))
    }

    #[pyo3(signature = (root, paths, files, parts, units))]
    fn add<'py>(
        &mut self,
        py: Python<'py>,
        root: &[u8],
        paths: &[u8],
        files: &[u8],
        parts: &[u8],
        units: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let root = Path::new(OsStr::from_bytes(root));
        // After an error the packer is gone, and with it its state.
        let mut packer = self.take()?;
        let (packer, answer) = py
            .detach(|| {
                let files = parse_files(paths, files)?;
                let parts = parse_parts(parts)?;
                let units = parse_units(units, &parts)?;
                let addresses = packer.add(root, &files, &units)?;
                let answer: Vec<u8> = addresses.iter().flat_map(|a| a.to_le_bytes()).collect();
                Ok((packer, answer))
            })
            .map_err(|error| errors::pack(py, error))?;
        self.inner = Some(packer);
        Ok(PyBytes::new(py, &answer))
    }

    fn finish<'py>(
        &mut self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>, u64)> {
        let packer = self.take()?;
        let (packs, units, blocks) = py
            .detach(|| {
                let finished = packer.finish()?;
                let mut units = Vec::with_capacity(finished.units.len() * EMITTED_SIZE);
                for unit in &finished.units {
                    units.extend_from_slice(&unit.hash);
                    for field in [unit.length, unit.pack, unit.offset, unit.stored] {
                        units.extend_from_slice(&field.to_le_bytes());
                    }
                }
                Ok((finished.packs.concat(), units, finished.blocks))
            })
            .map_err(|error| errors::pack(py, error))?;
        Ok((PyBytes::new(py, &packs), PyBytes::new(py, &units), blocks))
    }
}

impl Packer {
    fn take(&mut self) -> PyResult<pack::Packer> {
        self.inner
            .take()
            .ok_or_else(|| PyValueError::new_err("the packer is finished, or an error ended it"))
    }
}

fn u32_at(record: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
}

fn u64_at(record: &[u8], at: usize) -> u64 {
    u64::from(u32_at(record, at)) | u64::from(u32_at(record, at + 4)) << 32
}

fn records<'a>(
    data: &'a [u8],
    size: usize,
    what: &'static str,
) -> Result<std::slice::ChunksExact<'a, u8>, pack::Error> {
    let records = data.chunks_exact(size);
    if !records.remainder().is_empty() {
        return Err(pack::Error::Argument(what));
    }
    Ok(records)
}

fn parse_files<'a>(mut paths: &'a [u8], files: &[u8]) -> Result<Vec<pack::File<'a>>, pack::Error> {
    let mut parsed = Vec::with_capacity(files.len() / FILE_SIZE);
    for record in records(files, FILE_SIZE, "files is not a list of records")? {
        let length = u32_at(record, 20) as usize;
        let Some((path, rest)) = paths.split_at_checked(length) else {
            return Err(pack::Error::Argument("paths is too short"));
        };
        paths = rest;
        parsed.push(pack::File {
            path,
            size: u64_at(record, 0),
            mtime_s: u64_at(record, 8) as i64,
            mtime_ns: u32_at(record, 16),
        });
    }
    if !paths.is_empty() {
        return Err(pack::Error::Argument("paths is too long"));
    }
    Ok(parsed)
}

fn parse_parts(parts: &[u8]) -> Result<Vec<pack::Part>, pack::Error> {
    Ok(records(parts, PART_SIZE, "parts is not a list of records")?
        .map(|record| pack::Part {
            file: u32_at(record, 0),
            length: u32_at(record, 4),
            offset: u64_at(record, 8),
        })
        .collect())
}

fn parse_units<'a>(
    units: &[u8],
    mut parts: &'a [pack::Part],
) -> Result<Vec<pack::Unit<'a>>, pack::Error> {
    let mut parsed = Vec::with_capacity(units.len() / UNIT_SIZE);
    for record in records(units, UNIT_SIZE, "units is not a list of records")? {
        let Some((own, rest)) = parts.split_at_checked(u32_at(record, 0) as usize) else {
            return Err(pack::Error::Argument("parts is too short"));
        };
        parts = rest;
        parsed.push(pack::Unit {
            parts: own,
            piece: u32_at(record, 4) == 1,
        });
    }
    if !parts.is_empty() {
        return Err(pack::Error::Argument("parts is too long"));
    }
    Ok(parsed)
}

/// Registers the class.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Packer>()
}
