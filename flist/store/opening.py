"""From what a person or a plan says to a store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flist.store.directory import DirectoryStore
from flist.store.errors import StoreUnavailable
from flist.store.http import HttpStore
from flist.store.protocol import Store
from zos_core.base.paths import account
from zos_core.base.programs import Source

__all__ = ["Addresses", "addresses_of", "open_store"]


def open_store(where: str | None) -> Store:
    """The store at a directory or an http(s) URL, or the default one of this user; use it with `async with`.

    What is written into a directory belongs to the calling user, also under sudo.

    Nothing is looked at until then: the path is a caller's, and its file system may not answer.
    """
    if where is not None and where.startswith(("http://", "https://")):
        return HttpStore(where)
    user = account()
    root = user.data_dir / "store" if where is None else Path(where).absolute()
    return DirectoryStore(root, owner=user.owner)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Several stores in order, of which an image is read: the next one has what the first lacks, or has wrong."""

    addresses: Sequence[str]


def addresses_of(sources: Sequence[Source]) -> Addresses:
    """The sources of a plan, in order.

    Raises:
        StoreUnavailable: there is none, or one without an address.
    """
    if not sources:
        raise StoreUnavailable("no store to read from", hint="--store says which")
    return Addresses([_address(source) for source in sources])


def _address(source: Source) -> str:
    if source.kind == "http" and source.url is not None:
        return source.url.rstrip("/")
    if source.kind == "dir" and source.path is not None:
        return os.path.abspath(source.path)
    raise StoreUnavailable("a source without an address")
