//! Merkle trees: flat buffers in, bytes out; the facade is `native/merkle.py`.

use merkle::{Edge, Error, Hash, Leaf, HASH_BYTES};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::{run, Input, Parts, Step};
use crate::errors;
use crate::number::Count;

/// About what hashing an inner node costs.
const NODE_NS: u64 = 100;
/// About what it costs to say how long a proof is.
const LENGTH_NS: u64 = 5;
/// About what a leaf costs beside its bytes, and how many bytes pass in a nanosecond.
const LEAF_NS: u64 = 60;
/// Hashes, or proofs, between two looks for signals: some milliseconds.
const STEP: usize = 1 << 15;
/// Bytes of leaves between two looks for signals.
const STEP_BYTES: usize = 1 << 24;

mod classes {
    pyo3::import_exception!(native.merkle, ProofInvalid);
}

fn raise(py: Python<'_>, error: Error, index: Option<u64>) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Argument(_) => errors::input_invalid(py, message),
        Error::Length { .. } | Error::Mismatch(_) => {
            errors::at_index(py, py.get_type::<classes::ProofInvalid>(), message, index)
        }
    }
}

fn flat<'py>(py: Python<'py>, hashes: &[Hash]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, hashes.as_flattened())
}

/// The hashes that `make` finds in nodes: at most 96, less than releasing the interpreter is worth.
fn from_nodes<'py, H: AsRef<[Hash]>>(
    nodes: &Bound<'py, PyAny>,
    make: impl FnOnce(&[Hash]) -> Result<H, Error>,
) -> PyResult<Bound<'py, PyBytes>> {
    let py = nodes.py();
    let nodes = Input::new(nodes, "nodes")?;
    let found = make(nodes.items(py, "nodes")?).map_err(|error| raise(py, error, None))?;
    Ok(flat(py, found.as_ref()))
}

#[pyfunction]
#[pyo3(name = "merkle_hash_leaves")]
fn hash_leaves<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    offsets: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let data = Input::new(data, "data")?;
    let offsets = Input::new(offsets, "offsets")?;
    let parts = Parts::new(py, data.bytes(), offsets.numbers(py, "offsets")?)?;
    PyBytes::new_with(py, parts.len() * HASH_BYTES, |out| {
        let (hashes, _) = out.as_chunks_mut::<HASH_BYTES>();
        for step in parts.steps(STEP, STEP_BYTES, 1) {
            match step {
                Step::Many(some, bytes) => {
                    let cost_ns = bytes as u64 + some.len() as u64 * LEAF_NS;
                    run(py, cost_ns, || {
                        for (hash, index) in hashes[some.clone()].iter_mut().zip(some) {
                            *hash = merkle::hash_leaf(parts.get(index));
                        }
                    })?;
                }
                Step::Long(index, part) => {
                    let mut leaf = Leaf::default();
                    for some in part.chunks(STEP_BYTES) {
                        run(py, some.len() as u64, || leaf.update(some))?;
                        py.check_signals()?;
                    }
                    hashes[index] = leaf.hash();
                }
            }
            py.check_signals()?;
        }
        Ok(())
    })
}

#[pyfunction]
#[pyo3(name = "merkle_node_count")]
fn node_count(py: Python<'_>, size: Count) -> PyResult<u64> {
    merkle::node_count(size.0).map_err(|error| raise(py, error, None))
}

#[pyfunction]
#[pyo3(name = "merkle_extend")]
fn extend<'py>(
    py: Python<'py>,
    nodes: &Bound<'py, PyAny>,
    size: Count,
    leaves: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let nodes = Input::new(nodes, "nodes")?;
    let leaves = Input::new(leaves, "leaves")?;
    let leaves = leaves.items::<HASH_BYTES>(py, "leaves")?;
    let refused = |error| raise(py, error, None);
    let mut edge = Edge::new(nodes.items(py, "nodes")?, size.0).map_err(refused)?;
    let growth = edge.growth(leaves.len()).map_err(refused)?;
    PyBytes::new_with(py, growth * HASH_BYTES, |out| {
        let (mut fresh, _) = out.as_chunks_mut::<HASH_BYTES>();
        for some in leaves.chunks(STEP) {
            let (now, later) = fresh.split_at_mut(edge.growth(some.len()).map_err(refused)?);
            run(py, some.len() as u64 * NODE_NS, || edge.add(some, now))?.map_err(refused)?;
            py.check_signals()?;
            fresh = later;
        }
        Ok(())
    })
}

#[pyfunction]
#[pyo3(name = "merkle_root")]
fn root<'py>(nodes: &Bound<'py, PyAny>, size: Count) -> PyResult<Bound<'py, PyBytes>> {
    from_nodes(nodes, |nodes| {
        merkle::root(nodes, size.0).map(|root| [root])
    })
}

#[pyfunction]
#[pyo3(name = "merkle_inclusion_proof")]
fn inclusion_proof<'py>(
    nodes: &Bound<'py, PyAny>,
    size: Count,
    index: Count,
) -> PyResult<Bound<'py, PyBytes>> {
    from_nodes(nodes, |nodes| merkle::inclusion(nodes, size.0, index.0))
}

#[pyfunction]
#[pyo3(name = "merkle_inclusion_proofs")]
fn inclusion_proofs<'py>(
    py: Python<'py>,
    nodes: &Bound<'py, PyAny>,
    size: Count,
    indices: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let nodes = Input::new(nodes, "nodes")?;
    let nodes = nodes.items(py, "nodes")?;
    let indices = Input::new(indices, "indices")?;
    let indices = indices.numbers(py, "indices")?;
    let refused = |error| raise(py, error, None);
    let mut length = 0;
    for some in indices.chunks(STEP) {
        length += run(py, some.len() as u64 * LENGTH_NS, || {
            some.iter().try_fold(0, |sum, index| {
                merkle::inclusion_length(size.0, u64::from_le_bytes(*index)).map(|one| sum + one)
            })
        })?
        .map_err(refused)?;
        py.check_signals()?;
    }
    PyBytes::new_with(py, length * HASH_BYTES, |out| {
        let (mut rest, _) = out.as_chunks_mut::<HASH_BYTES>();
        for some in indices.chunks(STEP) {
            let mut prove = || {
                for index in some {
                    let index = u64::from_le_bytes(*index);
                    let length = merkle::inclusion_length(size.0, index)?;
                    // An index that was written to meanwhile may ask for more than there is room for.
                    let proof = rest
                        .split_off_mut(..length)
                        .ok_or(Error::Argument("indices changed meanwhile"))?;
                    merkle::inclusion_into(nodes, size.0, index, proof)?;
                }
                Ok(())
            };
            run(py, some.len() as u64 * NODE_NS, &mut prove)?.map_err(refused)?;
            py.check_signals()?;
        }
        Ok(())
    })
}

#[pyfunction]
#[pyo3(name = "merkle_consistency_proof")]
fn consistency_proof<'py>(
    nodes: &Bound<'py, PyAny>,
    old_size: Count,
    size: Count,
) -> PyResult<Bound<'py, PyBytes>> {
    from_nodes(nodes, |nodes| {
        merkle::consistency(nodes, old_size.0, size.0)
    })
}

#[pyfunction]
#[pyo3(name = "merkle_verify_inclusion")]
fn verify_inclusion(
    py: Python<'_>,
    root: &Bound<'_, PyAny>,
    size: Count,
    index: Count,
    leaf: &Bound<'_, PyAny>,
    proof: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let root = Input::new(root, "root")?;
    let leaf = Input::new(leaf, "leaf")?;
    let proof = Input::new(proof, "proof")?;
    merkle::verify_inclusion(
        root.item(py, "root")?,
        size.0,
        index.0,
        leaf.item(py, "leaf")?,
        proof.items(py, "proof")?,
    )
    .map_err(|error| raise(py, error, Some(index.0)))
}

#[pyfunction]
#[pyo3(name = "merkle_verify_inclusions")]
fn verify_inclusions(
    py: Python<'_>,
    root: &Bound<'_, PyAny>,
    size: Count,
    indices: &Bound<'_, PyAny>,
    leaves: &Bound<'_, PyAny>,
    proofs: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let root = Input::new(root, "root")?;
    let root = root.item(py, "root")?;
    let indices = Input::new(indices, "indices")?;
    let indices = indices.numbers(py, "indices")?;
    let leaves = Input::new(leaves, "leaves")?;
    let leaves = leaves.items(py, "leaves")?;
    let proofs = Input::new(proofs, "proofs")?;
    let mut rest = proofs.items::<HASH_BYTES>(py, "proofs")?;
    if indices.len() != leaves.len() {
        let message = format!("{} indices and {} leaves", indices.len(), leaves.len());
        return Err(errors::input_invalid(py, message));
    }
    let height = u64::from(size.0.checked_ilog2().unwrap_or(0)) + 1;
    for (some, leaves) in indices.chunks(STEP).zip(leaves.chunks(STEP)) {
        let cost_ns = some.len() as u64 * height * NODE_NS;
        let outcome = run(py, cost_ns, || {
            for (index, leaf) in some.iter().zip(leaves) {
                let index = u64::from_le_bytes(*index);
                let verify = || {
                    let length = merkle::inclusion_length(size.0, index)?;
                    let (proof, others) = rest.split_at(length.min(rest.len()));
                    merkle::verify_inclusion(root, size.0, index, leaf, proof)?;
                    Ok(others)
                };
                rest = verify().map_err(|error| (error, index))?;
            }
            Ok(())
        })?;
        outcome.map_err(|(error, index)| raise(py, error, Some(index)))?;
        py.check_signals()?;
    }
    if !rest.is_empty() {
        let message = format!("{} hashes behind the last proof", rest.len());
        return Err(errors::input_invalid(py, message));
    }
    Ok(())
}

#[pyfunction]
#[pyo3(name = "merkle_verify_consistency")]
fn verify_consistency(
    py: Python<'_>,
    old_root: &Bound<'_, PyAny>,
    old_size: Count,
    root: &Bound<'_, PyAny>,
    size: Count,
    proof: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let old_root = Input::new(old_root, "old_root")?;
    let root = Input::new(root, "root")?;
    let proof = Input::new(proof, "proof")?;
    merkle::verify_consistency(
        old_root.item(py, "old_root")?,
        old_size.0,
        root.item(py, "root")?,
        size.0,
        proof.items(py, "proof")?,
    )
    .map_err(|error| raise(py, error, None))
}

/// Registers the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(hash_leaves, module)?)?;
    module.add_function(wrap_pyfunction!(node_count, module)?)?;
    module.add_function(wrap_pyfunction!(extend, module)?)?;
    module.add_function(wrap_pyfunction!(root, module)?)?;
    module.add_function(wrap_pyfunction!(inclusion_proof, module)?)?;
    module.add_function(wrap_pyfunction!(inclusion_proofs, module)?)?;
    module.add_function(wrap_pyfunction!(consistency_proof, module)?)?;
    module.add_function(wrap_pyfunction!(verify_inclusion, module)?)?;
    module.add_function(wrap_pyfunction!(verify_inclusions, module)?)?;
    module.add_function(wrap_pyfunction!(verify_consistency, module)?)?;
    Ok(())
}
