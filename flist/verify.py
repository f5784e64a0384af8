"""Verify a whole image: signature, metadata, index, and every unit as the store has it."""

from __future__ import annotations

from pathlib import Path

from flist.manifest import SignedManifest
from flist.names import Trusted
from flist.reader import RUN_BYTES_MAX, ImageReader
from flist.sign import verify_manifest
from flist.store import Addressed
from zos_core.base.document import Record
from zos_core.base.keyring import key_id
from zos_core.base.progress import SILENT, Progress

__all__ = ["VerifyResult", "verify"]


class VerifyResult(Record, frozen=True, kw_only=True):
    """What was verified; `signed_by` is None when signatures were not asked for."""

    digest: str
    name: str
    revision: int
    signed_by: str | None
    inodes: int
    units: int
    bytes_verified: int


async def verify(
    store: Addressed,
    image: SignedManifest,
    *,
    trusted: Trusted | None,
    progress: Progress = SILENT,
    scratch: Path | None = None,
    paths_bytes_max: int | None = None,
) -> VerifyResult:
    """Read everything that the manifest names, and check it.

    Args:
        store: where the objects are.
        image: the manifest.
        trusted: keys that may sign for a publisher, or None to leave the signature out.
        progress: where progress is shown.
        scratch: as of `ImageReader`.
        paths_bytes_max: as of `read_meta`.

    Raises:
        Unsigned, UntrustedPublisher, SignatureInvalid: nobody who is trusted has signed it.
        MetaInvalid, IndexInvalid, LocatorInvalid, UnitInvalid: the store holds wrong bytes.
        ObjectMissing, StoreUnavailable: it lacks some, or cannot be read.
    """
    manifest = image.manifest
    signer = None if trusted is None else verify_manifest(image, trusted=trusted)
    async with ImageReader(store, manifest, scratch=scratch, paths_bytes_max=paths_bytes_max) as reader:
        meta = await reader.tree()
        content_bytes = await reader.content_bytes()
        size = reader.size_bytes
        ranges = [(start, min(RUN_BYTES_MAX, size - start)) for start in range(0, size, RUN_BYTES_MAX)]
        with progress.task("verifying", total=size, unit="bytes") as task:
            await reader.read_many(ranges, lambda number, plain: task.advance(len(plain)))
    return VerifyResult(
        digest=image.digest.hex(),
        name=manifest.name,
        revision=manifest.revision,
        signed_by=None if signer is None else key_id(signer),
        inodes=len(meta.tree.inodes),
        units=manifest.index.units,
        bytes_verified=content_bytes,
    )
