"""A directory tree becomes an image: one walk, plan, pack, metadata, index, locator, manifest (FLIST-BUILD).

Deterministic: the same tree gives the same digest, whatever the threads, the level or the machine. Atomic: objects
that nothing names yet go into the store first, the manifest last; a build that is killed leaves nothing that a reader
could see, and what it left in the scratch directory is removed by the next one.
"""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, get_args

import zstandard
from blake3 import blake3

from flist.bundles import BLOCK
from flist.erofs import meta_image
from flist.errors import TreeUnsupported
from flist.index import Page, PageList, build_index
from flist.locator import Entry, Locator
from flist.manifest import Architecture, IndexRef, Manifest, ObjectRef, SignedManifest, encode_manifest
from flist.packing import Packed, pack_tree, plan_tree
from flist.scratch import scratch_directory
from flist.walk import Walked, open_tree, walk
from native.errors import ZosError
from native.pack import KNOWN_PACK, RAW
from zos_core.base.errors import telling_disk_full
from zos_core.base.progress import SILENT, Progress
from zos_core.base.threads import in_thread

__all__ = ["LEVEL_DEFAULT", "BuildResult", "BuildStore", "build", "own_architecture", "plan_tree"]

LEVEL_DEFAULT = 3
"""zstd level of packs: image data is compressed once, and level 9 is five times slower for 6 %."""
META_LEVEL = 9
"""zstd level of the metadata image: fetched whole before anything runs, and small."""


class BuildStore(Protocol):
    """What a build asks of a store; `flist.store` has more of it."""

    @property
    def scratch(self) -> Path | None:
        """A directory from which `put_file` is a rename; None where there is none (any temporary folder does)."""

    async def has(self, path: str) -> bool:
        """Whether an object is there."""

    async def get(self, path: str) -> bytes:
        """A whole object; a `ZosError` if it is missing."""

    async def put(self, path: str, data: bytes) -> None:
        """Write an object, durable and visible at once or not at all."""

    async def put_file(self, path: str, source: Path) -> None:
        """The same from a finished and synced file, which is gone afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What was built.

    Attributes:
        digest: of the manifest.
        signed: the manifest and its signatures: the bytes of the .flist file.
        inodes: of the tree, the root included.
        files: regular files among them.
        data_bytes: sizes of regular files, each counted once.
        blob_bytes: size of the blob on a node.
        units: of the blob; `units_new` of them were not in the store.
        meta_bytes: of the metadata image; `meta_stored_bytes` compressed.
        stored_bytes: of new packs.
        mount_points: directories that were kept empty, because another file system is mounted on them.
    """

    digest: bytes
    signed: SignedManifest
    inodes: int
    files: int
    data_bytes: int
    blob_bytes: int
    units: int
    units_new: int
    meta_bytes: int
    meta_stored_bytes: int
    stored_bytes: int
    mount_points: tuple[str, ...] = ()


def own_architecture() -> Architecture:
    """Of this machine, as a manifest names it.

    Raises:
        TreeUnsupported: there are no images for it.
    """
    machine = platform.machine()
    for known in get_args(Architecture):
        if machine == known:
            return known  # type: ignore[no-any-return]
    raise TreeUnsupported(f"there are no images for machines of the kind {machine!r}", hint="say --architecture")


async def build(
    tree: Path,
    store: BuildStore,
    *,
    name: str,
    revision: int,
    architecture: Architecture | None = None,
    expires_s: int | None = None,
    prev: bytes | None = None,
    sign: Callable[[SignedManifest], SignedManifest] | None = None,
    level: int = LEVEL_DEFAULT,
    threads: int | None = None,
    cross_mounts: bool = False,
    anew: bool = False,
    progress: Progress = SILENT,
) -> BuildResult:
    """Build an image of `tree` into `store`.

    Args:
        tree: a directory; read as the caller, who should be root for a root file system.
        store: gets the objects that it lacks, the manifest last.
        name: `publisher/name`.
        revision: at least 1, and above every revision of that name so far.
        architecture: of the programs in the tree; this machine's by default.
        expires_s: seconds since the epoch, if the image must not be started for ever.
        prev: digest of the manifest that this one replaces. Units that the store has of it are not written again.
        sign: adds signatures to the manifest.
        level: of zstd; not part of the identity.
        threads: that read, hash and compress; as many as processors by default.
        cross_mounts: enter file systems that are mounted inside the tree.
        anew: believe nothing that the store has: write every object, over those that are there.
        progress: where progress is shown.

    Raises:
        TreeUnreadable, TreeUnsupported, FileChanged, FileUnreadable, BlobTooLarge: the tree cannot be built.
        DiskFull: there is no room for the packs; the store is as it was.
        ManifestInvalid: name, revision or another field is out of its limits.
    """
    placeholder = IndexRef(root=bytes(32), pages=0, units=0, blocks=0)
    draft = Manifest(
        name=name,
        architecture=architecture or own_architecture(),
        revision=revision,
        expires_s=expires_s,
        prev=prev,
        meta=ObjectRef(blake3=bytes(32), size=1),
        index=placeholder,
    )
    encode_manifest(draft)  # bad names are refused before an hour of work, not after it
    known = {} if prev is None or anew else await _known_units(store, prev)
    root_fd = open_tree(tree)
    try:
        with progress.task("reading the tree"):
            walked = await in_thread(walk, root_fd, cross_mounts=cross_mounts)
        with scratch_directory(store.scratch) as scratch, telling_disk_full(scratch):
            packed = await pack_tree(
                walked.tree, root_fd, scratch, known=known, level=level, threads=threads, progress=progress
            )
            return await _finish(walked, packed, scratch, known, draft, store, sign, anew=anew)
    finally:
        os.close(root_fd)


# --- writing ------------------------------------------------------------------------------------------------------


async def _finish(
    walked: Walked,
    packed: Packed,
    scratch: Path,
    known: Mapping[bytes, tuple[bytes, Entry]],
    draft: Manifest,
    store: BuildStore,
    sign: Callable[[SignedManifest], SignedManifest] | None,
    *,
    anew: bool,
) -> BuildResult:
    """Make the metadata, index, locator and manifest, and put all that the store lacks, the manifest last."""
    page_list, pages = build_index([(digest, length) for digest, length, *_ in packed.emitted])
    if page_list.blocks != packed.blocks:
        raise AssertionError("the packer and the index disagree on addresses")
    root = page_list.root
    tag = root.hex().encode()
    meta = await in_thread(meta_image, walked.tree, packed.chunks, blob_blocks=packed.blocks, tag=tag)
    meta_hash = blake3(meta).digest()
    meta_stored = await in_thread(zstandard.ZstdCompressor(level=META_LEVEL).compress, meta)
    manifest = _with(
        draft,
        meta=ObjectRef(blake3=meta_hash, size=len(meta)),
        index=IndexRef(root=root, pages=len(pages), units=page_list.units, blocks=page_list.blocks),
    )
    signed = SignedManifest(encode_manifest(manifest))
    if sign is not None:
        signed = sign(signed)

    stored_bytes = 0
    if anew or not await _holds_units(store, root, [length for _, length, *_ in packed.emitted]):
        for digest in packed.packs:
            source = scratch / digest.hex()
            stored_bytes += source.stat().st_size
            if anew or not await store.has(f"pack/{digest.hex()}"):
                await store.put_file(f"pack/{digest.hex()}", source)
        await store.put(f"locator/{root.hex()}", _locate(packed, known).encode())
    for page, ref in zip(pages, page_list.pages, strict=True):
        await _put(store, f"index/{ref.hash.hex()}", page.encode(), anew=anew)
    await _put(store, f"index/{root.hex()}", page_list.encode(), anew=anew)
    await _put(store, f"meta/{meta_hash.hex()}", meta_stored, anew=anew)
    await store.put(f"manifest/{signed.digest.hex()}", signed.encode())
    regular = [inode for inode in walked.tree.inodes if stat.S_ISREG(inode.mode)]
    return BuildResult(
        digest=signed.digest,
        signed=signed,
        inodes=len(walked.tree.inodes),
        files=len(regular),
        data_bytes=sum(inode.size for inode in regular),
        blob_bytes=packed.blocks * BLOCK,
        units=len(packed.emitted),
        units_new=sum(pack != KNOWN_PACK for _, _, pack, _, _ in packed.emitted),
        meta_bytes=len(meta),
        meta_stored_bytes=len(meta_stored),
        stored_bytes=stored_bytes,
        mount_points=tuple("/" + path.decode(errors="replace") for path in walked.mount_points),
    )


def _with(draft: Manifest, *, meta: ObjectRef, index: IndexRef) -> Manifest:
    return Manifest(
        name=draft.name,
        architecture=draft.architecture,
        revision=draft.revision,
        expires_s=draft.expires_s,
        prev=draft.prev,
        meta=meta,
        index=index,
    )


async def _put(store: BuildStore, path: str, data: bytes, *, anew: bool) -> None:
    """Write an object that its content names, if it is not there."""
    if anew or not await store.has(path):
        await store.put(path, data)


def _locate(packed: Packed, known: Mapping[bytes, tuple[bytes, Entry]]) -> Locator:
    """New units lie in the new packs, known ones where the store has them."""
    packs = list(packed.packs)
    numbers = {digest: number for number, digest in enumerate(packs)}
    entries = []
    for digest, _, pack, offset, stored in packed.emitted:
        if pack == KNOWN_PACK:
            pack_digest, old = known[digest]
            if pack_digest not in numbers:
                numbers[pack_digest] = len(packs)
                packs.append(pack_digest)
            entries.append(Entry(numbers[pack_digest], old.offset, old.stored, old.raw))
        else:
            entries.append(Entry(pack, offset, stored & ~RAW, bool(stored & RAW)))
    return Locator(tuple(packs), tuple(entries))


async def _holds_units(store: BuildStore, root: bytes, lengths: Sequence[int]) -> bool:
    """Whether the store has every unit of this very index already, perhaps in other packs."""
    if not await store.has(f"locator/{root.hex()}"):
        return False
    try:
        locator = Locator.decode(await store.get(f"locator/{root.hex()}"), lengths)
    except ZosError:
        return False  # unreadable: write a good one over it
    return all([await store.has(f"pack/{digest.hex()}") for digest in locator.packs])


async def _known_units(store: BuildStore, prev: bytes) -> dict[bytes, tuple[bytes, Entry]]:
    """Units of an earlier image that lie in the store: digest -> pack and place.

    Whatever is missing or wrong makes units unknown, and they are written again: slower, never wrong.
    """
    known: dict[bytes, tuple[bytes, Entry]] = {}
    try:
        signed = SignedManifest.parse(await store.get(f"manifest/{prev.hex()}"))
        index = signed.manifest.index
        page_list = PageList.decode(await store.get(f"index/{index.root.hex()}"), index.root)
        hashes: list[bytes] = []
        lengths: list[int] = []
        for ref in page_list.pages:
            page = Page.decode(await store.get(f"index/{ref.hash.hex()}"), ref)
            hashes += page.hashes
            lengths += page.lengths
        locator = Locator.decode(await store.get(f"locator/{index.root.hex()}"), lengths)
        present = [await store.has(f"pack/{digest.hex()}") for digest in locator.packs]
    except ZosError:
        return known
    for digest, entry in zip(hashes, locator.entries, strict=True):
        if present[entry.pack]:
            known[digest] = (locator.packs[entry.pack], entry)
    return known
