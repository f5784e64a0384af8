"""Nonces that were seen, in a file that survives a restart, bounded (docs/spec/request-signature.md, REQSIG-8).

    magic "ZOSNONCE" | u16 version 1 | u16 0 | u32 0 | u64 horizon | records {u64 expires, id 24, key 8}

`id` is the first 24 bytes of BLAKE3(key | nonce), `key` the first 8 of the public key. What expires at the horizon or
before is refused unseen, so an entry may be dropped as soon as the horizon has passed it, and a clock that is set back
opens nothing again. Little-endian.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections import Counter
from pathlib import Path

from blake3 import blake3

from native.errors import ZosError
from zos_core.base.atomic_file import write_atomic
from zos_core.base.errors import DiskFull
from zos_core.base.request_signature import RequestReplayed, SignatureExpired, Verified

__all__ = ["NONCES_MAX", "NONCES_PER_KEY_MAX", "NonceStore", "NoncesDamaged", "NoncesFull"]

NONCES_MAX = 131_072
"""Live at once: 5 MiB on disk."""
NONCES_PER_KEY_MAX = 32_768
"""So that one key cannot shut out the others; 500 requests a second for a minute."""

_MAGIC = b"ZOSNONCE"
_HEADER = struct.Struct("<8sHHIQ")
_RECORD = struct.Struct("<Q24s8s")


class NoncesFull(ZosError):
    """More signed requests in a short time than can be remembered; none is accepted unremembered."""

    code, http_status, exit_status, retryable = "request.too-many", 503, 16, True


class NoncesDamaged(ZosError):
    """The file of nonces is something else: replays could not be told."""

    code, http_status, exit_status = "request.nonces-damaged", 500, 16


class NonceStore:
    """Remembers nonces until they expire. Calls block for the time of an fdatasync, and may come from any thread."""

    def __init__(self, path: Path, *, nonces_max: int = NONCES_MAX, per_key_max: int = NONCES_PER_KEY_MAX) -> None:
        """Reads, or makes, the file.

        Raises:
            NoncesDamaged: it is something else.
            OSError: it cannot be read or made.
        """
        self._path = path
        self._most, self._most_per_key = nonces_max, per_key_max
        self._lock = threading.Lock()
        self._live: dict[bytes, tuple[int, bytes]] = {}
        self._by_key: Counter[bytes] = Counter()
        self._horizon_s = 0
        try:
            self._load(path.read_bytes())
        except FileNotFoundError:
            self._file = self._rewrite()

    def remember(self, verified: Verified, *, now_s: int) -> None:
        """Take note of a nonce, durably, before the request is acted on.

        Raises:
            RequestReplayed: it was here before.
            SignatureExpired: it expired before the horizon: whether it was here is not known any more.
            NoncesFull: it cannot be remembered.
            DiskFull: nor written.
        """
        who = verified.public[:8]
        identity = blake3(verified.public + verified.nonce.encode()).digest()[:24]
        with self._lock:
            if verified.expires_s <= self._horizon_s:
                raise SignatureExpired("the signature expired before the clock was set back", now_s=now_s)
            if identity in self._live:
                raise RequestReplayed("this request was here before")
            if self._full_for(who) and now_s > self._horizon_s:  # at most once a second: it writes the file anew
                self._forget(now_s)
            if self._full_for(who):
                raise NoncesFull("too many signed requests at once", hint="try again in a minute")
            self._append(_RECORD.pack(verified.expires_s, identity, who))
            self._add(identity, verified.expires_s, who)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _full_for(self, who: bytes) -> bool:
        return len(self._live) >= self._most or self._by_key[who] >= self._most_per_key

    def _append(self, record: bytes) -> None:
        end = os.fstat(self._file).st_size
        try:
            if os.write(self._file, record) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(self._file)
        except OSError as error:
            os.ftruncate(self._file, end)
            raise DiskFull(f"the nonce of a request cannot be kept: {error.strerror}", path=str(self._path)) from error

    def _add(self, identity: bytes, expires_s: int, who: bytes) -> None:
        self._live[identity] = (expires_s, who)
        self._by_key[who] += 1

    def _forget(self, now_s: int) -> None:
        """Drop what has expired, and write the file anew."""
        self._horizon_s = now_s
        live = {name: kept for name, kept in self._live.items() if kept[0] > self._horizon_s}
        self._live = live
        self._by_key = Counter(who for _, who in live.values())
        old, self._file = self._file, self._rewrite()
        os.close(old)

    def _rewrite(self) -> int:
        head = _HEADER.pack(_MAGIC, 1, 0, 0, self._horizon_s)
        records = (_RECORD.pack(expires_s, name, who) for name, (expires_s, who) in self._live.items())
        write_atomic(self._path, head + b"".join(records), 0o600)
        return self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)

    def _load(self, data: bytes) -> None:
        if len(data) < _HEADER.size:
            raise NoncesDamaged(f"{self._path} is no file of nonces", hint="remove it when 5 minutes have passed")
        magic, version, zero, zero2, self._horizon_s = _HEADER.unpack_from(data)
        if (magic, version, zero, zero2) != (_MAGIC, 1, 0, 0):
            raise NoncesDamaged(f"{self._path} is no file of nonces", hint="remove it when 5 minutes have passed")
        # A last record that is cut off was never answered: its write had not ended.
        whole = len(data) - (len(data) - _HEADER.size) % _RECORD.size
        for expires_s, identity, who in _RECORD.iter_unpack(data[_HEADER.size : whole]):
            if expires_s > self._horizon_s:
                self._add(identity, expires_s, who)
        self._file = self._open()
        os.ftruncate(self._file, whole)
