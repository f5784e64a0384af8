"""Compile one Cython unit in place: `cython_unit.py SOURCE.pyx PRODUCT.so`.

C kernels beside it (`NAME*_impl.c`) are compiled into the same unit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Distribution, Extension

# binding, auto_pickle, autotestdict: without them mypy.stubtest has noise (design notes, `build`, Checks).
DIRECTIVES = {"language_level": 3, "binding": True, "auto_pickle": False, "autotestdict": False}


def main(source: Path, product: Path) -> None:
    """Translate, compile, move into place."""
    with tempfile.TemporaryDirectory(prefix="zos-cython-") as scratch:
        kernels = [str(kernel) for kernel in sorted(source.parent.glob(f"{source.stem}*_impl.c"))]
        extension = Extension(
            f"native.cy.{source.stem}",
            [str(source), *kernels],
            include_dirs=[str(source.parent)],
            extra_compile_args=["-O2", "-g0", "-Wall", "-Wextra", "-Wno-unused-parameter"],
            extra_link_args=["-Wl,-s"],
        )
        modules = cythonize(  # type: ignore[no-untyped-call]
            [extension], compiler_directives=DIRECTIVES, build_dir=scratch, quiet=True
        )
        distribution = Distribution({"ext_modules": modules})
        command = distribution.get_command_obj("build_ext")
        command.build_lib = scratch
        command.build_temp = scratch
        command.ensure_finalized()
        command.run()
        (made,) = Path(scratch).rglob(product.name)
        fresh = product.with_name(f".{product.name}.new")
        fresh.write_bytes(made.read_bytes())
        fresh.chmod(0o755)
        fresh.replace(product)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
