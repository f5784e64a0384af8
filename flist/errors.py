"""Errors of images: formats, the build, revisions. Exit statuses 20-30 and 45.

31-33 are those of the hub, 34-49 those of stores, mounts and names.
"""

from __future__ import annotations

from native.errors import ZosError

__all__ = [
    "IndexInvalid",
    "LocatorInvalid",
    "ManifestInvalid",
    "MetaInvalid",
    "RevisionNotNew",
    "RevisionWentBack",
    "TreeUnreadable",
    "TreeUnsupported",
]


class ManifestInvalid(ZosError):
    """Bytes that are not a manifest, or an .flist file, of version 1 (FLIST-MAN, FLIST-FILE)."""

    code, http_status, exit_status = "flist.manifest-invalid", 422, 20


class IndexInvalid(ZosError):
    """Bytes that are not the page list or page that the manifest names (FLIST-IDX)."""

    code, http_status, exit_status = "flist.index-invalid", 422, 21


class LocatorInvalid(ZosError):
    """Bytes that are not a locator of this index (FLIST-LOC). Another store may have a right one."""

    code, http_status, exit_status, retryable = "flist.locator-invalid", 422, 22, True


class MetaInvalid(ZosError):
    """A metadata image that is not the one the manifest names, or that is larger than it says (FLIST-META)."""

    code, http_status, exit_status = "flist.meta-invalid", 422, 23


class TreeUnsupported(ZosError):
    """Something in the tree cannot be kept in an image without loss; nothing is dropped silently (FLIST-TREE)."""

    code, http_status, exit_status = "flist.tree-unsupported", 422, 24


class TreeUnreadable(ZosError):
    """A part of the tree cannot be read, or went away while it was read."""

    code, http_status, exit_status = "flist.tree-unreadable", 422, 25


class RevisionNotNew(ZosError):
    """A name's revision never goes back, and one revision is one image: there is this one, or a higher one, already."""

    code, http_status, exit_status = "flist.revision-not-new", 409, 45


class RevisionWentBack(ZosError):
    """A store answers with an older revision than was seen before, or with another image of the same (REV-1)."""

    code, http_status, exit_status = "flist.revision-went-back", 409, 30
