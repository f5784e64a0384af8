"""ISA-L, the oracle of the erasure code: the library inside of pyeclib's wheel, or one of the system, by cffi."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cffi
import pytest

__all__ = ["Isal", "load"]

_DEFINITIONS = """
void gf_gen_cauchy1_matrix(unsigned char *a, int m, int k);
void ec_init_tables(int k, int rows, unsigned char *a, unsigned char *gftbls);
void ec_encode_data(int len, int k, int rows, unsigned char *gftbls, unsigned char **data, unsigned char **coding);
void ec_encode_data_update(int len, int k, int rows, int vec_i, unsigned char *g_tbls, unsigned char *data,
                           unsigned char **coding);
"""
SYSTEM = (
    "/usr/lib/x86_64-linux-gnu/libisal.so.2",
    "/usr/lib/aarch64-linux-gnu/libisal.so.2",
    "/usr/lib64/libisal.so.2",
)


def _candidates() -> list[Path]:
    spec = importlib.util.find_spec("pyeclib_c")
    wheel = [] if spec is None or spec.origin is None else Path(spec.origin).parent.glob("pyeclib.libs/libisal*.so.2")
    return [*wheel, *(Path(path) for path in SYSTEM if Path(path).exists())]


class Isal:
    """The calls of ISA-L that we compare with."""

    def __init__(self, path: Path) -> None:
        self._ffi = cffi.FFI()
        self._ffi.cdef(_DEFINITIONS)
        self._library: Any = self._ffi.dlopen(str(path))

    def matrix(self, k: int, m: int) -> bytes:
        """`gf_gen_cauchy1_matrix`: k + m rows of k factors."""
        cells = self._ffi.new("unsigned char[]", (k + m) * k)
        self._library.gf_gen_cauchy1_matrix(cells, k + m, k)
        return bytes(self._ffi.buffer(cells))

    def encode(self, data: Sequence[bytes], m: int) -> list[bytes]:
        """`ec_encode_data` with the Cauchy matrix."""
        k, length = len(data), len(data[0])
        tables = self._ffi.new("unsigned char[]", 32 * k * m)
        rows = self._ffi.new("unsigned char[]", self.matrix(k, m)[k * k :])
        self._library.ec_init_tables(k, m, rows, tables)
        inputs = [self._ffi.new("unsigned char[]", shard) for shard in data]
        outputs = [self._ffi.new("unsigned char[]", length) for _ in range(m)]
        self._library.ec_encode_data(
            length,
            k,
            m,
            tables,
            self._ffi.new("unsigned char *[]", inputs),
            self._ffi.new("unsigned char *[]", outputs),
        )
        return [bytes(self._ffi.buffer(output)) for output in outputs]


def load() -> Isal:
    """ISA-L, or the test is skipped."""
    for path in _candidates():
        return Isal(path)
    pytest.skip("no ISA-L here: neither pyeclib's wheel nor libisal2 of the system")
