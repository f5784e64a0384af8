from collections.abc import Sequence
from typing import final

__all__ = ["ImageReader", "Packer", "fetch_object"]

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
