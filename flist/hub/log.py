"""The log of a hub: every revision that it published, in a Merkle tree of RFC 6962 (docs/spec/hub-log.md).

    <hub>/log           magic "ZOSHUBLG" | u16 version 1 | u16 0, then {u32 length, name record} for each leaf
    <hub>/checkpoint    the signed note of what the log was when it was last written

A leaf is the signed name record itself (NAME-2), so that a hub can add nothing that the publisher has not signed. The
file only grows: leaves are written and synced first, then the checkpoint. Calls block; appends come one after another.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from array import array
from dataclasses import dataclass
from pathlib import Path

from flist.hub.checkpoint import CHECKPOINT_BYTES_MAX, open_checkpoint, sign_checkpoint
from flist.hub.errors import LogDamaged
from flist.hub.staging import writing
from flist.names import NameRecord, read_record
from flist.store.paths import NAME_FILE_MAX
from native.errors import ZosError
from native.merkle import consistency_proof, extend, hash_leaf, inclusion_proof, root
from zos_core.base.atomic_file import read_limited, write_atomic
from zos_core.base.keyring import Key

__all__ = ["ENTRIES_MAX", "Leaf", "RevisionLog"]

ENTRIES_MAX = 1 << 24
"""Leaves of one log: at 64 bytes of hashes each, a GiB of memory."""

_MAGIC = b"ZOSHUBLG"
_HEADER = struct.Struct("<8sHH")
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Leaf:
    """The last revision of a name that the log holds, and where."""

    index: int
    record: NameRecord


class RevisionLog:
    """The log in a hub's directory."""

    def __init__(self, directory: Path, key: Key) -> None:
        """Reads the whole log and compares it with its checkpoint; makes an empty one where there is none.

        A leaf behind the checkpoint is one of a hub that was killed before it signed: a whole one is signed now, one
        that is cut off was never answered for, and is taken away.

        Raises:
            LogDamaged: the log is shorter than, or another than, what was signed, or was signed by another key.
        """
        self._path, self._note = directory / "log", directory / "checkpoint"
        self._key = key
        self._nodes = bytearray()
        self._ends = array("Q")
        self._latest: dict[tuple[str, str], Leaf] = {}
        self._before = array("q")
        """For each leaf the one before of the same name, or -1."""
        self._end = _HEADER.size
        self._lock = threading.Lock()
        self._text, self._signed_size = "", -1
        if not self._path.exists():
            if self._note.exists():
                raise self._damaged("the log is gone, its checkpoint is there")
            with writing("the log"):
                write_atomic(self._path, _HEADER.pack(_MAGIC, 1, 0))
        self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._read()
            self._check()
            with writing("the log"):
                os.ftruncate(self._file, self._end)  # not before: what was signed must not be lost to a wrong length
            if self._signed_size != self.size:
                self._sign()
        except BaseException:
            os.close(self._file)
            raise

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._ends)

    @property
    def signed_size(self) -> int:
        """Number of leaves that the checkpoint speaks of."""
        return self._signed_size

    @property
    def checkpoint(self) -> str:
        """The signed note of the log; it may be behind by a leaf when there was no room for it."""
        return self._text

    def root(self, size: int) -> bytes:
        """The root of the first `size` leaves."""
        return root(self._nodes, size)

    def latest(self, name: str, tag: str) -> Leaf | None:
        """The last leaf of a name, or None."""
        return self._latest.get((name, tag))

    def latest_signed(self, name: str, tag: str, *, but: bytes | None) -> int | None:
        """Index of the last leaf of a name that the checkpoint counts and whose bytes are not `but`, or None."""
        leaf = self.latest(name, tag)
        index = -1 if leaf is None else leaf.index
        while index >= 0 and (index >= self._signed_size or self.entry(index) == but):
            index = self._before[index]
        return None if index < 0 else index

    def entry(self, index: int) -> bytes:
        """The bytes of a leaf."""
        start = (self._ends[index - 1] if index else _HEADER.size) + _LENGTH.size
        return os.pread(self._file, self._ends[index] - start, start)

    def inclusion(self, index: int, size: int) -> bytes:
        """The audit path of a leaf in the tree of the first `size` leaves, 32 bytes for each step."""
        with self._lock:
            return inclusion_proof(self._nodes, size, index)

    def consistency(self, old: int, new: int) -> bytes:
        """The proof that the first `old` leaves are those of the tree of `new` leaves, 32 bytes for each step."""
        with self._lock:
            return consistency_proof(self._nodes, old, new)

    def append(self, data: bytes) -> Leaf:
        """Add a signed name record, durably, and sign the new state; the same record again is no change.

        Raises:
            DiskFull, StoreUnwritable: the log is as it was, or only its checkpoint is; then appending again signs it.
        """
        record = read_record(data, trusted=None).record
        known = self.latest(record.name, record.tag)
        if known is not None and self.entry(known.index) == data:
            if self._signed_size != self.size:
                self._sign()
            return known
        if self.size >= ENTRIES_MAX:
            raise LogDamaged(f"the log has {ENTRIES_MAX} leaves", hint="start a new hub")
        try:
            with writing("the log"):
                written = os.pwrite(self._file, _LENGTH.pack(len(data)) + data, self._end)
                if written != _LENGTH.size + len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fdatasync(self._file)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error says more; the next leaf is written over it anyway
                os.ftruncate(self._file, self._end)
            raise
        leaf = self._take(data, record)
        self._sign()
        return leaf

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _take(self, data: bytes, record: NameRecord) -> Leaf:
        leaf = Leaf(self.size, record)
        before = self._latest.get((record.name, record.tag))
        with self._lock:
            self._nodes += extend(self._nodes, self.size, hash_leaf(data))
            self._end += _LENGTH.size + len(data)
            self._before.append(-1 if before is None else before.index)
            self._ends.append(self._end)
        self._latest[record.name, record.tag] = leaf
        return leaf

    def _read(self) -> None:
        with open(os.dup(self._file), "rb") as stream:
            head = stream.read(_HEADER.size)
            if head != _HEADER.pack(_MAGIC, 1, 0):
                raise self._damaged("the log has another header")
            while True:
                head = stream.read(_LENGTH.size)
                length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
                data = stream.read(length) if 0 < length <= NAME_FILE_MAX else b""
                if not data or len(data) < length:
                    break
                try:
                    self._take(data, read_record(data, trusted=None).record)
                except ZosError as error:
                    raise self._damaged(f"leaf {self.size}: {error}") from error

    def _check(self) -> None:
        try:
            text = read_limited(self._note, CHECKPOINT_BYTES_MAX).decode(errors="replace")
        except FileNotFoundError:
            if self.size:
                raise self._damaged("there are leaves and no checkpoint") from None
            return
        signed = open_checkpoint(text)
        if signed.public != self._key.public:
            raise self._damaged("the checkpoint is signed by another key than the hub's")
        if signed.size > self.size:
            raise self._damaged(f"{signed.size} leaves were signed, {self.size} are there")
        if self.root(signed.size) != signed.root:
            raise self._damaged(f"the first {signed.size} leaves are not those that were signed")
        self._text, self._signed_size = text, signed.size

    def _sign(self) -> None:
        text = sign_checkpoint(self._key, self.size, self.root(self.size))
        with writing("the checkpoint"):
            write_atomic(self._note, text.encode())
        self._text, self._signed_size = text, self.size

    def _damaged(self, why: str) -> LogDamaged:
        return LogDamaged(
            f"{self._path}: {why}",
            hint="bring it back from a copy that is not older; a log that was published cannot begin anew",
        )
