"""What keeps revisions from going back: the floor that was seen, and the floor that a hub's log gives (REV-1..4)."""

from __future__ import annotations

from pathlib import Path

from flist.hub.follow import LogFollower
from flist.names import ImageName, SignedRecord, Trusted
from flist.revisions import Revisions
from flist.store import HttpStore, Store, StoreUnavailable
from zos_core.base.atomic_file import Owner
from zos_core.base.errors import RequestTimeout, Unreachable
from zos_core.base.threads import in_thread

__all__ = ["RevisionGuard"]


class RevisionGuard:
    """`names.Floors`, in a directory: `names/` is what was seen, `hubs/` the checkpoints of logs."""

    def __init__(self, directory: Path, *, owner: Owner | None = None) -> None:
        """`owner`: uid and gid of new files."""
        self.revisions = Revisions(directory / "names", owner=owner)
        self._follower = LogFollower(directory / "hubs", owner=owner)

    async def learn(self, store: Store, name: ImageName, *, trusted: Trusted) -> None:
        """Take the floor from the log of a hub (REV-3); a directory has none.

        Raises:
            LogMissing, LogKeyChanged, LogWentBack, LogForked, CheckpointInvalid, ProofInvalid: the log is not believed.
            StoreUnavailable: the hub does not answer.
        """
        if not isinstance(store, HttpStore):
            return
        try:
            logged = await self._follower.latest(store.name, name.repository, name.tag, trusted=trusted)
        except (Unreachable, RequestTimeout) as error:
            raise StoreUnavailable(error.message, hint="is the hub reachable?") from error
        if logged is not None:
            await in_thread(self.revisions.raise_to, logged)

    async def check(self, store: Store, signed: SignedRecord, *, trusted: Trusted) -> None:
        """As `Revisions.check`."""
        await in_thread(self.revisions.check, signed, trusted=trusted, where=store.name)

    async def remember(self, signed: SignedRecord) -> None:
        """As `Revisions.raise_to`."""
        await in_thread(self.revisions.raise_to, signed)
