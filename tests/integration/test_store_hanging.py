"""A store on a file system that does not answer (NFS whose server is away): only its own readers wait for it."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from pathlib import Path

import pytest

from flist.guard import RevisionGuard
from flist.store import DirectoryStore, StoreUnavailable, open_store
from flist.store import directory as directory_module
from tests.mounts import dead_file_system
from zos_core.base import threads
from zos_core.base.errors import UsageError
from zos_core.base.threads import in_stoppable_thread, in_thread, in_thread_apart
from zos_core.containers.document import ImageRequest
from zos_core.supervisor.images import resolve_image

REQUESTS = 40
GIVE_UP_S = 20.0


def resolving(store: Path, guard: Path) -> asyncio.Task[object]:
    request = ImageRequest(store=str(store), reference="jane/web")
    return asyncio.ensure_future(resolve_image(request, now_s=lambda: 0, floors=RevisionGuard(guard)))


@pytest.mark.root
async def test_many_requests_for_a_dead_store_hold_up_nobody(tmp_path: Path) -> None:
    with dead_file_system(tmp_path / "dead") as abort:
        waiting = [resolving(tmp_path / "dead" / "store", tmp_path) for _ in range(REQUESTS)]
        assert not (await asyncio.wait(waiting, timeout=0))[0]
        assert await in_thread(lambda: "documents are written") == "documents are written"
        for task in waiting[1:]:
            task.cancel()
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert waiting[0] not in done
        assert not (await asyncio.wait(waiting[1:]))[1], "a request that was called off waits for its file system"
        abort()
        with pytest.raises(StoreUnavailable):
            await waiting[0]


@pytest.mark.root
async def test_a_dead_store_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "ANSWER_TIMEOUT_S", 0.05)
    with dead_file_system(tmp_path / "dead"):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await resolving(tmp_path / "dead", tmp_path)
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await DirectoryStore(tmp_path / "dead").has("pack/" + "a" * 64)


async def test_what_is_no_store_is_said_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is no directory"):
        async with open_store(str(tmp_path / "file")):
            pass
    for where in (tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(StoreUnavailable):
            async with open_store(str(where)):
                pass
    async with open_store(str(tmp_path / "new" / "store")) as store:
        assert not await store.has("pack/" + "a" * 64)


async def test_as_many_threads_hang_as_may_and_the_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_apart", threads._Apart(1))
    release, begun = threading.Event(), threading.Event()
    done: list[int] = []

    def hang() -> bool:
        begun.set()
        return release.wait(GIVE_UP_S)

    first = asyncio.ensure_future(in_thread_apart(hang))
    await in_thread(begun.wait)
    called_off, second = (asyncio.ensure_future(in_thread_apart(partial(done.append, n))) for n in (1, 2))
    assert not (await asyncio.wait([called_off, second], timeout=0))[0]
    called_off.cancel()
    assert (await asyncio.wait([called_off]))[0]
    release.set()
    assert await first
    await second
    assert done == [2]


async def test_stoppable_work_that_waits_leaves_the_pool_to_others() -> None:
    """Extractions from slow stores, more than the pool has threads; when they are called off each ends first."""
    stop = threading.Event()
    waiting = [asyncio.ensure_future(in_stoppable_thread(stop.set, stop.wait)) for _ in range(REQUESTS)]
    assert not (await asyncio.wait(waiting, timeout=0))[0]
    assert await in_thread(lambda: "documents are written") == "documents are written"
    assert not stop.is_set()
    for task in waiting:
        task.cancel()
    assert (await asyncio.wait(waiting, return_when=asyncio.ALL_COMPLETED))[0] == set(waiting)
    assert stop.is_set()
    assert all(task.cancelled() for task in waiting)
