"""Peers' programs as processes: they answer, or are missing with a reason; none is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.duel import digest_of
from bench.errors import PeerFailed
from bench.peers import process as module
from bench.peers.arena import Arena
from bench.peers.cache import PROGRAMS, Cache
from bench.peers.catalog import find
from bench.peers.install import install
from bench.peers.process import Process
from bench.peers.protocol import Work
from bench.recorder import Recorder
from zos_core.base.progress import SILENT

pytestmark = pytest.mark.integration

HELLO = "print('hello 1 peer=p version=1 works=w', flush=True); import sys\n"
DATA = bytes(range(256)) * 64


def script(code: str) -> list[str]:
    return [sys.executable, "-I", "-c", code]


def broken(code: str) -> str:
    """Why a program fails when it is asked to prepare."""
    peer = Process(script(HELLO + code))
    try:
        with pytest.raises(PeerFailed) as caught:
            peer.prepare(Work("w", {}), "/dev/null")
    finally:
        peer.close()
    return caught.value.message


def test_a_program_that_is_not_there_is_missing() -> None:
    with pytest.raises(PeerFailed, match="No such file"):
        Process(["/no/such/peer"])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('good day', flush=True)", "began with 'good day"),
        ("raise SystemExit('no library')", "ended with 1: no library"),
        ("import os; os.write(1, b'x' * 100_000)", "more than 65536 bytes"),
    ],
)
def test_a_program_that_does_not_say_what_it_is_is_missing(code: str, reason: str) -> None:
    with pytest.raises(PeerFailed) as caught:
        Process(script(code))
    assert reason in caught.value.message


def test_a_program_that_breaks_off_errs_or_says_other_things_is_missing() -> None:
    assert "ended with -9" in broken("sys.stdin.readline(); import os; os.kill(os.getpid(), 9)")
    assert broken("sys.stdin.readline(); print('error out of memory', flush=True); sys.stdin.read()") == "out of memory"
    assert "answered 'perhaps" in broken("sys.stdin.readline(); print('perhaps', flush=True); sys.stdin.read()")


def test_a_program_that_is_late_is_missing_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "END_TIMEOUT_S", 0.05)
    peer = Process(script(HELLO + "import signal\nwhile True: signal.pause()"))
    with pytest.raises(PeerFailed, match="did not answer"):
        peer.prepare(Work("w", {}), "/dev/null")
    peer.close()
    with pytest.raises(ProcessLookupError):
        os.kill(peer.pid, 0)


def test_a_work_that_a_peer_does_not_know_is_not_asked_for() -> None:
    peer = Process(script(HELLO + "sys.stdin.read()"))
    try:
        assert peer.prepare(Work("moon.walk", {}), "/dev/null").missing == "p does not do moon.walk"
    finally:
        peer.close()


def test_a_peer_runs_on_our_cpu() -> None:
    code = "import os; print('hello 1 peer=p works=w version=' + '+'.join(map(str, os.sched_getaffinity(0))))"
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        peer = Process(script(code))
        peer.close()
    finally:
        os.sched_setaffinity(0, before)
    assert peer.hello.version == str(min(before))


def python_peer(name: str) -> list[str]:
    return [sys.executable, "-I", str(PROGRAMS / "python_peer.py"), name]


def test_the_python_program_hashes_what_it_is_given_and_refuses_nonsense(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "input"
    path.write_bytes(DATA)
    peer = Process(python_peer("hashlib"))
    try:
        half = len(DATA) // 2
        answer = peer.prepare(Work("hash.sha256", {"chunk_bytes": half, "chunks": 2}), str(path))
        wanted = [hashlib.sha256(DATA[:half]).digest(), hashlib.sha256(DATA[half:]).digest()]
        assert answer.fields["digest"] == digest_of(*wanted)
        assert peer.run(10).integer("ns") > 0
        with pytest.raises(PeerFailed, match="shorter"):
            peer.prepare(Work("hash.sha256", {"chunk_bytes": half, "chunks": 3}), str(path))
        with pytest.raises(PeerFailed, match="not understood"):  # nothing is prepared any more
            peer.run(1)
    finally:
        peer.close()


# --- a program of ours in C, installed as a user installs it -------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    if shutil.which("cc") is None:
        pytest.skip("there is no cc")
    made = Cache(tmp_path_factory.mktemp("bench-cache"))
    install([find("roofline")], made, progress=SILENT, note=lambda text: None, owner=None)
    return made


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(say=lambda text: None, show=lambda group: None, quiet_wait_s=0.0)


@pytest.fixture
def roofline(cache: Cache) -> Iterator[Process]:
    peer = Process(cache.find(find("roofline")).argv)
    yield peer
    peer.close()


@pytest.mark.parametrize("work", ["memcpy", "read", "fault"])
def test_the_roofline_takes_longer_for_more(roofline: Process, work: str) -> None:
    spent = []
    for length in (1 << 16, 1 << 22):
        assert roofline.prepare(Work(f"roofline.{work}", {"bytes": length}), "/dev/null").missing is None
        best = min(roofline.run(4).integer("ns") for _ in range(10))
        spent.append(best)
    assert spent[1] > 4 * spent[0]  # of 64 times as much


def test_first_touch_faults_and_copying_does_not(roofline: Process) -> None:
    length = 1 << 22
    roofline.prepare(Work("roofline.fault", {"bytes": length}), "/dev/null")
    assert roofline.run(3).integer("faults") >= 3 * length // 4096 // 512  # at least as huge pages
    roofline.prepare(Work("roofline.memcpy", {"bytes": length}), "/dev/null")
    roofline.run(1)
    assert roofline.run(3).integer("faults") == 0


@pytest.mark.parametrize(
    "work",
    [
        Work("roofline.memcpy", {}),
        Work("roofline.memcpy", {"bytes": 100}),
        Work("roofline.xor", {"k": 16, "m": 0, "shard_bytes": 4096}),
        Work("roofline.xor", {"k": 16, "m": 4, "shard_bytes": 100}),
    ],
)
def test_numbers_out_of_range_are_refused_and_the_program_lives(roofline: Process, work: Work) -> None:
    with pytest.raises(PeerFailed):
        roofline.prepare(work, "/dev/null")
    good = Work("roofline.xor", {"k": 16, "m": 4, "shard_bytes": 4096})
    assert roofline.prepare(good, "/dev/null").fields["path"] in ("plain", "non-temporal")
    assert roofline.run(2).integer("ns") > 0


def test_the_arena_records_who_took_part_and_who_was_missing(cache: Cache, recorder: Recorder) -> None:
    arena = Arena(cache=cache, witness=recorder)
    copy = Work("roofline.memcpy", {"bytes": 4096})
    with arena.contest("roofline", copy, b"", None) as contest:
        assert contest.sample(8) > 0
        contest.sample(8)
        assert contest.faults == 0
    with arena.contest("isa-l", copy, b"", None) as contest:
        assert contest.missing == "not installed (zos bench peers install isa-l)"
        with pytest.raises(PeerFailed):
            contest.sample(1)
    assert recorder.peers["roofline"].version == "1"
    assert recorder.peers["isa-l"].missing is not None
    assert recorder.peers["isa-l"].version is None


def test_a_peer_that_gives_other_bytes_is_no_peer(cache: Cache, recorder: Recorder) -> None:
    arena = Arena(cache=cache, witness=recorder)
    wrong = arena.contest("roofline", Work("roofline.memcpy", {"bytes": 4096}), b"", "00000000")
    with pytest.raises(PeerFailed, match="other bytes than ours"), wrong:
        pass


def test_a_peer_that_cannot_be_built_is_missing_with_the_compilers_words(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "bin/cc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho 'fatal: the moon is full' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}:{os.environ['PATH']}")
    own = Cache(tmp_path / "cache")
    said: list[str] = []
    install([find("roofline"), find("zstd")], own, progress=SILENT, note=said.append, owner=None)
    assert any("the moon is full" in line for line in said)
    with pytest.raises(Exception, match="cc failed: fatal: the moon is full"):
        own.find(find("roofline"))


def test_closing_ends_a_program_that_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "END_TIMEOUT_S", 0.05)
    peer = Process(script("import signal; signal.signal(15, signal.SIG_IGN)\n" + HELLO + "while True: signal.pause()"))
    peer.close()
    with pytest.raises(ProcessLookupError):
        os.kill(peer.pid, signal.SIGTERM)


def test_c_programs_compile_without_a_warning(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no cc")
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-march=native"]
    source = str(PROGRAMS / "roofline.c")
    done = subprocess.run(["cc", *flags, "-c", "-o", str(tmp_path / "x.o"), source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
