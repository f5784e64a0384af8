//! The one extension module of zos: `native._rust`.
//!
//! Nothing but registration here. Each kernel has its own `bind_*.rs`, which converts arguments, detaches from the
//! interpreter while it works and maps errors; the logic lies in the crates below `crates/`. Only the facades in
//! `native/*.py` import this module.

use pyo3::prelude::*;

mod bind_erasure;
mod bind_fetch;
mod bind_hash;
mod bind_merkle;
mod bind_pack;
mod bind_pipeline;
mod bind_sign;
mod buffer;
mod errors;
mod interpreter;
mod number;

/// A function that adds the functions and classes of one kernel to the module.
type Register = fn(&Bound<'_, PyModule>) -> PyResult<()>;

/// Every kernel, in the order of its name. To add one: `mod bind_name;` above and its `register` here.
const KERNELS: &[Register] = &[
    bind_erasure::register,
    bind_fetch::register,
    bind_hash::register,
    bind_merkle::register,
    bind_pack::register,
    bind_pipeline::register,
    bind_sign::register,
    interpreter::register,
];

#[pymodule]
fn _rust(module: &Bound<'_, PyModule>) -> PyResult<()> {
    interpreter::require_main_interpreter(module.py())?;
    for register in KERNELS {
        register(module)?;
    }
    Ok(())
}
