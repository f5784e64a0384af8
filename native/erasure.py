"""Reed-Solomon erasure coding: k data shards make m parity shards, and any k of all give the others back.

`Code` is the Rust kernel of `native/crates/erasure`, or its twin in plain Python when `ZOS_NATIVE=reference`; the
format is docs/spec/erasure.md. Shards are buffers of one length from 1 byte on: bytes, bytearray, memoryview, mmap,
arrays; read-only ones where nothing is written. Nothing is copied, and memory is taken for results of `encode` and
`reconstruct` alone: for everything of 16 KiB and more use the `_into` forms with buffers of a `BufferPool`.

    code = erasure.Code(16, 4)
    with erasure.BufferPool(shards=20, shard_bytes=1 << 20) as pool, pool.stripe() as stripe:
        ...                                            # fill stripe.shards[:16]
        code.encode_into(stripe.shards[:16], stripe.shards[16:])

A call that works for more than some 20 us lets other threads of Python run; it works with `threads` (1 to 64) threads
of its own, or raises OSError (EAGAIN) where the system starts none. Ctrl-C ends a long call within some 20 ms, later
where memory is touched for the first time, and then its outputs are of no worth. A code may be used by many threads at
once. Errors: `native.erasure_errors`; a refused call has written nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from native import _choice, erasure_errors
from native.buffer_pool import BufferPool, Stripe
from native.erasure_errors import *  # noqa: F403  # all of them, and named in one place
from native.erasure_stream import SHARD_BYTES, decode_stream, encode_stream, repair_stream, stream_bytes

if TYPE_CHECKING or not _choice.REFERENCE:
    import native._main_only  # noqa: F401  # refuses other interpreters
    from native._rust import ErasureCode as Code
    from native._rust import erasure_choose_path, erasure_paths
else:
    from native.reference.erasure import Code, erasure_choose_path, erasure_paths

__all__ = [
    "K_MAX",
    "M_MAX",
    "PATH",
    "PATHS",
    "SHARDS_MAX",
    "SHARD_BYTES",
    "THREADS_MAX",
    "BufferPool",
    "Code",
    "Stripe",
    "decode_stream",
    "encode_stream",
    "repair_stream",
    "stream_bytes",
]
__all__ += erasure_errors.__all__

K_MAX: Final = 128
M_MAX: Final = 32
SHARDS_MAX: Final = 255
THREADS_MAX: Final = 64

PATH: Final = erasure_choose_path(_choice.ERASURE_PATH)
"""The instructions that codes use: the fastest that the machine has, or what `ZOS_ERASURE_PATH` names."""
PATHS: Final = tuple(erasure_paths())
"""All that this machine can use, the fastest first."""
