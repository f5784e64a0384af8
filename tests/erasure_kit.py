"""What the tests of the erasure code share: every side of it, and buffers between pages that cannot be touched."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cffi

from native import erasure
from native._rust import ErasureCode, erasure_paths
from native.reference.erasure import Code as Twin

__all__ = ["PATHS", "SIDES", "code", "guarded"]

PATHS = tuple(erasure_paths())
SIDES = (*PATHS, "reference")
PAGE = mmap.PAGESIZE


def code(side: str, k: int, m: int, *, matrix: str = "cauchy", streaming: bool | None = None) -> erasure.Code:
    """A code of one of `SIDES`: each path that this machine can run, and the twin."""
    if side == "reference":
        twin: Callable[..., erasure.Code] = Twin  # type: ignore[assignment]  # the same surface, by the tests
        return twin(k, m, matrix=matrix, streaming=streaming)
    return ErasureCode(k, m, matrix=matrix, path=side, streaming=streaming)


@contextmanager
def guarded(length: int, *, at_end: bool) -> Iterator[memoryview]:
    """A buffer that ends where a page without any rights begins, or begins where one ends; mprotect(2)."""
    ffi = cffi.FFI()
    ffi.cdef("int mprotect(void *addr, size_t len, int prot);")
    libc: Any = ffi.dlopen(None)
    body = -(-length // PAGE) * PAGE
    room = mmap.mmap(-1, body + 2 * PAGE)
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(room)))
    fences = (address, address + PAGE + body)
    for fence in fences:
        assert libc.mprotect(ffi.cast("void *", fence), PAGE, 0) == 0
    begin = PAGE + (body - length if at_end else 0)
    whole = memoryview(room)
    try:
        with whole[begin : begin + length] as view:
            yield view
    finally:
        for fence in fences:
            assert libc.mprotect(ffi.cast("void *", fence), PAGE, mmap.PROT_READ | mmap.PROT_WRITE) == 0
        whole.release()
