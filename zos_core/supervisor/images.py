"""From what a caller asks for to a verified manifest: once, when a container is made; its digest is then pinned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flist.manifest import SignedManifest
from flist.names import Floors, ImageName, check_expiry, resolve
from flist.sign import verify_manifest
from flist.store import open_store
from zos_core.base.errors import UsageError
from zos_core.containers.document import ImageRequest

__all__ = ["resolve_image"]


async def resolve_image(request: ImageRequest, *, now_s: Callable[[], int], floors: Floors) -> SignedManifest:
    """Resolve a name in its store, or take a .flist file's bytes; verify the signature by the keys the caller trusts.

    Raises:
        UsageError: neither a name nor a file.
        ZosError: whatever the store, the manifest and its signatures raise.
    """

    def trusted(publisher: str) -> Sequence[bytes]:
        return [known.key for known in request.trusted if known.publisher == publisher]

    if request.flist is not None:
        signed = SignedManifest.parse(request.flist)
        if not request.unsigned:
            verify_manifest(signed, trusted=trusted)
        check_expiry(signed.manifest, now_s=now_s())
        return signed
    if request.reference is None:
        raise UsageError("an image is named by its reference or brought as a file")
    async with open_store(request.store) as store:
        name = ImageName.parse(request.reference)
        return await resolve(store, name, trusted=trusted, now_s=now_s(), floors=floors)
