"""What a store can answer instead of an object. Exit statuses 36, 37 and 41."""

from __future__ import annotations

from native.errors import ZosError

__all__ = ["ObjectInvalid", "ObjectMissing", "StoreReadOnly", "StoreUnavailable"]


class ObjectMissing(ZosError):
    """The store has no object of that path."""

    code, http_status, exit_status = "store.object-missing", 404, 36


class ObjectInvalid(ZosError):
    """A path that is none, or an object that is longer than any of its kind."""

    code, http_status, exit_status = "store.object-invalid", 422, 37


class StoreUnavailable(ZosError):
    """A store that cannot be reached or read, or that is too slow."""

    code, http_status, exit_status, retryable = "store.unavailable", 503, 41, True


class StoreReadOnly(ZosError):
    """This store takes no objects from here."""

    code, http_status, exit_status = "store.read-only", 405, 41
