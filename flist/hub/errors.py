"""Errors of the hub: publishing 32 and 33, its log 31."""

from __future__ import annotations

from native.errors import ZosError

__all__ = [
    "CheckpointInvalid",
    "HubBusy",
    "ImageTooLarge",
    "LogDamaged",
    "LogForked",
    "LogKeyChanged",
    "LogMissing",
    "LogWentBack",
    "NotOwner",
    "ObjectWrong",
    "RevisionIncomplete",
    "StoreUnwritable",
    "UploadConflict",
    "UploadLimit",
]


class CheckpointInvalid(ZosError):
    """A checkpoint that is none, or that the log's key has not signed (LOGHUB-2)."""

    code, http_status, exit_status = "hublog.checkpoint-invalid", 502, 31


class LogForked(ZosError):
    """The hub's log is not the one that was seen before, continued: somebody rewrote history (LOGHUB-5)."""

    code, http_status, exit_status = "hublog.forked", 502, 31


class LogWentBack(ZosError):
    """The hub's log is shorter than it was (LOGHUB-5)."""

    code, http_status, exit_status = "hublog.went-back", 502, 31


class LogKeyChanged(ZosError):
    """The hub signs its log with another key than before (LOGHUB-4)."""

    code, http_status, exit_status = "hublog.key-changed", 502, 31


class LogMissing(ZosError):
    """A hub that had a log has none any more (LOGHUB-4)."""

    code, http_status, exit_status = "hublog.missing", 502, 31


class LogDamaged(ZosError):
    """The hub's own log on disk is not what its checkpoint says: it serves nothing before an operator has looked."""

    code, http_status, exit_status = "hublog.damaged", 500, 31


class NotOwner(ZosError):
    """The publisher's name belongs to another key (PUB-2)."""

    code, http_status, exit_status = "hub.not-owner", 403, 32


class UploadConflict(ZosError):
    """The hub has another number of bytes of this object than the upload goes on from: `offset` says how many."""

    code, http_status, exit_status, retryable = "hub.upload-conflict", 409, 32, True


class ObjectWrong(ZosError):
    """What arrived has another hash than its name says; it was thrown away (PUB-4)."""

    code, http_status, exit_status, retryable = "hub.object-wrong", 422, 32, True


class RevisionIncomplete(ZosError):
    """A revision was to be committed, and the hub lacks something of it (PUB-6)."""

    code, http_status, exit_status, retryable = "hub.revision-incomplete", 409, 32, True


class ImageTooLarge(ZosError):
    """An image has more metadata than a hub reads for a publisher: `limit` bytes, plain (PUB-8)."""

    code, http_status, exit_status = "hub.image-too-large", 413, 32


class UploadLimit(ZosError):
    """More unpublished bytes, or objects, than the hub keeps for one key or for all together (PUB-8)."""

    code, http_status, exit_status, retryable = "hub.upload-limit", 507, 33, True


class StoreUnwritable(ZosError):
    """The hub may not, or cannot, write into its own store."""

    code, http_status, exit_status = "hub.store-unwritable", 503, 33


class HubBusy(ZosError):
    """Another hub takes publications into this store."""

    code, http_status, exit_status = "hub.store-busy", 409, 33
