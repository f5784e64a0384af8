"""Compile one cffi unit in place: `cffi_unit.py build_NAME.py PRODUCT.so`.

The builder script defines `ffibuilder`, an `FFI` on which `cdef` and `set_source("native.ffi._NAME", ...)` were
called; API mode, so the C compiler supplies layouts and numbers.
"""

from __future__ import annotations

import runpy
import sys
import tempfile
from pathlib import Path

from cffi import FFI


def main(source: Path, product: Path) -> None:
    """Run the builder, compile, move into place."""
    sys.path.insert(0, str(source.parent))
    builder = runpy.run_path(str(source))["ffibuilder"]
    assert isinstance(builder, FFI)
    with tempfile.TemporaryDirectory(prefix="zos-cffi-") as scratch:
        made = Path(builder.compile(tmpdir=scratch, verbose=False))
        fresh = product.with_name(f".{product.name}.new")
        fresh.write_bytes(made.read_bytes())
        fresh.chmod(0o755)
        fresh.replace(product)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
