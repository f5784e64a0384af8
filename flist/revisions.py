"""The highest revision seen of each name, kept durably: a revision never goes back (docs/spec/store.md, REV-1..4).

    <directory>/<publisher>/<name>/<tag>    JSON: {"version": 1, "seen": [{"key", "revision", "digest"}, ...]}

What was seen counts as long as the key that signed it is trusted for the publisher: a stolen key that published
revision 2^63 - 1 blocks nobody once it is not trusted any more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from flist.errors import RevisionWentBack
from flist.manifest import REVISION_MAX
from flist.names import SignedRecord, Trusted
from zos_core.base.atomic_file import Owner, locked_directory, make_directories, read_limited, write_atomic
from zos_core.base.document import Record, decode_json, encode_json
from zos_core.base.keyring import key_id, parse_key_id

__all__ = ["Revisions", "Seen"]

FILE_MAX = 8192
KEYS_MAX = 16
"""As many as a publisher can have; of older ones the oldest is forgotten."""

Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Seen(Record, frozen=True, kw_only=True):
    """The highest revision that a key has signed for a name, as seen here."""

    key: Annotated[str, Meta(pattern=r"^ed25519:[0-9a-f]{64}\Z")]
    revision: Annotated[int, Meta(ge=1, le=REVISION_MAX)]
    digest: Hex


class _SeenFile(Record, frozen=True, kw_only=True):
    version: Annotated[int, Meta(ge=1, le=1)]
    seen: Annotated[list[Seen], Meta(max_length=KEYS_MAX)]


class Revisions:
    """What was seen, in a directory. Calls block; several processes may share it."""

    def __init__(self, directory: Path, *, owner: Owner | None = None) -> None:
        """`owner`: uid and gid of new files."""
        self._directory = directory
        self._owner = owner

    def floor(self, name: str, tag: str, *, trusted: Trusted) -> Seen | None:
        """The highest revision of a name that a trusted key has signed, or None."""
        keys = trusted(name.partition("/")[0])
        seen = [each for each in self._read(self._path(name, tag)) if parse_key_id(each.key) in keys]
        return max(seen, key=lambda each: each.revision, default=None)

    def check(self, signed: SignedRecord, *, trusted: Trusted, where: str) -> None:
        """Refuse a record that is older than what was seen, or another image of the same revision (REV-1).

        Args:
            signed: by a trusted key.
            trusted: keys that may sign for a publisher.
            where: the store that answered, for the error.

        Raises:
            RevisionWentBack: it is.
        """
        record = signed.record
        floor = self.floor(record.name, record.tag, trusted=trusted)
        if floor is None or record.revision > floor.revision:
            return
        if record.revision < floor.revision:
            raise RevisionWentBack(
                f"{where} answers {record.name}:{record.tag} with revision {record.revision};"
                f" {floor.revision} was seen before",
                hint="the store is out of date, or plays an old image back; NAME@DIGEST takes an old one on purpose",
                revision=record.revision,
                floor=floor.revision,
            )
        if record.digest.hex() != floor.digest:
            raise RevisionWentBack(
                f"{where} answers {record.name}:{record.tag} with another image of revision {record.revision}"
                " than was seen before",
                hint="a publisher gives each image a revision of its own: ask which one is right",
                revision=record.revision,
                floor=floor.revision,
            )

    def raise_to(self, signed: SignedRecord) -> None:
        """Remember a record, durably; one that is not higher than what is known of its key changes nothing."""
        record = signed.record
        path = self._path(record.name, record.tag)
        new = Seen(key=key_id(signed.public), revision=record.revision, digest=record.digest.hex())
        with locked_directory(self._directory, owner=self._owner):
            seen = self._read(path)
            known = next((each for each in seen if each.key == new.key), None)
            if known is not None and known.revision >= new.revision:
                return
            kept = [each for each in seen if each.key != new.key][-(KEYS_MAX - 1) :]
            make_directories(path.parent, mode=0o700, owner=self._owner)
            write_atomic(path, encode_json(_SeenFile(version=1, seen=[*kept, new])) + b"\n", 0o600, owner=self._owner)

    def _path(self, name: str, tag: str) -> Path:
        # Both come from a record that was decoded: their patterns let nothing leave the directory.
        return self._directory / name / tag

    def _read(self, path: Path) -> list[Seen]:
        try:
            data = read_limited(path, FILE_MAX)
        except FileNotFoundError:
            return []
        return decode_json(data, _SeenFile, what=str(path)).seen
