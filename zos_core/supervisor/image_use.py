"""Which mounted images are used, by which containers; and those kept for the next start."""

from __future__ import annotations

import msgspec

from flist.manifest import SignedManifest
from flist.mount import ImageMounts, MountedImage, image_sources
from zos_core.containers.document import ContainerState, ImageRequest, ImageState
from zos_core.supervisor.states import States

__all__ = ["ImageUse"]

# Images that nothing uses stay mounted for the next start, this many.
IDLE_IMAGES_MAX = 4


class ImageUse:
    """Mounts images for containers, and releases those that none has used for longest."""

    def __init__(self, *, images: ImageMounts, states: States) -> None:
        self._images = images
        self._states = states
        # By container: what is about to be mounted, or is and not yet in its document.
        self._to_come: dict[str, str] = {}
        self._idle: list[str] = []

    async def mount(self, name: str, image: SignedManifest, request: ImageRequest) -> ImageState:
        """Mount an image for a container whose document does not name it yet: until `settled` it counts as used."""
        digest = image.digest.hex()
        in_use = digest in self._used()
        self._to_come[name] = digest
        mounted = await self._images.ensure(image, image_sources(request.store), forced=request.provider, in_use=in_use)
        return ImageState(
            digest=mounted.digest,
            name=image.manifest.name,
            store=request.store,
            provider=mounted.provider,
            reason=mounted.reason,
            size_bytes=mounted.size_bytes,
            units=mounted.units,
        )

    def settled(self, name: str) -> None:
        """The start of a container is over: from here on its state tells."""
        self._to_come.pop(name, None)

    def adopt(self, state: ContainerState) -> None:
        """Take over the mount that an earlier supervisor made for a container."""
        if state.image is not None:
            self._images.adopt(
                MountedImage(
                    digest=state.image.digest,
                    provider=state.image.provider,
                    reason=state.image.reason,
                    size_bytes=state.image.size_bytes,
                    units=state.image.units,
                ),
                image_sources(state.image.store),
            )

    async def with_counters(self, state: ContainerState) -> ContainerState:
        """A container with what blockd has counted of its image until now."""
        if state.image is None or (status := await self._images.status(state.image.digest)) is None:
            return state
        image = msgspec.structs.replace(
            state.image,
            units_present=status.units_present,
            bytes_fetched=status.bytes_fetched,
            requests=status.requests,
            read_errors=status.errors,
        )
        return msgspec.structs.replace(state, image=image)

    async def trim(self, *, keep: int = IDLE_IMAGES_MAX) -> None:
        """Keep the mounts of `keep` images that nothing uses, those used last, and release the others."""
        used = self._used()
        for digest in await self._images.mounted():
            if digest not in used and digest not in self._idle:
                self._idle.append(digest)
        self._idle = [digest for digest in self._idle if digest not in used]
        while len(self._idle) > keep:
            digest = self._idle.pop(0)
            if digest not in self._used():
                await self._images.release(digest)

    def _used(self) -> set[str]:
        """Digests of the images from which something runs, or is about to."""
        used = set(self._to_come.values())
        return used | {
            state.image.digest for state in self._states.all() if state.image is not None and state.status != "exited"
        }
