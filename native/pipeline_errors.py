"""What can be wrong with a sealed chunk; `index` in the context is the chunk's number in the call.

Wrong arguments are `InputInvalid`, a wrong shape or too few shards what `native.erasure_errors` has for them.
"""

from __future__ import annotations

from native.errors import ZosError

__all__ = ["ChunkMalformed", "DigestWrong", "PipelineError", "SealBroken"]


class PipelineError(ZosError):
    """Base of the errors of sealed chunks."""

    code, http_status, exit_status = "pipeline.error", 422, 105


class ChunkMalformed(PipelineError):
    """It is no sealed chunk of this length: header, filling or frame (PIPELINE-OPEN-3)."""

    code, exit_status = "pipeline.chunk-malformed", 106


class SealBroken(PipelineError):
    """The key or the cipher is another one, or somebody changed the chunk (PIPELINE-OPEN-4)."""

    code, exit_status = "pipeline.seal-broken", 107


class DigestWrong(PipelineError):
    """What was opened is not what its digest says (PIPELINE-OPEN-6)."""

    code, exit_status = "pipeline.digest-wrong", 108
