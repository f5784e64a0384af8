from collections.abc import Sequence
from typing import final

from typing_extensions import Buffer

__all__ = [
    "Hasher",
    "ImageReader",
    "Keys",
    "Packer",
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
    "require_main_interpreter",
    "sign_backend",
    "sign_check_key",
    "sign_verdicts",
    "sign_verify",
    "sign_verify_many",
]

@final
class ImageReader:
    """Random reads of an image's blob: page list, index pages, locator and units are fetched and verified as needed.

    `directory` keeps blob, presence and index between uses (locked against other users); None keeps units in memory.
    At most `keep_bytes_max` plain bytes are kept, 0 for no limit. Raises the errors of `native.fetch`.
    """

    def __new__(
        cls,
        root: bytes,
        *,
        pages: int,
        units: int,
        blocks: int,
        sources: Sequence[str],
        directory: str | None,
        fetch_timeout_s: float,
        keep_bytes_max: int,
    ) -> ImageReader: ...
    @property
    def size_bytes(self) -> int:
        """Size of the blob."""

    def read(self, address: int, length: int, *, timeout_s: float) -> bytes:
        """Bytes of the blob; ValueError outside of it."""

    def fill(self) -> None:
        """Begin to fetch every missing unit; `status` tells how far it is. ValueError when not all may be kept."""

    def status(self) -> tuple[int, int, int, int, bool]:
        """Units, units present, bytes fetched, requests made, and whether all were verified in one pass."""

    def close(self) -> None:
        """End; what was kept stays in the directory."""

def fetch_object(
    sources: Sequence[str], object: str, *, hash: bytes, size: int, zstd: bool, to: str, timeout_s: float
) -> int:
    """Fetch one object (a path in a store) to a file, verified; returns the bytes that came over the wire."""

@final
class Packer:
    def __new__(cls, directory: bytes, *, level: int, threads: int, known: bytes, pack_max: int) -> Packer: ...
    def add(self, root: bytes, paths: bytes, files: bytes, parts: bytes, units: bytes) -> bytes: ...
    def finish(self) -> tuple[bytes, bytes, int]: ...

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
def require_main_interpreter() -> None:
    """ImportError in any other interpreter."""
