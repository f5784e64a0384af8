"""ISA-L in this process, by cffi: peer of the erasure code here, oracle in the tests.

Debian 12's 2.30 has no GFNI and is a third as fast: a comparison wants 2.31 or newer, an oracle takes any.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cffi

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Isal", "candidates", "find"]

_DEFINITIONS: Final = """
void gf_gen_cauchy1_matrix(unsigned char *a, int m, int k);
void ec_init_tables(int k, int rows, unsigned char *a, unsigned char *gftbls);
void ec_encode_data(int len, int k, int rows, unsigned char *gftbls, unsigned char **data, unsigned char **coding);
"""
GFNI_SYMBOL: Final = b"ec_encode_data_avx2_gfni"
"""What 2.31 has and 2.30 has not; the library does not tell its version."""
_PLACES: Final = (
    Path.home() / ".cache/zos/bench/peers",
    Path("/usr/lib/x86_64-linux-gnu"),
    Path("/usr/lib/aarch64-linux-gnu"),
    Path("/usr/lib64"),
)


def candidates() -> list[Path]:
    """Libraries of ISA-L: what `zos bench peers install` unpacked, the system's, the one in pyeclib's wheel."""
    found = []
    for place in _PLACES:
        pattern = "**/libisal.so.2" if place.name == "peers" else "libisal.so.2"
        found += sorted(place.glob(pattern))
    spec = importlib.util.find_spec("pyeclib_c")
    if spec is not None and spec.origin is not None:
        found += sorted(Path(spec.origin).parent.glob("pyeclib.libs/libisal*.so.2"))
    return found


def find() -> Path | None:
    """The first one that is 2.31 or newer."""
    return next((path for path in candidates() if GFNI_SYMBOL in path.read_bytes()), None)


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

    def encoder(self, data: Sequence[Buffer], parity: Sequence[Buffer]) -> Callable[[], None]:
        """A call of `ec_encode_data` with the Cauchy matrix on these very buffers, prepared."""
        ffi, k, m = self._ffi, len(data), len(parity)
        tables = ffi.new("unsigned char[]", 32 * k * m)
        self._library.ec_init_tables(k, m, ffi.new("unsigned char[]", self.matrix(k, m)[k * k :]), tables)
        inputs = [ffi.from_buffer("unsigned char[]", shard) for shard in data]
        outputs = [ffi.from_buffer("unsigned char[]", shard, require_writable=True) for shard in parity]
        length = len(inputs[0])
        sources, targets = ffi.new("unsigned char *[]", inputs), ffi.new("unsigned char *[]", outputs)
        call = self._library.ec_encode_data

        def encode(held: object = (inputs, outputs)) -> None:
            call(length, k, m, tables, sources, targets)

        return encode

    def encode(self, data: Sequence[bytes], m: int) -> list[bytearray]:
        """The parity of some data."""
        parity = [bytearray(len(data[0])) for _ in range(m)]
        self.encoder(data, parity)()
        return parity
