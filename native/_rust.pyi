from collections.abc import Iterable, Sequence
from threading import Event
from typing import SupportsIndex, final

from typing_extensions import Buffer

__all__ = [
    "ErasureCode",
    "Hasher",
    "ImageReader",
    "Keys",
    "Packer",
    "Pipeline",
    "erasure_choose_path",
    "erasure_paths",
    "erasure_roofline",
    "fetch_object",
    "hash_many",
    "hash_many_into",
    "merkle_consistency_proof",
    "merkle_extend",
    "merkle_hash_leaves",
    "merkle_inclusion_proof",
    "merkle_inclusion_proofs",
    "merkle_node_count",
    "merkle_root",
    "merkle_verify_consistency",
    "merkle_verify_inclusion",
    "merkle_verify_inclusions",
    "pipeline_zstd",
    "require_main_interpreter",
    "sign_backend",
    "sign_check_key",
    "sign_verdicts",
    "sign_verify",
    "sign_verify_many",
]

@final
class ErasureCode:
    """A Reed-Solomon code of `k` data and `m` parity shards: k 1 to 128, m 1 to 32, at most 255 together.

    `matrix` is `cauchy` (ISA-L's) or `vandermonde` (Backblaze's). `path` names the instructions, None means those of
    `native.erasure.PATH`; `streaming` forces the kind of stores, None decides by the size of each call. `threads`
    everywhere: 1 to 64, 1 if not given. Errors: `native.erasure_errors`.
    """

    def __new__(
        cls,
        k: SupportsIndex,
        m: SupportsIndex,
        *,
        matrix: str = "cauchy",
        path: str | None = None,
        streaming: bool | None = None,
    ) -> ErasureCode: ...
    @property
    def k(self) -> int: ...
    @property
    def m(self) -> int: ...
    @property
    def path(self) -> str:
        """The instructions that are used."""

    @property
    def factors(self) -> bytes:
        """The m x k factors of parity, row by row."""

    def encode(self, data: Iterable[Buffer], *, threads: SupportsIndex | None = None) -> list[bytearray]:
        """The m parity shards of k data shards."""

    def encode_into(
        self, data: Iterable[Buffer], parity: Iterable[Buffer], *, threads: SupportsIndex | None = None
    ) -> None:
        """Write the m parity shards of k data shards."""

    def reconstruct(
        self,
        indexes: Iterable[SupportsIndex],
        shards: Iterable[Buffer],
        lost: Iterable[SupportsIndex],
        *,
        threads: SupportsIndex | None = None,
    ) -> list[bytearray]:
        """The shards of the indexes `lost`, in that order, from `shards`, whose indexes are `indexes` in any order.

        Index 0 to k - 1 are data, k to k + m - 1 parity. Of more than k shards the k of lowest index are read.
        """

    def reconstruct_into(
        self,
        indexes: Iterable[SupportsIndex],
        shards: Iterable[Buffer],
        lost: Iterable[SupportsIndex],
        out: Iterable[Buffer],
        *,
        threads: SupportsIndex | None = None,
    ) -> None:
        """Write the shards of the indexes `lost`, as `reconstruct` makes them."""

    def update(
        self,
        index: SupportsIndex,
        old: Buffer,
        new: Buffer,
        parity: Iterable[Buffer],
        *,
        threads: SupportsIndex | None = None,
    ) -> None:
        """Change all m parity shards in place for data shard `index` that was `old` and is `new`."""

    def verify(
        self, data: Iterable[Buffer], parity: Iterable[Buffer], *, threads: SupportsIndex | None = None
    ) -> list[int]:
        """Indexes (k to k + m - 1) of the parity shards that are not what the data makes; empty if all are right."""

def erasure_choose_path(name: str | None) -> str: ...
def erasure_paths() -> list[str]: ...
def erasure_roofline(data: Iterable[Buffer], out: Iterable[Buffer], *, streaming: bool) -> None: ...

@final
class ImageReader:
    """Random reads of an image's blob: page list, index pages, locator and units are fetched and verified as needed.

    Nothing is kept but units in memory, at most `keep_bytes_max` plain bytes, 0 for no limit. While every source fails
    in a way that waiting may cure, that becomes an error after `patience_s`. Raises the errors of `native.fetch`; what
    waits ends with ValueError within 50 ms when another thread sets `stop`.
    """

    def __new__(
        cls,
        root: bytes,
        *,
        pages: int,
        units: int,
        blocks: int,
        sources: Sequence[str],
        fetch_timeout_s: float,
        patience_s: float,
        keep_bytes_max: int,
        stop: Event | None = None,
    ) -> ImageReader: ...
    @property
    def size_bytes(self) -> int:
        """Size of the blob."""

    def content_bytes(self) -> int:
        """Plain bytes of all units: the blob without what lies between them. Brings the whole index."""

    def read(self, address: int, length: int, *, timeout_s: float) -> bytes:
        """Bytes of the blob; ValueError outside of it."""

    def close(self) -> None:
        """End; whoever reads gets a ValueError."""

def fetch_object(
    sources: Sequence[str],
    object: str,
    *,
    hash: bytes,
    size: int,
    zstd: bool,
    to: str,
    timeout_s: float,
    stop: Event | None = None,
) -> int:
    """Fetch one object (a path in a store) to a file, verified; returns the bytes that came over the wire."""

@final
class Packer:
    def __new__(cls, directory: bytes, *, level: int, threads: int, known: bytes, pack_max: int) -> Packer: ...
    def add(self, root: bytes, paths: bytes, files: bytes, parts: bytes, units: bytes) -> bytes: ...
    def finish(self) -> tuple[bytes, bytes, int]: ...

@final
class Pipeline:
    """What is done to each chunk of `chunk_bytes` (1 to 2^20) bytes. A stage that is None is left out.

    Args:
        level: zstd's, 1 to 19. A chunk whose beginning cannot be compressed is not (PIPELINE-ZSTD-2).
        cipher: `aes-256-gcm` or `chacha20-poly1305`, together with `key`: 32 random bytes.
        k: data shards, together with `m` parity shards, in the limits of an `ErasureCode`.
    """

    def __new__(
        cls,
        *,
        chunk_bytes: SupportsIndex,
        level: SupportsIndex | None = None,
        cipher: str | None = None,
        key: Buffer | None = None,
        k: SupportsIndex | None = None,
        m: SupportsIndex | None = None,
    ) -> Pipeline: ...
    @property
    def chunk_bytes(self) -> int: ...
    @property
    def slot_bytes(self) -> int:
        """Bytes of the slot of a chunk: all its shards at their longest."""

    @property
    def shards(self) -> int:
        """Shards of a slot: k + m, or 1."""

    def seal_into(
        self,
        data: Buffer,
        slots: Buffer,
        lengths: Buffer,
        *,
        digests: Buffer | None = None,
        shard_digests: Buffer | None = None,
        threads: SupportsIndex = 1,
    ) -> int:
        """Seal the n chunks of `data` into n slots, and tell n.

        Args:
            slots: n * slot_bytes. What lies behind the shards of a slot is whatever was left there.
            lengths: n of u32, little-endian: bytes of each shard of a slot.
            digests: 32 * n bytes, for BLAKE3 of each plain chunk.
            shard_digests: 32 * n * shards, for BLAKE3 of each shard.
            threads: 1 to 64.
        """

    def open_into(
        self,
        slots: Buffer,
        lengths: Buffer,
        out: Buffer,
        *,
        have: Iterable[SupportsIndex] | None = None,
        digests: Buffer | None = None,
        shard_digests: Buffer | None = None,
        threads: SupportsIndex = 1,
    ) -> list[tuple[int, int]]:
        """Open n slots into `out`, whose length is that of the data, and tell which shards lied: (chunk, index).

        Args:
            slots: as they were sealed, each shard in its place; nothing is read of shards that are not there.
            have: indexes of the shards that are there; None for all.
            digests: of the plain chunks, to be verified.
            shard_digests: of the shards: one that is not what its digest says is done without. Of each chunk the
                shards of lowest index are looked at until k are right.

        Raises:
            TooFewShards: fewer than k shards of a chunk are there and right.
            ChunkMalformed, SealBroken, DigestWrong: see `native.pipeline_errors`; `index` says which chunk.
        """

def merkle_hash_leaves(data: Buffer, offsets: Buffer) -> bytes: ...
def merkle_node_count(size: int) -> int: ...
def merkle_extend(nodes: Buffer, size: int, leaves: Buffer) -> bytes: ...
def merkle_root(nodes: Buffer, size: int) -> bytes: ...
def merkle_inclusion_proof(nodes: Buffer, size: int, index: int) -> bytes: ...
def merkle_inclusion_proofs(nodes: Buffer, size: int, indices: Buffer) -> bytes: ...
def merkle_consistency_proof(nodes: Buffer, old_size: int, size: int) -> bytes: ...
def merkle_verify_inclusion(root: Buffer, size: int, index: int, leaf: Buffer, proof: Buffer) -> None: ...
def merkle_verify_inclusions(root: Buffer, size: int, indices: Buffer, leaves: Buffer, proofs: Buffer) -> None: ...
def merkle_verify_consistency(old_root: Buffer, old_size: int, root: Buffer, size: int, proof: Buffer) -> None: ...

@final
class Keys:
    def __new__(cls, keys: Buffer, /) -> Keys: ...
    def __len__(self) -> int: ...
    def verify(self, signer: int, message: Buffer, signature: Buffer) -> None: ...
    def verdicts(
        self, signers: Buffer, signatures: Buffer, messages: Buffer, offsets: Buffer, *, threads: int = 1
    ) -> bytes: ...
    def verify_many(
        self, signers: Buffer, signatures: Buffer, messages: Buffer, offsets: Buffer, *, threads: int = 1
    ) -> None: ...

def sign_backend() -> str: ...
def sign_check_key(key: Buffer) -> None: ...
def sign_verdicts(
    keys: Buffer, signatures: Buffer, messages: Buffer, offsets: Buffer, *, threads: int = 1
) -> bytes: ...
def sign_verify(key: Buffer, message: Buffer, signature: Buffer) -> None: ...
def sign_verify_many(
    keys: Buffer, signatures: Buffer, messages: Buffer, offsets: Buffer, *, threads: int = 1
) -> None: ...

@final
class Hasher:
    def __new__(cls, *, key: Buffer | None = None, context: str | None = None) -> Hasher: ...
    def update(self, data: Buffer) -> None: ...
    def digest(self) -> bytes: ...
    def copy(self) -> Hasher: ...

def hash_many(
    data: Buffer, offsets: Buffer, *, key: Buffer | None = None, context: str | None = None, threads: int = 1
) -> bytes: ...
def hash_many_into(
    data: Buffer,
    offsets: Buffer,
    out: Buffer,
    *,
    key: Buffer | None = None,
    context: str | None = None,
    threads: int = 1,
) -> None: ...
def pipeline_zstd(data: Buffer, out: Buffer, chunk_bytes: int, level: int) -> int: ...
def require_main_interpreter() -> None:
    """ImportError in any other interpreter."""
