"""Who may publish under which publisher's name (PUB-2): the first key that did, or whom the operator's file names.

    <hub>/owner/<publisher>     the key that owns the name, as text: "ed25519:<hex>\\n"

A publisher whose images were built into the store by hand belongs to the key that signed their names.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from flist.hub.errors import NotOwner
from flist.names import read_record
from flist.store.paths import NAME_FILE_MAX
from native.errors import ZosError
from zos_core.base.atomic_file import TEMPORARY_PREFIX, make_directories, read_limited, write_atomic
from zos_core.base.errors import KeyInvalid
from zos_core.base.keyring import check_registered, key_id, parse_key_id, read_publishers

__all__ = ["Owners"]

OWNER_FILE_MAX = 256

_log = logging.getLogger(__name__)


class Owners:
    """Decides by what is on disk; calls block."""

    def __init__(self, directory: Path, store: Path, *, allowed: Path | None = None) -> None:
        """Reads the operator's file once, so that a wrong one is an error at start.

        Args:
            directory: of owner files.
            store: root of the store that is published into.
            allowed: the operator's file, in the form of trusted.json; None lets the first key own a name.
        """
        self._directory = directory
        self._store = store
        self._allowed = allowed
        self._table: dict[str, list[bytes]] = {}
        self._version: tuple[int, int, int] | None = None
        if allowed is not None:
            self._version, self._table = _version(allowed), read_publishers(allowed)

    def known(self, public: bytes) -> bool:
        """Whether a key may speak to the hub at all: any that SIG-5 admits, or those of the operator's file."""
        if self._allowed is None:
            with contextlib.suppress(KeyInvalid):
                check_registered(public)
                return True
            return False
        return any(public in keys for keys in self._publishers(self._allowed).values())

    def check(self, publisher: str, public: bytes) -> None:
        """Refuse a key that may not publish under a name.

        Raises:
            NotOwner: the name is another's, or not in the operator's file.
        """
        if self._allowed is not None:
            if public not in self._publishers(self._allowed).get(publisher, []):
                raise NotOwner(
                    f"{key_id(public)} may not publish as {publisher} here",
                    hint="the hub's operator says who may: ask for your key to be added",
                    publisher=publisher,
                )
            return
        owners = self._owners(publisher)
        if owners and public not in owners:
            raise NotOwner(
                f"{publisher} belongs to {key_id(owners[0])} on this hub",
                hint="publish under another name (`zos flist build --name PUBLISHER/NAME`), or with that key",
                publisher=publisher,
            )

    def claim(self, publisher: str, public: bytes) -> None:
        """Let a key own a name that it may publish under; durable."""
        if self._allowed is None:
            make_directories(self._directory)
            with contextlib.suppress(FileExistsError):
                write_atomic(self._directory / publisher, f"{key_id(public)}\n".encode(), exclusive=True)

    def _owners(self, publisher: str) -> list[bytes]:
        try:
            text = read_limited(self._directory / publisher, OWNER_FILE_MAX).decode(errors="replace")
        except FileNotFoundError:
            return list(self._signers(publisher))
        try:
            keys = [parse_key_id(line) for line in text.split()]
        except KeyInvalid:
            keys = []
        if not keys:  # damaged, which gives it to nobody
            raise NotOwner(
                f"{publisher} belongs to a key that the hub cannot tell any more",
                hint=f"the hub's operator looks at {self._directory / publisher}",
                publisher=publisher,
            )
        return keys

    def _signers(self, publisher: str) -> Iterator[bytes]:
        for path in sorted((self._store / "name" / publisher).glob("*/*")):
            if path.name.startswith(TEMPORARY_PREFIX):
                continue
            with contextlib.suppress(ZosError, OSError):  # what is no record says nothing
                yield read_record(read_limited(path, NAME_FILE_MAX), trusted=None).public

    def _publishers(self, path: Path) -> dict[str, list[bytes]]:
        """The operator's file, read again when it has changed; while it is gone or wrong, as it was before."""
        try:
            version = _version(path)
        except OSError:
            version = None
        if version != self._version:
            self._version = version  # one attempt for each, also where it fails
            try:
                self._table = read_publishers(path)
            except (ZosError, OSError) as error:
                _log.error("%s; who might publish before still may", error)
        return self._table


def _version(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
