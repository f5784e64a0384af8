"""Fetching units and objects of images from stores, each byte verified by BLAKE3 before anybody sees it.

`ImageReader` is what blockd serves images with (`native/crates/fetch`), without FUSE and without a directory: for tools
that extract, print or verify (`flist/reader.py`). `fetch_object` brings a whole object, such as a metadata image, to a
file. Sources are HTTP addresses (`http://`, `https://`) or absolute paths of directories, tried in order. Nothing here
holds the GIL while it waits. Ctrl-C is heard within 50 ms in the main thread; for any other there is `stop`. There is
no twin in plain Python: this is input and output, not a kernel.
"""

from __future__ import annotations

import native._main_only  # noqa: F401  # refuses other interpreters
from native._rust import ImageReader, fetch_object
from native.errors import ZosError

__all__ = [
    "FetchCorrupt",
    "FetchLocal",
    "FetchMissing",
    "FetchUnavailable",
    "ImageReader",
    "fetch_object",
]


class FetchUnavailable(ZosError):
    """No source could be reached, answered, or was in time; `reason` says which, `source` who."""

    code, http_status, exit_status, retryable = "fetch.unavailable", 503, 91, True


class FetchMissing(ZosError):
    """No source has the object."""

    code, http_status, exit_status = "fetch.missing", 404, 92


class FetchCorrupt(ZosError):
    """What came is not what its hash names: wrong, too short, too long or malformed; `reason` says which.

    Context: `reason`, `source`, and of a unit `unit`, `pack` and `offset`.
    """

    code, http_status, exit_status = "fetch.corrupt", 502, 93


class FetchLocal(ZosError):
    """What was fetched cannot be kept: disk full, directory in use, or another local error; `reason` says which."""

    code, http_status, exit_status = "fetch.local", 507, 94
