"""Following a hub's log from outside: the floor of a name, and that the log only grows (docs/spec/hub-log.md).

<directory>/<BLAKE3 of the hub's URL>    JSON: {"version": 1, "url", "checkpoint"}: the last one that was believed
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from blake3 import blake3
from msgspec import Meta

from flist.hub.checkpoint import Checkpoint, open_checkpoint
from flist.hub.endpoints import LOG_CONSISTENCY, LOG_LOOKUP, ConsistencyQuery, LogLookup, LookupQuery
from flist.hub.errors import LogForked, LogKeyChanged, LogMissing, LogWentBack
from flist.names import SignedRecord, Trusted, read_record
from native.merkle import ProofInvalid, hash_leaf, verify_consistency, verify_inclusion
from zos_core.base.atomic_file import Owner, locked_directory, read_limited, write_atomic
from zos_core.base.client import Client
from zos_core.base.document import Record, decode_json, encode_json
from zos_core.base.endpoint import RemoteProblem

__all__ = ["LogFollower"]

FILE_MAX = 16_384
ANSWER_TIMEOUT_S = 20.0
NOT_FOUND = 404


class _Followed(Record, frozen=True, kw_only=True):
    version: Annotated[int, Meta(ge=1, le=1)]
    url: str
    checkpoint: str


class LogFollower:
    """Checkpoints of hubs, remembered in a directory: the first one is believed, later ones must follow from it."""

    def __init__(self, directory: Path, *, owner: Owner | None = None) -> None:
        """`owner`: uid and gid of new files."""
        self._directory = directory
        self._owner = owner

    async def latest(self, url: str, name: str, tag: str, *, trusted: Trusted) -> SignedRecord | None:
        """The last revision of a name in the log of the hub at `url`, or None where the hub keeps no log.

        None also where the log has no such name, or where it was signed by a key that is not trusted.

        Raises:
            LogMissing, LogKeyChanged, LogWentBack, LogForked: the log is not that of before, continued.
            CheckpointInvalid, ProofInvalid: the hub proves nothing.
            Unreachable, RequestTimeout, RemoteProblem: it does not answer.
        """
        known = self._known(url)
        async with Client(url) as client:
            try:
                query = LookupQuery(name=name, tag=tag)
                found = await client.call(LOG_LOOKUP, query=query, timeout_s=ANSWER_TIMEOUT_S)
            except RemoteProblem as error:
                if error.http_status != NOT_FOUND:
                    raise
                if known is not None:
                    raise LogMissing(f"{url} had a log, and has none any more", hint=self._hint(url)) from error
                return None
            checkpoint = open_checkpoint(found.checkpoint)
            await self._follows(client, url, known, checkpoint)
        record = self._included(url, found, checkpoint, name, tag, trusted)
        if known != checkpoint:
            self._remember(url, found.checkpoint, checkpoint)
        return record

    async def _follows(self, client: Client, url: str, known: Checkpoint | None, new: Checkpoint) -> None:
        """Refuse a log that is not the one of `known`, continued (LOGHUB-5)."""
        if known is None or known == new:
            return
        if known.public != new.public:
            raise LogKeyChanged(f"{url} signs its log with another key than before", hint=self._hint(url))
        if new.size < known.size:
            raise LogWentBack(
                f"the log of {url} had {known.size} leaves, and has {new.size}",
                hint=self._hint(url),
                size=new.size,
                floor=known.size,
            )
        proof = b""
        if known.size and new.size > known.size:
            answer = await client.call(
                LOG_CONSISTENCY, query=ConsistencyQuery(old=known.size, new=new.size), timeout_s=ANSWER_TIMEOUT_S
            )
            proof = answer.proof
        try:
            if known.size:
                verify_consistency(known.root, known.size, new.root, new.size, proof)
        except ProofInvalid as error:
            raise LogForked(
                f"the log of {url} is not the one that was seen before, continued", hint=self._hint(url)
            ) from error

    def _included(
        self, url: str, found: LogLookup, checkpoint: Checkpoint, name: str, tag: str, trusted: Trusted
    ) -> SignedRecord | None:
        if found.index is None or found.entry is None:
            return None
        verify_inclusion(checkpoint.root, checkpoint.size, found.index, hash_leaf(found.entry), found.proof)
        signed = read_record(found.entry, trusted=None)
        if (signed.record.name, signed.record.tag) != (name, tag):
            raise LogForked(f"{url} answered {name}:{tag} with a leaf of {signed.record.name}:{signed.record.tag}")
        return signed if signed.public in trusted(name.partition("/")[0]) else None

    def _known(self, url: str) -> Checkpoint | None:
        try:
            data = read_limited(self._path(url), FILE_MAX)
        except FileNotFoundError:
            return None
        return open_checkpoint(decode_json(data, _Followed, what=str(self._path(url))).checkpoint)

    def _remember(self, url: str, text: str, checkpoint: Checkpoint) -> None:
        with locked_directory(self._directory, owner=self._owner):
            known = self._known(url)
            if known is None or known.size < checkpoint.size:  # another process may have seen more meanwhile
                document = _Followed(version=1, url=url, checkpoint=text)
                write_atomic(self._path(url), encode_json(document) + b"\n", 0o600, owner=self._owner)

    def _path(self, url: str) -> Path:
        return self._directory / blake3(url.encode()).hexdigest()

    def _hint(self, url: str) -> str:
        return f"ask the hub's operator; to believe the new log, remove {self._path(url)}"
