"""What the erasure code refuses: one class for one thing that can be wrong with a call. Nothing was written then.

Exit statuses 100 to 109 are those of the kernels.
"""

from __future__ import annotations

from native.errors import ZosError

__all__ = [
    "BufferUnusable",
    "BuffersOverlap",
    "ErasureError",
    "KernelPanicked",
    "LengthMismatch",
    "PathUnavailable",
    "PoolExhausted",
    "ShapeInvalid",
    "ShardCountWrong",
    "ShardEmpty",
    "ShardIndexInvalid",
    "StreamTruncated",
    "ThreadsInvalid",
    "TooFewShards",
]


class ErasureError(ZosError):
    """Base of all errors of the erasure code."""

    code, http_status, exit_status = "erasure.error", 400, 100


class ShapeInvalid(ErasureError):
    """k, m, their sum or the name of the matrix is outside of the limits (ERASURE-SHAPE-1)."""

    code = "erasure.shape-invalid"


class PathUnavailable(ErasureError):
    """There is no path of that name, or this machine has not its instructions (ERASURE-PATH-1)."""

    code, http_status = "erasure.path-unavailable", 501


class ShardCountWrong(ErasureError):
    """More or fewer buffers than the code has shards."""

    code = "erasure.shard-count-wrong"


class LengthMismatch(ErasureError):
    """The shards of one call have different lengths (ERASURE-SHARD-1)."""

    code = "erasure.length-mismatch"


class ShardEmpty(ErasureError):
    """Shards of no bytes (ERASURE-SHARD-1)."""

    code = "erasure.shard-empty"


class BufferUnusable(ErasureError):
    """Not a buffer, not contiguous, closed, one of references, or read-only where something is written."""

    code = "erasure.buffer-unusable"


class BuffersOverlap(ErasureError):
    """An output has bytes in common with an input or with another output."""

    code = "erasure.buffers-overlap"


class ShardIndexInvalid(ErasureError):
    """An index that no shard has, or one that is named twice."""

    code = "erasure.shard-index-invalid"


class TooFewShards(ErasureError):
    """Fewer than k shards are left: the data cannot be had back from these."""

    code, http_status, exit_status = "erasure.too-few-shards", 422, 101


class ThreadsInvalid(ErasureError):
    """A number of threads outside of 1 to 64."""

    code = "erasure.threads-invalid"


class PoolExhausted(ErasureError):
    """Every stripe of the pool is in use, or the pool is closed."""

    code, http_status, exit_status, retryable = "erasure.pool-exhausted", 503, 102, True


class StreamTruncated(ErasureError):
    """A stream of shards ends before the object does."""

    code, http_status, exit_status = "erasure.stream-truncated", 422, 103


class KernelPanicked(ErasureError):
    """The code failed inside: a mistake of ours. Outputs are of no worth."""

    code, http_status, exit_status = "erasure.kernel-panicked", 500, 104
