"""Mount an image lazily: metadata whole and hashed, then a provider below it (docs/spec/{spawn,blockd}.md).

`ImageMounts` is what the supervisor and `zos flist mount` share. Each image has a directory below the state directory,
`images/<digest>/`, with `meta.erofs`, `blob`, `presence` and `index/`; the mount itself is a detached descriptor in
hold, `mnt/<digest>`, so that cleaning up is closing.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

from blake3 import blake3

from flist.extract import extract_image
from flist.manifest import SignedManifest
from flist.providers import ASKED_FOR, BESIDE, Provider, ProviderUnavailable, choose
from flist.store import StoreUnavailable
from native.errors import ZosError
from zos_core.base.errors import DescriptorsExhausted, DiskFull, PeerGone, RequestTimeout
from zos_core.base.frame import RemoteError, close_all
from zos_core.base.peer import Requester
from zos_core.base.programs import (
    BlockAdded,
    BlockStatus,
    Descriptors,
    Empty,
    Fetched,
    FetchObject,
    ImageName,
    Index,
    Mount,
    Mounted,
    Nothing,
    Plan,
    Prefix,
    Probe,
    Source,
)
from zos_core.base.threads import in_thread

__all__ = ["READ_DEADLINE_MS", "ImageMounts", "MountFailed", "MountedImage", "image_sources"]

REQUEST_TIMEOUT_S = 30.0
FILL_STALL_S = 60.0
FILL_POLL_S = 0.1
# Counters are nothing to wait for: `refuse`, in blockd's place, has none.
STATUS_TIMEOUT_S = 5.0
FETCH_TIMEOUT_MS = 20_000
# `add` fetches the list of pages.
ADD_TIMEOUT_S = FETCH_TIMEOUT_MS / 1000 + 15.0
# Metadata may take a head's time, and a second for each so many bytes, as any object of a store (STORE-5).
OBJECT_TIMEOUT_MS = 30_000
SLOWEST_BYTES_S = 65_536
# A second connection gets its chance where the first one hangs. The kernel asks twice, for what it reads ahead and then
# for the page alone, so that a program waits twice as long for a hub that is silent.
READ_DEADLINE_MS = 40_000
# Stores in which an image was asked for, the last one first, are all asked for its units.
SOURCES_MAX = 8
# What was fetched is kept without a limit, as long as the disk has room; blockd's 0.
CACHE_BYTES_MAX = 0
BLOCK_BYTES = 4096
PRESENCE_HEADER = struct.Struct("<8sHHI32s")
PRESENCE_MAGIC = b"ZOSPRES1"
PRESENCE_FULL = 2


class MountFailed(ZosError):
    """An image could not be mounted; `step` in the context says where."""

    code, http_status, exit_status = "flist.mount-failed", 500, 47


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedImage:
    """An image that is mounted as `mnt/<digest>` in hold."""

    digest: str
    provider: Provider
    reason: str
    size_bytes: int
    units: int


def image_sources(store: str) -> list[Source]:
    """Sources of a store as the user names it: an HTTP URL or a directory."""
    if store.startswith(("http://", "https://")):
        return [Source(kind="http", url=store.rstrip("/"))]
    return [Source(kind="dir", path=os.path.abspath(store))]


def is_full(presence: Path, *, root: bytes) -> bool:
    """Whether blockd has verified every unit of the image (presence file, state 2)."""
    try:
        with presence.open("rb") as file:
            header = file.read(PRESENCE_HEADER.size)
    except FileNotFoundError:
        return False
    if len(header) != PRESENCE_HEADER.size:
        return False
    magic, version, state, _units, have = PRESENCE_HEADER.unpack(header)
    return bool(magic == PRESENCE_MAGIC and version == 1 and state == PRESENCE_FULL and have == root)


def _failure(error: RemoteError, digest: str, directory: Path) -> ZosError:
    """What a user is told when spawn or blockd refused."""
    if error.remote_code == "fetch.no-space":
        return DiskFull(
            f"the image cannot be kept in {directory}: {error}",
            hint=f"make room there: df {shlex.quote(str(directory))} says of what disk",
            path=str(directory),
            image=digest,
        )
    if error.remote_code == "fetch.no-descriptors":
        return DescriptorsExhausted(f"the image cannot be fetched: {error}", hint=error.hint, image=digest)
    if error.remote_code in ("fetch.unreachable", "fetch.status", "fetch.deadline"):
        return StoreUnavailable(f"the image cannot be fetched: {error}", hint="is the hub reachable?", image=digest)
    if error.remote_code.startswith("fetch."):
        hint = "the store does not have what the manifest names: build or publish the image again"
    else:
        hint = error.hint or "zos flist verify tells whether the image is whole; --provider extract needs least"
    return MountFailed(f"the image could not be mounted: {error}", hint=hint, step=error.step or "", image=digest)


def _merged(first: Sequence[Source], then: Sequence[Source]) -> list[Source]:
    return list(dict.fromkeys([*first, *then]))[:SOURCES_MAX]


class ImageMounts:
    """Mounts images through spawn and blockd; every operation is idempotent and survives a restart of its caller."""

    def __init__(self, *, hold: Requester, spawn: Requester, blockd: Requester, state_dir: Path) -> None:
        self._hold = hold
        self._spawn = spawn
        self._blockd = blockd
        self._state_dir = state_dir
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._mounted: dict[str, MountedImage] = {}
        self._sources: dict[str, list[Source]] = {}

    def directory(self, digest: str) -> Path:
        """Where the image's metadata, blob and presence lie."""
        return self._state_dir / "images" / digest

    def adopt(self, mounted: MountedImage, sources: Sequence[Source]) -> None:
        """Take over a mount that an earlier life of the caller made and hold has kept.

        The reason is what a container was told, and who asked for the provider may have ended meanwhile.
        """
        if mounted.reason == BESIDE:
            mounted = replace(mounted, reason=ASKED_FOR)
        self._mounted[mounted.digest] = mounted
        self._sources[mounted.digest] = _merged(sources, self._sources.get(mounted.digest, []))

    async def probe(self) -> Probe:
        """What works on this machine, found by spawn by trying."""
        found, _ = await self._spawn.request("probe", Empty(), reply=Probe, timeout_s=REQUEST_TIMEOUT_S)
        return found

    async def mounted(self) -> set[str]:
        """Digests of the images that hold keeps a mount of."""
        kept, _ = await self._hold.request(
            "list", Prefix(prefix="mnt/"), reply=Descriptors, timeout_s=REQUEST_TIMEOUT_S
        )
        return {name.removeprefix("mnt/") for name in kept.names}

    async def ensure(
        self,
        image: SignedManifest,
        sources: Sequence[Source],
        *,
        forced: Provider | None = None,
        in_use: bool = False,
    ) -> MountedImage:
        """Mount the image unless it is mounted already; a mount that is used stays as it is.

        A mount that is there is fed from `sources` too from now on, before those that were named earlier. `in_use`:
        something runs from the image, so its mount is not replaced by one of another provider.

        Raises:
            ProviderUnavailable: `forced` does not work here, or the image is in use by another provider.
            MountFailed: a step failed; whatever had been made for this image is gone again.
        """
        digest = image.digest.hex()
        async with self._locks.setdefault(digest, asyncio.Lock()):
            known = self._mounted.get(digest)
            there = digest in await self.mounted()
            if there and known is not None:
                borrowed = forced is None and known.reason == ASKED_FOR  # somebody else's wish is no choice for us
                if (in_use or not borrowed) if forced is None else forced == known.provider:
                    await self._add_sources(image, known, sources)
                    return replace(known, reason=BESIDE) if borrowed else known
                if in_use:
                    raise ProviderUnavailable(
                        f"containers run from this image, which is mounted by {known.provider!r}, not {forced!r}",
                        hint="stop them first, or leave --provider out",
                        provider=forced or "",
                    )
            if known is not None or there:
                await self._release(digest)
            try:
                mounted = await self._mount(image, list(sources), forced)
            except RemoteError as error:
                await self._release(digest)
                raise _failure(error, digest, self.directory(digest)) from error
            except BaseException:
                await asyncio.shield(self._release(digest))
                raise
            self._mounted[digest] = mounted
            self._sources[digest] = list(sources)
            return mounted

    async def _add_sources(self, image: SignedManifest, known: MountedImage, sources: Sequence[Source]) -> None:
        """Let blockd ask these stores first: the one named last is the one that is most likely to be there."""
        digest = known.digest
        merged = _merged(sources, self._sources.get(digest, []))
        if known.provider in ("file", "loop") and merged != self._sources.get(digest):
            await self._blockd.request(
                "add", self._plan(image, merged, serve=True), reply=BlockAdded, timeout_s=ADD_TIMEOUT_S
            )
        self._sources[digest] = merged

    async def mount_again(self, image: SignedManifest) -> None:
        """Have spawn make a mount anew that died with its predecessor; what runs from the image does not notice.

        Where layers must be attached (spawn.md, SPAWN-RESTART) spawn moves the mount out of hold's hands into its own
        namespace: killed just then, it takes the mount with it, and hold is left with an empty name. The FUSE file and
        blockd stay as they are.

        Raises:
            MountFailed: the image is not mounted here.
            ZosError: whatever spawn raises.
        """
        digest = image.digest.hex()
        async with self._locks.setdefault(digest, asyncio.Lock()):
            known = self._mounted.get(digest)
            if known is None:
                raise MountFailed("the image is not mounted any more", hint="run it again", image=digest)
            if known.provider != "extract":
                await self._fetch_meta(image, self._sources.get(digest, []), self.directory(digest))
            await self._ask_mount(digest, known.provider)

    async def release(self, digest: str) -> None:
        """Give up the mount, its FUSE file and its plan; what was fetched stays."""
        async with self._locks.setdefault(digest, asyncio.Lock()):
            await self._release(digest)

    async def status(self, digest: str) -> BlockStatus | None:
        """blockd's counters of an image it serves; None for one it does not serve, or when it is away."""
        known = self._mounted.get(digest)
        if known is not None and known.provider in ("full", "extract"):
            return None
        try:
            found, _ = await self._blockd.request(
                "status", ImageName(image=digest), reply=BlockStatus, timeout_s=STATUS_TIMEOUT_S
            )
        except RemoteError as error:
            if error.remote_code == "blockd.unknown-image":
                return None
            raise
        except (PeerGone, RequestTimeout):
            return None
        return found

    async def _mount(self, image: SignedManifest, sources: list[Source], forced: Provider | None) -> MountedImage:
        digest = image.digest.hex()
        manifest = image.manifest
        directory = self.directory(digest)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        choice = choose(
            await self.probe(), full=is_full(directory / "presence", root=manifest.index.root), forced=forced
        )
        if choice.provider == "extract":
            await self._extract(image, sources, directory)
        else:
            await self._fetch_meta(image, sources, directory)
            await self._prepare(image, sources, choice.provider, directory)
        await self._ask_mount(digest, choice.provider)
        return MountedImage(
            digest=digest,
            provider=choice.provider,
            reason=choice.reason,
            size_bytes=manifest.index.blocks * BLOCK_BYTES,
            units=manifest.index.units,
        )

    async def _ask_mount(self, digest: str, provider: Provider) -> None:
        relative = f"images/{digest}"
        request = Mount(
            image=digest,
            provider=provider,
            meta=None if provider == "extract" else f"{relative}/meta.erofs",
            blob=f"{relative}/blob" if provider == "full" else None,
            tree=f"{relative}/tree" if provider == "extract" else None,
        )
        _, descriptors = await self._spawn.request("mount_image", request, reply=Mounted, timeout_s=REQUEST_TIMEOUT_S)
        # hold has it by name; one of ours would keep the image on this machine, and busy, after its release.
        close_all(descriptors)

    async def _prepare(self, image: SignedManifest, sources: list[Source], provider: Provider, directory: Path) -> None:
        """Bring blockd to serve the image, or to fill it for `full`."""
        digest = image.digest.hex()
        full = provider == "full"
        plan = self._plan(image, sources, serve=not full)
        if full:
            if not is_full(directory / "presence", root=image.manifest.index.root):
                await self._blockd.request("add", plan, reply=BlockAdded, timeout_s=ADD_TIMEOUT_S)
                await self._fill(digest)
                await self._blockd.request(
                    "remove", ImageName(image=digest), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S
                )
            return
        await self._spawn.request("fuse_open", ImageName(image=digest), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
        await self._blockd.request("add", plan, reply=BlockAdded, timeout_s=ADD_TIMEOUT_S)

    def _plan(self, image: SignedManifest, sources: list[Source], *, serve: bool) -> Plan:
        index = image.manifest.index
        digest = image.digest.hex()
        return Plan(
            image=digest,
            index=Index(root=index.root, pages=index.pages, units=index.units, blocks=index.blocks),
            dir=str(self.directory(digest)),
            sources=sources,
            fetch_timeout_ms=FETCH_TIMEOUT_MS,
            read_deadline_ms=READ_DEADLINE_MS,
            cache_bytes_max=CACHE_BYTES_MAX,
            serve=serve,
        )

    async def _fill(self, digest: str) -> None:
        """Have every unit fetched and verified.

        blockd goes on by itself while its sources are away; here it is given up when nothing has come for
        `FILL_STALL_S`. It is asked anew each time, because a blockd that died has forgotten that it was to fill.

        Raises:
            MountFailed: no unit came for that long.
        """
        loop = asyncio.get_running_loop()
        name = ImageName(image=digest)
        present, progress_s = -1, loop.time()
        while True:
            await self._blockd.request("fill", name, reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
            status, _ = await self._blockd.request("status", name, reply=BlockStatus, timeout_s=REQUEST_TIMEOUT_S)
            if status.full:
                return
            if status.units_present != present:
                present, progress_s = status.units_present, loop.time()
            elif loop.time() - progress_s > FILL_STALL_S:
                raise MountFailed(
                    f"the image could not be fetched whole: {present} of {status.units} units came",
                    hint="is the hub reachable, and has it the whole image? zos flist verify tells",
                    image=digest,
                )
            await asyncio.sleep(FILL_POLL_S)

    async def _fetch_meta(self, image: SignedManifest, sources: list[Source], directory: Path) -> None:
        """Fetch the metadata image unless a whole one is here; what is here is hashed again before each mount."""
        meta = image.manifest.meta
        path = directory / "meta.erofs"

        def intact() -> bool:
            try:
                data = path.read_bytes() if path.stat().st_size == meta.size else b""
            except FileNotFoundError:
                return False
            return len(data) == meta.size and blake3(data).digest() == meta.blake3

        if await in_thread(intact):
            return
        deadline_ms = OBJECT_TIMEOUT_MS + meta.size * 1000 // SLOWEST_BYTES_S
        await self._blockd.request(
            "fetch_object",
            FetchObject(
                sources=sources,
                object=f"meta/{meta.blake3.hex()}",
                blake3=meta.blake3,
                size=meta.size,
                zstd=True,
                to=str(path),
                deadline_ms=deadline_ms,
            ),
            reply=Fetched,
            timeout_s=deadline_ms / 1000 + REQUEST_TIMEOUT_S,
        )

    async def _extract(self, image: SignedManifest, sources: list[Source], directory: Path) -> None:
        """Extract the whole image into `tree`, by way of a temporary name, so that a half tree is never mounted."""
        tree = directory / "tree"
        if tree.is_dir():
            return
        partial = directory / "tree.partial"
        if partial.exists():
            await in_thread(shutil.rmtree, partial)
        await extract_image(image, sources, partial)
        partial.rename(tree)

    async def _release(self, digest: str) -> None:
        self._mounted.pop(digest, None)
        self._sources.pop(digest, None)
        name = ImageName(image=digest)
        await self._spawn.request("forget_image", name, reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
        try:
            await self._blockd.request("remove", name, reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
        except RemoteError as error:
            if error.remote_code != "blockd.unknown-image":
                raise
