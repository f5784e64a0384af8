"""Stores: where the objects of images lie, by content (docs/spec/store.md)."""

from flist.store.directory import DirectoryStore
from flist.store.errors import ObjectInvalid, ObjectMissing, StoreReadOnly, StoreUnavailable
from flist.store.http import HttpStore
from flist.store.opening import Addresses, addresses_of, open_store
from flist.store.protocol import Addressed, Store

__all__ = [
    "Addressed",
    "Addresses",
    "DirectoryStore",
    "HttpStore",
    "ObjectInvalid",
    "ObjectMissing",
    "Store",
    "StoreReadOnly",
    "StoreUnavailable",
    "addresses_of",
    "open_store",
]
