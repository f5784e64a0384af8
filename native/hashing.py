"""BLAKE3: many parts of a buffer in one call, or one digest bit by bit.

    digests = hash_many(data, offsets)                    # u64[n + 1] -> n digests of 32 bytes, end to end
    hash_many_into(data, offsets, out, threads=2)         # the same, and nothing is allocated
    hasher = Hasher(key=secret); hasher.update(data); hasher.digest()

`key` (32 bytes) binds digests to a secret; `context` (text that names one purpose of one program) makes keys out of
data that is already secret. Buffers are C-contiguous, of any kind; offsets are u64, little-endian; what does not fit is
`InputInvalid`. From 64 KiB on the GIL is released, and Ctrl-C is heard within some 10 ms. The functions are those of
`native/crates/hash`, or of the twin `native/reference/hashing.py`, where each one is described.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native._choice import REFERENCE
from native.errors import InputInvalid
from native.reference.hashing import DIGEST_BYTES, KEY_BYTES, THREADS_MAX

if TYPE_CHECKING or not REFERENCE:
    import native._main_only  # noqa: F401  # refuses other interpreters
    from native._rust import Hasher, hash_many, hash_many_into
else:
    from native.reference.hashing import Hasher, hash_many, hash_many_into

__all__ = [
    "DIGEST_BYTES",
    "KEY_BYTES",
    "THREADS_MAX",
    "Hasher",
    "InputInvalid",
    "hash_many",
    "hash_many_into",
]
