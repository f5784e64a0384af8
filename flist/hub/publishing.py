"""Publishing into a store: what is offered, uploaded and committed (docs/spec/publish.md).

    <hub>/staged/       uploads (`staging`)
    <hub>/intent        the revision that is being committed, from the point of no return until all of it is in place
    <hub>/log, checkpoint, owner/, nonces, key.json, lock

A commit is one rename, that of the intent. What follows only carries it out, step by step, each idempotent, the name
record last; a hub that is killed meanwhile carries it out at its next start, before it serves anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from blake3 import blake3

from flist.errors import LocatorInvalid, RevisionNotNew
from flist.hub.endpoints import (
    ChunkQuery,
    Committed,
    LogLookup,
    LookupQuery,
    Offer,
    Revision,
    Uploaded,
    Wanted,
    WantedObject,
)
from flist.hub.errors import HubBusy, RevisionIncomplete, StoreUnwritable
from flist.hub.log import RevisionLog
from flist.hub.owners import Owners
from flist.hub.staging import HUB_META_MAX, UPLOAD_KINDS, Staging, disk_full, too_large, writing
from flist.index import PageList
from flist.locator import ENTRY_SIZE, header_size, packs_of
from flist.manifest import Manifest, SignedManifest
from flist.names import NameRecord, SignedRecord, read_record
from flist.sign import verify_manifest
from flist.store import DirectoryStore, ObjectMissing, StoreUnavailable
from flist.store.paths import NAME_FILE_MAX, check_path, object_paths, size_max
from flist.verify import verify
from native.errors import ZosError
from native.fetch import FetchLocal
from zos_core.base.atomic_file import make_directories, read_limited, sync_directory, write_atomic
from zos_core.base.document import Record, decode_msgpack, encode_msgpack
from zos_core.base.errors import (
    DescriptorsExhausted,
    DiskFull,
    DocumentInvalid,
    RequestTimeout,
    ServerBusy,
    is_out_of_descriptors,
)
from zos_core.base.keyring import Keyring
from zos_core.base.server import Caller
from zos_core.base.threads import in_thread

__all__ = ["HUB_DIRECTORY", "Intent", "Publishing", "Step"]

HUB_DIRECTORY = "hub"
"""Below the store: no kind of object, so nothing in it can be asked for."""
INTENT_BYTES_MAX = 64 << 20
VERIFY_TIMEOUT_S = 1800.0
"""For reading all of an image on the hub's own disk."""
PATHS_BYTES_MAX = 8 * HUB_META_MAX
"""Of all files of an image together: short names in a deep directory are a few bytes of metadata, and 4 KiB of path."""
VERIFIED_AT_ONCE = 2
"""Each takes a processor, and memory for the metadata (`HUB_META_MAX`)."""
COMMITS_MAX = 32
COMMITS_OF_KEY_MAX = 4
"""Under way, verified or waiting for it; more are told to come again."""

SCRATCH = "scratch"
VIEWS = "view"
"""Directory of what is being verified; who is killed meanwhile leaves links, which go at the next start."""

DISCARDED_AT_ONCE = 256
"""Idle uploads that are removed while commits and lookups wait."""

_log = logging.getLogger(__name__)


class Intent(Record, frozen=True, kw_only=True):
    """A commit that is decided: `objects` are those that move from the key's staging into the store."""

    public: bytes
    record: bytes
    manifest: bytes
    objects: list[str]
    locator: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """One idempotent step of a commit."""

    name: str
    work: Callable[[], None]


class Publishing:
    """Takes publications into the store at `root`. Methods are for the loop; what blocks is done in threads."""

    def __init__(self, root: Path, *, allowed: Path | None = None, run: Callable[[Step], None] | None = None) -> None:
        """Takes the store, finishes what a predecessor was about to commit, and logs what was built by hand.

        Args:
            root: of a directory store.
            allowed: the operator's file of publishers, or None.
            run: carries out a step; a test may end the process there.

        Raises:
            HubBusy: another hub publishes into this store.
            LogDamaged: see there.
            OSError: the store cannot be written.
        """
        self._root = root
        self._directory = root / HUB_DIRECTORY
        self._run = run or (lambda step: step.work())
        make_directories(self._directory, mode=0o700)
        self._lock_file = self._locked()
        try:
            self._key = Keyring(self._directory, publisher="hub").own_key()
            self.log = RevisionLog(self._directory, self._key)
            self.owners = Owners(self._directory / "owner", root, allowed=allowed)
            self.staging = Staging(self._directory / "staged")
            self._store = DirectoryStore(root)
            shutil.rmtree(self._directory / VIEWS, ignore_errors=True)
            self._commit = asyncio.Lock()
            self._pending: Intent | None = None
            self._verifying = asyncio.Semaphore(VERIFIED_AT_ONCE)
            self._commits: Counter[bytes] = Counter()
            # Each lives for as long as somebody has it or waits for it.
            self._turns: WeakValueDictionary[tuple[bytes, str], asyncio.Lock] = WeakValueDictionary()
            self._views = itertools.count()
            try:
                self._carry_out()
                self._log_what_was_built()
            except (DiskFull, StoreUnwritable) as error:
                # Reading goes on; the next commit tries again, and says so.
                _log.warning("%s", error)
        except BaseException:
            os.close(self._lock_file)
            raise

    @property
    def nonces(self) -> Path:
        """Where the nonces of signed requests are kept."""
        return self._directory / "nonces"

    def close(self) -> None:
        """Give the store up."""
        self.log.close()
        os.close(self._lock_file)

    # --- Handlers ---------------------------------------------------------------------------------------------------

    async def offer(self, *, caller: Caller, body: Offer) -> Wanted:
        """Which objects are lacking; refuses at once what could not be committed later (PUB-3)."""
        public = _public(caller)
        await in_thread(self.owners.check, body.name.partition("/")[0], public)
        record = NameRecord(name=body.name, tag=body.tag, digest=body.digest, revision=body.revision)
        self._refuse_old(record, await in_thread(self._current, body.name, body.tag))
        return Wanted(objects=await in_thread(self._wanted, public, body.objects))

    async def upload(self, *, caller: Caller, kind: str, hash: str, query: ChunkQuery, body: bytes) -> Uploaded:
        """Bytes of an object (PUB-4)."""
        public, path = _public(caller), f"{kind}/{hash}"
        check_path(path)
        async with self._turn(public, path):
            if kind != "locator" and (self._root / path).is_file():
                return Uploaded(offset=query.size)
            offset = await in_thread(self.staging.append, public, path, offset=query.offset, size=query.size, data=body)
        return Uploaded(offset=offset)

    async def commit(self, *, caller: Caller, body: Revision) -> Committed:
        """Publish a revision (PUB-6, PUB-7)."""
        public = _public(caller)
        image, signed = _checked(body, public)
        record = signed.record
        await in_thread(self.owners.check, record.name.partition("/")[0], public)
        self._refuse_old(record, await in_thread(self._current, record.name, record.tag))
        with self._under_way(public):
            async with self._verifying:
                await self._verify(public, image, body.locator)
            return await self._publish(public, image, record, body)

    @contextlib.contextmanager
    def _under_way(self, public: bytes) -> Iterator[None]:
        if self._commits.total() >= COMMITS_MAX or self._commits[public] >= COMMITS_OF_KEY_MAX:
            raise ServerBusy("the hub has enough to verify already", hint="publish again in a while")
        self._commits[public] += 1
        try:
            yield
        finally:
            self._commits[public] -= 1
            self._commits += Counter()  # drops those that have none

    async def _publish(self, public: bytes, image: SignedManifest, record: NameRecord, body: Revision) -> Committed:
        """Commit what was verified."""
        async with self._commit:
            await in_thread(self._carry_out)
            await in_thread(self.owners.check, record.name.partition("/")[0], public)
            current = await in_thread(self._current, record.name, record.tag)
            self._refuse_old(record, current)
            intent = await in_thread(self._intent, public, image, body)
            published = current is not None and current.record == record and await self._has_manifest(image)
            if not published or intent.objects or intent.locator is not None:
                await in_thread(self._decide, intent)
                await in_thread(self._carry_out)
            leaf = await in_thread(self.log.append, body.record)
        return Committed(
            name=record.name,
            tag=record.tag,
            digest=record.digest.hex(),
            revision=record.revision,
            index=leaf.index,
        )

    async def lookup(self, *, query: LookupQuery) -> LogLookup:
        """The last leaf of a name that is in place, in the tree of the checkpoint that comes with it (LOGHUB-3)."""
        async with self._commit:
            not_yet = await in_thread(self._before_lookup, query.name, query.tag)
            index = self.log.latest_signed(query.name, query.tag, but=not_yet)
            if index is None:
                return LogLookup(checkpoint=self.log.checkpoint)
            return LogLookup(
                checkpoint=self.log.checkpoint,
                index=index,
                entry=self.log.entry(index),
                proof=self.log.inclusion(index, self.log.signed_size),
            )

    def _before_lookup(self, name: str, tag: str) -> bytes | None:
        """Bring name and log together, if that can be; the record that is in the log and cannot be put in place yet."""
        pending = self._pending
        if pending is not None and _names(pending, name, tag):
            with contextlib.suppress(ZosError, OSError):  # readers are served; the next who publishes is told
                self._carry_out()
        with contextlib.suppress(DiskFull, StoreUnwritable):
            self.log_name(name, tag)
        pending = self._pending
        if pending is None or not _names(pending, name, tag):
            return None
        with contextlib.suppress(FileNotFoundError):
            if read_limited(self._root / "name" / name / tag, NAME_FILE_MAX) == pending.record:
                return None
        return pending.record

    def _turn(self, public: bytes, path: str) -> asyncio.Lock:
        """For who changes a staged object of a key: one at a time."""
        return self._turns.setdefault((public, path), asyncio.Lock())

    # --- Checks -----------------------------------------------------------------------------------------------------

    def _current(self, name: str, tag: str) -> SignedRecord | None:
        try:
            data = read_limited(self._root / "name" / name / tag, NAME_FILE_MAX)
        except FileNotFoundError:
            return None
        return read_record(data, trusted=None)

    def _refuse_old(self, record: NameRecord, current: SignedRecord | None) -> None:
        logged = self.log.latest(record.name, record.tag)
        for known in (None if current is None else current.record, None if logged is None else logged.record):
            if known is None or (known.revision, known.digest) == (record.revision, record.digest):
                continue
            if known.revision >= record.revision:
                raise RevisionNotNew(
                    f"{record.name}:{record.tag} has revision {known.revision} on this hub already",
                    hint=f"build it with --revision {known.revision + 1} or more",
                    revision=known.revision,
                )

    def _wanted(self, public: bytes, paths: Sequence[str]) -> list[WantedObject]:
        wanted = []
        for path in paths:
            if check_path(path) not in UPLOAD_KINDS:
                raise DocumentInvalid(f"{path} cannot be uploaded")
            if not (self._root / path).is_file():
                offset = self.staging.offset(public, path)
                if offset is not None:
                    wanted.append(WantedObject(path=path, offset=offset))
        return wanted

    def _new_locator(self, public: bytes, manifest: Manifest, digest: bytes | None) -> bytes | None:
        """The locator that a commit brings: None also where the store has that very one, from the same commit before.

        Raises:
            RevisionIncomplete: it is in neither.
        """
        if digest is None or (self.staging.place(public) / "locator" / digest.hex()).is_file():
            return digest
        path = f"locator/{manifest.index.root.hex()}"
        with contextlib.suppress(FileNotFoundError):
            if blake3(read_limited(self._root / path, size_max(path))).digest() == digest:
                return None
        raise RevisionIncomplete("the locator did not come", hint="publish again: it goes on")

    async def _verify(self, public: bytes, image: SignedManifest, locator: bytes | None) -> None:
        """Read all of the image as a reader will, by the locator that it will have then (PUB-6)."""
        # One for each commit: a key may publish several images at once.
        view = self._directory / VIEWS / f"{public.hex()}-{next(self._views)}"
        try:
            await in_thread(self._make_view, view, public, image.manifest, locator)
            async with asyncio.timeout(VERIFY_TIMEOUT_S):
                await verify(
                    DirectoryStore(view),
                    image,
                    trusted=None,
                    scratch=view / SCRATCH,
                    paths_bytes_max=PATHS_BYTES_MAX,
                )
        except TimeoutError as error:
            raise RequestTimeout(f"the image was not verified within {VERIFY_TIMEOUT_S:.0f} s") from error
        except (DiskFull, StoreUnwritable):
            raise
        except FetchLocal as error:
            match error.context.get("reason"):
                case "fetch.no-space":
                    raise disk_full("what is verified", error.message) from error
                case "fetch.no-descriptors":
                    raise DescriptorsExhausted.here("verify an image") from error
            raise
        except ZosError as error:
            raise RevisionIncomplete(
                f"the image is not whole on this hub: {error}", hint="publish again: it goes on", cause=error.code
            ) from error
        finally:
            await in_thread(shutil.rmtree, view, ignore_errors=True)

    def _make_view(self, view: Path, public: bytes, manifest: Manifest, locator: bytes | None) -> None:
        """A store of this image alone, as it will be: everything is linked from where it lies, staging or store.

        Nothing else may be read for it: where a locator leads to wrong bytes a reader of several stores asks the next
        one, and would find good ones by a locator that this one is about to replace. `locator` is the hash of the one
        that was sent for this commit; None for the store's own.
        """
        found = self._found(public, manifest, self._new_locator(public, manifest, locator))
        with writing("what is verified"):
            make_directories(view / SCRATCH, mode=0o700)
            for path, file in found.items():
                make_directories((view / path).parent, mode=0o700)
                # Another commit of this key may have moved it into the store meanwhile. A locator's path there may be
                # that of another one, so that it is looked for in one place.
                files = (file,) if path.startswith("locator/") else (file, self._root / path)
                if not any(_link(each, view / path) for each in files):
                    raise _missing(path)

    def _found(self, public: bytes, manifest: Manifest, locator: bytes | None) -> dict[str, Path]:
        """All objects of an image, each with the file that readers will have: the store's own, else the staged one.

        What is verified and what is moved both come from here: they are the same. `locator` is that of `_new_locator`.

        Raises:
            RevisionIncomplete: something is in neither.
            IndexInvalid, LocatorInvalid: no page list, or no locator of it.
        """
        place, index = self.staging.place(public), manifest.index.root.hex()
        path = f"locator/{index}"
        found = {path: self._root / path if locator is None else place / "locator" / locator.hex()}

        def find(path: str) -> bytes:
            try:
                return read_limited(found[path], size_max(path))
            except FileNotFoundError:
                raise _missing(path) from None
            except OSError as error:
                if is_out_of_descriptors(error):
                    raise
                raise StoreUnavailable(f"{found[path]}: {error.strerror}", path=path, errno=error.errno) from error

        def add(path: str) -> None:
            file = next((each / path for each in (self._root, place) if (each / path).is_file()), None)
            if file is None:
                raise _missing(path)
            found[path] = file

        data = find(path)
        packs = packs_of(data)
        if len(data) != header_size(len(packs)) + ENTRY_SIZE * manifest.index.units:
            raise LocatorInvalid("a locator has another number of units than the index")
        add(f"index/{index}")
        pages = PageList.decode(find(f"index/{index}"), manifest.index.root).pages
        for each in (*object_paths(manifest, pages), *(f"pack/{pack.hex()}" for pack in packs)):
            add(each)
        return found

    async def _has_manifest(self, image: SignedManifest) -> bool:
        try:
            return await self._store.get(f"manifest/{image.digest.hex()}") == image.encode()
        except ObjectMissing:
            return False

    # --- Commit -----------------------------------------------------------------------------------------------------

    def _intent(self, public: bytes, image: SignedManifest, body: Revision) -> Intent:
        """What is to be done for a revision."""
        locator = self._new_locator(public, image.manifest, body.locator)
        place = self.staging.place(public)
        found = self._found(public, image.manifest, locator)
        return Intent(
            public=public,
            record=body.record,
            manifest=image.encode(),
            objects=[path for path, file in found.items() if file == place / path],
            locator=None if locator is None else locator.hex(),
        )

    def _decide(self, intent: Intent) -> None:
        """The point of no return: the intent is durable."""
        with writing("the revision"):
            for directory in self._directories(intent):  # found out now, when nothing is decided
                make_directories(directory)
                if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))
            self._pending = intent
            write_atomic(self._directory / "intent", encode_msgpack(intent))

    def _directories(self, intent: Intent) -> set[Path]:
        """Every directory into which an intent puts something."""
        name = read_record(intent.record, trusted=None).record.name
        kinds = {path.partition("/")[0] for path in intent.objects} | {"manifest"}
        if intent.locator is not None:
            kinds.add("locator")
        return {self._directory, self._root / "name" / name, *(self._root / kind for kind in kinds)}

    async def collect(self, *, now_s: float) -> None:
        """Throw away idle uploads, but for what an intent that could not be carried out yet is to move (PUB-8)."""
        idle = await in_thread(partial(self.staging.idle, now_s=now_s))
        for at in range(0, len(idle), DISCARDED_AT_ONCE):
            async with self._commit:
                keep = None if self._pending is None else self._pending.public
                some = idle[at : at + DISCARDED_AT_ONCE]
                await in_thread(partial(self.staging.discard, some, now_s=now_s, keep=keep))

    def _read_intent(self) -> Intent | None:
        path = self._directory / "intent"
        try:
            return decode_msgpack(read_limited(path, INTENT_BYTES_MAX), Intent, what=str(path))
        except FileNotFoundError:
            return None

    def _carry_out(self) -> None:
        """Do what an intent says, if there is one."""
        self._pending = self._read_intent()
        if self._pending is None:
            return
        with writing("the revision"):
            for step in self._steps(self._pending):
                self._run(step)
        self._pending = None

    def _steps(self, intent: Intent) -> Iterator[Step]:
        """What makes an intent true, in an order in which no reader sees a half of it (PUB-7)."""
        record = read_record(intent.record, trusted=None).record
        place = self.staging.place(intent.public)
        moves = [(path, path) for path in intent.objects]
        if intent.locator is not None:
            index = SignedManifest.parse(intent.manifest).manifest.index.root.hex()
            moves.append((f"locator/{intent.locator}", f"locator/{index}"))
        for source, path in moves:
            yield Step(f"move {path}", partial(self._move, intent.public, place / source, path))
        for directory in sorted({(self._root / path).parent for _, path in moves}):
            yield Step(f"sync {directory.name}", partial(sync_directory, directory))
        yield Step("manifest", lambda: self._write(f"manifest/{record.digest.hex()}", intent.manifest))
        yield Step("owner", lambda: self.owners.claim(record.name.partition("/")[0], intent.public))
        yield Step("log", lambda: self._append(intent.record))
        yield Step("name", lambda: self._write(f"name/{record.name}/{record.tag}", intent.record))
        yield Step("done", self._done)

    def _move(self, public: bytes, source: Path, path: str) -> None:
        target = self._root / path
        try:
            size = source.stat().st_size
        except FileNotFoundError:
            if not target.is_file():
                _log.error(
                    "%s was about to be published, and is gone: have it published again, or stop the hub, remove %s"
                    " and start it",
                    path,
                    self._directory / "intent",
                )
                raise StoreUnwritable(
                    f"{path} was about to be published, and is gone",
                    hint="tell the hub's operator: its log says what to do",
                ) from None
            return
        make_directories(target.parent)
        source.chmod(0o644)
        os.replace(source, target)
        self.staging.moved(public, size)

    def _write(self, path: str, data: bytes) -> None:
        target = self._root / path
        make_directories(target.parent)
        write_atomic(target, data)

    def _append(self, record: bytes) -> None:
        self.log.append(record)

    def _done(self) -> None:
        (self._directory / "intent").unlink()
        sync_directory(self._directory)

    # --- Start ------------------------------------------------------------------------------------------------------

    def _locked(self) -> int:
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise HubBusy(
                f"another hub publishes into {self._root}", hint="one may; others serve it with --read-only"
            ) from error
        return descriptor

    def _log_what_was_built(self) -> None:
        """Names that `zos flist build` wrote into this store are published by being served: they belong in the log."""
        for path in sorted((self._root / "name").glob("*/*/*")):
            self.log_name("/".join(path.parts[-3:-1]), path.name)

    def log_name(self, name: str, tag: str) -> None:
        """Add the store's record of a name to the log if it is newer than what the log has."""
        try:
            current = self._current(name, tag)
        except ZosError:
            return  # a file that is no record names nothing
        logged = self.log.latest(name, tag)
        if current is None or (current.record.name, current.record.tag) != (name, tag):
            return
        if logged is None or current.record.revision > logged.record.revision:
            self.log.append(read_limited(self._root / "name" / name / tag, NAME_FILE_MAX))


def _public(caller: Caller) -> bytes:
    assert caller.public is not None  # the endpoint is signed
    return caller.public


def _checked(body: Revision, public: bytes) -> tuple[SignedManifest, SignedRecord]:
    """The manifest and the record of a revision, both signed by the caller, and about each other."""

    def ours(publisher: str) -> list[bytes]:
        return [public]

    signed = read_record(body.record, trusted=ours)
    image = SignedManifest.parse(body.manifest)
    verify_manifest(image, trusted=ours)
    record, manifest = signed.record, image.manifest
    if (record.name, record.digest, record.revision) != (manifest.name, image.digest, manifest.revision):
        raise DocumentInvalid("the name record and the manifest speak of different images")
    if manifest.meta.size > HUB_META_MAX:
        raise too_large(f"the metadata of {manifest.name}")
    return image, signed


def _missing(path: str) -> RevisionIncomplete:
    return RevisionIncomplete(f"{path} did not come", hint="publish again: it goes on")


def _link(source: Path, target: Path) -> bool:
    """Link a file to another path; whether it is there."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _names(intent: Intent, name: str, tag: str) -> bool:
    record = read_record(intent.record, trusted=None).record
    return (record.name, record.tag) == (name, tag)
