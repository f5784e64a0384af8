"""Stores: where the objects of images lie, by content (docs/spec/store.md)."""

from flist.store.directory import DirectoryStore
from flist.store.errors import ObjectInvalid, ObjectMissing, StoreReadOnly, StoreUnavailable
from flist.store.http import HttpStore
from flist.store.opening import open_sources, open_store
from flist.store.protocol import Store
from flist.store.tiered import TieredStore

__all__ = [
    "DirectoryStore",
    "HttpStore",
    "ObjectInvalid",
    "ObjectMissing",
    "Store",
    "StoreReadOnly",
    "StoreUnavailable",
    "TieredStore",
    "open_sources",
    "open_store",
]
