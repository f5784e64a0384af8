"""Paths of objects: the same in a directory and over HTTP (STORE-1). Pure; nothing else can be asked of a store."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flist.index import PAGE_UNITS, UNITS_MAX, PageRef
from flist.locator import ENTRY_SIZE, PACK_MAX, PACKS_MAX, header_size
from flist.manifest import FILE_MAX, META_MAX, Manifest
from flist.store.errors import ObjectInvalid

__all__ = ["KINDS", "MUTABLE_KINDS", "NAME_FILE_MAX", "check_path", "object_paths", "size_max"]

_HEX = re.compile(r"[0-9a-f]{64}\Z")
_PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,63})\Z")

NAME_FILE_MAX = 2048
"""Of a name record: one short document, one key, one signature."""

_SIZE_MAX = {
    "manifest": FILE_MAX,
    "index": 64 + 36 * max(PAGE_UNITS, UNITS_MAX // PAGE_UNITS),
    "meta": META_MAX,
    "locator": header_size(PACKS_MAX) + ENTRY_SIZE * UNITS_MAX,
    "pack": PACK_MAX,
    "name": NAME_FILE_MAX,
}
KINDS = tuple(_SIZE_MAX)
MUTABLE_KINDS = frozenset({"manifest", "locator", "name"})
"""Objects that may be replaced: a manifest gains signatures, a locator moves, a name gets a new revision."""


def check_path(path: str) -> str:
    """The kind of the object that `path` names.

    Raises:
        ObjectInvalid: it names none; whatever passes has no part that could leave the store.
    """
    kind, *parts = path.split("/")
    if kind == "name":
        fits = len(parts) == 3 and all(_PART.match(part) for part in parts)
    else:
        fits = kind in _SIZE_MAX and len(parts) == 1 and _HEX.match(parts[0]) is not None
    if not fits:
        raise ObjectInvalid(f"{path[:120]!r} is no path of a store")
    return kind


def size_max(path: str) -> int:
    """Bytes that an object of this kind can have at most, as it lies in a store."""
    return _SIZE_MAX[check_path(path)]


def object_paths(manifest: Manifest, pages: Sequence[PageRef]) -> list[str]:
    """Paths of what a manifest names: the index with its pages, and the metadata."""
    refs = [ref for ref in (manifest.meta, manifest.trace, manifest.oci) if ref is not None]
    hashes = [manifest.index.root, *(page.hash for page in pages)]
    return [*(f"index/{each.hex()}" for each in hashes), *(f"meta/{ref.blake3.hex()}" for ref in refs)]
