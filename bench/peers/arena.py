"""The peers of one run: which are here, their processes, their inputs. What the fixture `duel` asks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.errors import PeerFailed, PeerMissing
from bench.peers.cache import Cache
from bench.peers.catalog import PeerSpec, find
from bench.peers.process import Process
from bench.peers.protocol import Work

__all__ = ["Arena", "Contest", "Witness", "page_environment"]

# Shared memory, so that 128 MiB of shards cost no disk; any directory does.
INPUT_DIRECTORY = Path("/dev/shm")
# From here on our `BufferPool` has huge pages.
HUGE_BYTES = 2 << 20


def page_environment(spec: PeerSpec, work: Work) -> dict[str, str]:
    """What makes malloc(3) below a peer in Python give the pages that our shards have (BENCH-PEER-8)."""
    if spec.kind != "python" or work.parameters.get("shard_bytes", 0) < HUGE_BYTES:
        return {}
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


class Witness(Protocol):
    """Who writes down which peers took part."""

    def saw_peer(self, name: str, *, version: str | None = None, missing: str | None = None) -> None:
        """A peer took part, or was missing."""


@dataclass(slots=True)
class Contest:
    """A peer that is ready for one work, or why it is not."""

    process: Process | None
    missing: str | None = None
    faults: float = field(default=0.0)

    def sample(self, count: int) -> int:
        """Nanoseconds of doing the work `count` times; `faults` has the minor page faults of each.

        Raises:
            PeerFailed: it broke off.
        """
        if self.process is None:
            raise PeerFailed(self.missing or "the peer is not here")
        answer = self.process.run(count)
        self.faults = answer.integer("faults") / count
        return answer.integer("ns")


@dataclass(kw_only=True)
class Arena:
    """Starts peers for one measure at a time, so that none is in memory while another is measured alone."""

    cache: Cache
    witness: Witness

    def title(self, name: str) -> str:
        """The name of a peer's rows."""
        return find(name).title

    @contextmanager
    def contest(
        self, name: str, work: Work, input_: bytes | bytearray | memoryview, digest: str | None
    ) -> Iterator[Contest]:
        """A peer's process, ready for `work` on `input_`; ended with the block.

        Raises:
            PeerFailed: it broke off, or its output is not what `digest` says.
        """
        spec = find(name)
        try:
            installed = self.cache.find(spec)
        except PeerMissing as error:
            why = f"{error.message} ({error.hint})" if error.hint else error.message
            self.witness.saw_peer(name, missing=why)
            yield Contest(None, missing=why)
            return
        try:
            process = Process(installed.argv, {**installed.environment, **page_environment(spec, work)})
        except PeerFailed as error:
            self.witness.saw_peer(name, missing=error.message)
            raise
        try:
            self.witness.saw_peer(name, version=process.hello.version)
            missing = self._prepare(process, work, input_, digest)
            if missing is not None:
                yield Contest(None, missing=missing)
                return
            yield Contest(process)
        finally:
            process.close()

    def _prepare(
        self, process: Process, work: Work, input_: bytes | bytearray | memoryview, digest: str | None
    ) -> str | None:
        """Why the peer cannot do this work, or None; the program has read the file when it answers (BENCH-PEER-3)."""
        directory = INPUT_DIRECTORY if INPUT_DIRECTORY.is_dir() else None
        with tempfile.NamedTemporaryFile(prefix="zos-bench-", dir=directory) as file:
            file.write(input_)
            file.flush()
            answer = process.prepare(work, file.name)
        if answer.missing is not None:
            return answer.missing
        got = answer.fields.get("digest")
        if digest is not None and got != digest:
            raise PeerFailed(f"{process.hello.peer} gives other bytes than ours for {work}")
        return None
