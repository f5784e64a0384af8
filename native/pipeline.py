"""One pass over each chunk of some data while it is hot: BLAKE3, zstd, AEAD, Reed-Solomon, shard digests; and back.

    line = Pipeline(chunk_bytes=65536, level=1, cipher="aes-256-gcm", key=key, k=16, m=4)
    slots, lengths = bytearray(n * line.slot_bytes), bytearray(n * 4)      # or a BufferPool's
    line.seal_into(data, slots, lengths, digests=digests, shard_digests=shard_digests)
    line.open_into(slots, lengths, out, have=[0, 1, ...], digests=digests, shard_digests=shard_digests)

Every stage may be left out; what a sealed chunk is, byte for byte, says docs/spec/pipeline.md. No nonce is chosen by
anybody: each chunk has a key of its own, derived from the key and from all that is sealed, so that none can come twice.
The same chunk sealed twice with the same key and level is the same bytes, and who sees both can tell; nobody without
the key can tell what is in them.

Chunk c of the data lies in slot c: `shards` shards of `lengths[c]` (u32) bytes, end to end, data first; `stripe` gives
them as views. Buffers are C-contiguous and of any kind, nothing is copied but where the data must change on its way,
and in steady state a call of one thread takes no memory. The GIL is released from 20 us of work on, Ctrl-C is heard
within about 20 ms or a chunk, whichever is longer; a pipeline may be used by many threads. Nothing may write to the
buffers of a call meanwhile. After an error outputs are of no worth; an opened chunk that is not right is zeroed.
Arguments that do not fit are `InputInvalid`; shapes and indexes of shards have the errors of `native.erasure_errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import native.erasure  # chooses the instructions that shards are made with
from native._choice import REFERENCE
from native.errors import InputInvalid
from native.pipeline_errors import ChunkMalformed, DigestWrong, PipelineError, SealBroken
from native.reference.buffers import view
from native.reference.pipeline import CHUNK_BYTES_MAX, CIPHERS, KEY_BYTES, LEVEL_MAX, SHARD_ALIGN, THREADS_MAX

if TYPE_CHECKING or not REFERENCE:
    import native._main_only  # noqa: F401  # refuses other interpreters
    from native._rust import Pipeline
else:
    from native.reference.pipeline import Pipeline

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "CHUNK_BYTES_MAX",
    "CIPHERS",
    "KEY_BYTES",
    "LEVEL_MAX",
    "SHARD_ALIGN",
    "THREADS_MAX",
    "ChunkMalformed",
    "DigestWrong",
    "InputInvalid",
    "Pipeline",
    "PipelineError",
    "SealBroken",
    "stripe",
]


def stripe(line: Pipeline, slots: Buffer, lengths: Buffer, chunk: int) -> list[memoryview]:
    """The shards of a chunk in its slot, data first: what goes to so many disks. Views; nothing is copied.

    Raises:
        InputInvalid: there is no such chunk, or its length does not fit into a slot.
    """
    whole, sizes = view(slots, "slots"), view(lengths, "lengths")
    if not 0 <= chunk < len(sizes) // 4 or (chunk + 1) * line.slot_bytes > len(whole):
        raise InputInvalid("there is no such chunk")
    size = int.from_bytes(sizes[chunk * 4 : chunk * 4 + 4], "little")
    if not 1 <= size * line.shards <= line.slot_bytes:
        raise InputInvalid(f"chunk {chunk} has shards of {size} bytes, which do not fit into its slot")
    begin = chunk * line.slot_bytes
    return [whole[at : at + size] for at in range(begin, begin + size * line.shards, size)]
