"""The erasure code beside what happens to a process: guard pages, threads, fork, Ctrl-C, sub-interpreters, 5 GiB."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cffi
import pytest

from native import erasure
from tests.erasure_kit import PATHS, code, guarded

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60
MAP_NORESERVE = 0x4000  # mmap(2); in the mmap module since Python 3.12


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("at_end", [True, False])
def test_erasure_touches_nothing_beside_its_buffers(path: str, streaming: bool, at_end: bool) -> None:
    """Every buffer touches a page without rights, on its end or its beginning: one byte too far ends the process."""
    source = random.Random(1)
    under_test = code(path, 3, 2, streaming=streaming)
    twin = code("reference", 3, 2)
    for length in [1, 2, 7, 8, 31, 32, 33, 63, 64, 65, 127, 255, 256, 257, 511, 777, 4095, 4096, 4097, 9000]:
        with contextlib.ExitStack() as stack:
            shards = [stack.enter_context(guarded(length, at_end=at_end)) for _ in range(6)]
            data, parity, new = shards[:3], shards[3:5], shards[5]
            for shard in [*data, new]:
                shard[:] = source.randbytes(length)
            under_test.encode_into(data, parity)
            assert [bytes(shard) for shard in parity] == twin.encode(data), length
            assert under_test.verify(data, parity) == []
            under_test.update(1, data[1], new, parity)
            assert [bytes(shard) for shard in parity] == twin.encode([data[0], new, data[2]]), length
            under_test.reconstruct_into([0, 3, 4], [data[0], *parity], [2, 1], [shards[2], shards[1]])
            assert (shards[1] == new) and twin.verify([data[0], new, data[2]], parity) == []


@pytest.mark.parametrize("path", ["gfni512", "gfni256", "avx2", "neon", "scalar"])
def test_erasure_path_is_forced_by_the_environment(path: str) -> None:
    program = "from native import erasure as e; print(e.PATH, e.Code(2, 1).path)"
    done = python(program, ZOS_ERASURE_PATH=path, ZOS_NATIVE="rust")
    if path in PATHS:
        assert (done.returncode, done.stdout) == (0, f"{path} {path}\n"), done.stderr
    else:
        assert done.returncode != 0
        assert "native.erasure_errors.PathUnavailable" in done.stderr


@pytest.mark.parametrize("path", ["gfni512", "neon", "scalar"])
def test_erasure_twin_has_one_path(path: str) -> None:
    program = "from native import erasure as e; print(e.PATH)"
    done = python(program, ZOS_ERASURE_PATH=path, ZOS_NATIVE="reference")
    assert (done.returncode, done.stdout) == ((0, "scalar\n") if path == "scalar" else (1, "")), done.stderr


def test_erasure_path_misspelt_is_refused() -> None:
    for side in ("rust", "reference"):
        done = python("import native.erasure", ZOS_ERASURE_PATH="avx3", ZOS_NATIVE=side)
        assert done.returncode != 0
        assert "no path" in done.stderr


def test_erasure_one_code_serves_many_threads() -> None:
    """Repairs of all kinds at once, so that the cache of inverses is filled and emptied by several threads."""
    source = random.Random(2)
    under_test = erasure.Code(8, 4)
    data = [source.randbytes(3000) for _ in range(8)]
    whole = [*data, *map(bytes, under_test.encode(data))]

    def work(seed: int) -> int:
        mine = random.Random(seed)
        done = 0
        for _ in range(200):
            lost = mine.sample(range(12), mine.randint(1, 4))
            have = [index for index in range(12) if index not in lost]
            made = under_test.reconstruct(have, [whole[index] for index in have], lost, threads=mine.randint(1, 3))
            done += made == [whole[index] for index in lost]
        return done

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [200] * 4


def test_erasure_long_work_lets_other_threads_run() -> None:
    """In the middle of one call another thread gets the interpreter; held, it would get it only after the call."""
    under_test = erasure.Code(128, 32, path=None if erasure.PATH == "scalar" else "scalar")
    shard, out = bytes(20_000), [bytearray(20_000) for _ in range(32)]
    for _ in range(5):
        begun = threading.Event()
        times_s: list[float] = []

        class Last:
            """What is looked at last before the work begins."""

            def __index__(self, begun: threading.Event = begun, times_s: list[float] = times_s) -> int:
                times_s.append(time.perf_counter())
                begun.set()
                return 1

        def work(last: Last, times_s: list[float] = times_s) -> None:
            under_test.encode_into([shard] * 128, out, threads=last)
            times_s.append(time.perf_counter())

        thread = threading.Thread(target=work, args=(Last(),))
        thread.start()
        begun.wait(DEADLINE_S)
        woken_s = time.perf_counter()
        thread.join(DEADLINE_S)
        before_s, after_s = times_s
        if woken_s - before_s < (after_s - before_s) / 2:
            return
    pytest.fail("no other thread had a turn before the call was over")


def test_erasure_survives_fork_in_the_middle_of_work() -> None:
    """A child made while threads of ours are at work, and while inverses are looked up, repairs and encodes."""
    program = """
import os, threading, warnings
from native import erasure
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads, which is what is tested
code = erasure.Code(8, 4)
data = [bytes([i]) * 300_000 for i in range(8)]
whole = [*data, *map(bytes, code.encode(data))]
stop = threading.Event()
def work(seed):
    at = seed
    while not stop.is_set():
        lost = [at % 8, 8 + at // 8 % 4]
        have = [i for i in range(12) if i not in lost]
        assert code.reconstruct(have, [whole[i] for i in have], lost, threads=2) == [whole[i] for i in lost]
        at += 1
threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 5)]
[thread.start() for thread in threads]
good = 0
for round in range(20):
    child = os.fork()
    if child == 0:
        have = [i for i in range(12) if i not in (round % 8, 9)]
        made = code.reconstruct(have, [whole[i] for i in have], [round % 8, 9], threads=2)
        os._exit(0 if made == [whole[round % 8], whole[9]] else 1)
    good += os.waitpid(child, 0)[1] == 0
stop.set()
[thread.join() for thread in threads]
print(good)
"""
    done = python(program)
    assert (done.returncode, done.stdout) == (0, "20\n"), done.stderr


def test_erasure_ctrl_c_ends_a_long_call() -> None:
    """SIGINT in the middle of one call that takes far longer than the test."""
    program = """
import mmap, os, signal, sys, threading
from native import erasure
room = mmap.mmap(-1, 1 << 30)
code = erasure.Code(100, 30, path="scalar")
view = memoryview(room)
size = 8 << 20
data = [view[:size]] * 100
parity = [view[(i + 1) * size : (i + 2) * size] for i in range(30)]
begun = threading.Event()
def interrupt():
    begun.wait()
    os.kill(os.getpid(), signal.SIGINT)
thread = threading.Thread(target=interrupt)
thread.start()
class Last:
    # The last thing that is looked at before the work begins.
    def __index__(self):
        begun.set()
        return 1
try:
    for _ in range(1000):
        code.encode_into(data, parity, threads=Last())
except KeyboardInterrupt:
    print("interrupted")
thread.join()
print(code.encode([b"a"] * 100)[0] == erasure.Code(100, 30).encode([b"a"] * 100)[0])
"""
    done = python(program, ZOS_NATIVE="rust")
    assert (done.returncode, done.stdout) == (0, "interrupted\nTrue\n"), done.stderr


def test_erasure_sub_interpreter_gets_a_typed_refusal() -> None:
    program = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
one = interpreters.create()
code = '''
import os
try:
    import native.erasure
except ImportError as error:
    os.write(1, b"ImportError: " + str(error).encode())
'''
failed = interpreters.run_string(one, code)
assert not failed, failed
interpreters.destroy(one)
"""
    import native.erasure  # noqa: F401  # the main interpreter has it, too

    done = python("import native.erasure\n" + program, ZOS_NATIVE="rust")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ImportError: "), done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_erasure_shard_of_5_gib() -> None:
    """Offsets beyond 32 bits, k = 2, m = 1. The data are sparse: never written but in a few places. The parity's 5 GiB
    are one piece of 64 MiB, mapped 80 times, so what is left in it at the end is the last 64 MiB of the shard."""
    size, piece = 5 << 30, 64 << 20
    marks = {
        0: b"first",
        (1 << 31) - 3: b"over 2^31",
        (1 << 32) - 3: b"over 2^32",
        size - piece: b"!",
        size - 4: b"last",
    }
    under_test, twin = erasure.Code(2, 1), code("reference", 2, 1)
    with sparse(size) as first, sparse(size) as second, repeated(size, piece) as parity:
        for at, text in marks.items():
            first[at : at + len(text)] = text
        second[size - 2 : size] = b"ab"
        under_test.encode_into([first, second], [parity])
        expected = bytearray(piece)
        for at, other in ((size - piece, b"\0"), (size - 4, b"\0\0ab")):
            place = at - (size - piece)
            expected[place : place + len(other)] = twin.encode([marks[at], other])[0]
        assert parity[size - piece :] == expected
        # Parity of zeros is right for zeros alone: one byte at the very end is found, by two threads as well.
        for at, text in marks.items():
            first[at : at + len(text)] = bytes(len(text))
        second[size - 2 : size] = bytes(2)
        with sparse(size) as zeros:
            assert under_test.verify([first, second], [zeros]) == []
            first[size - 1] = 1
            assert under_test.verify([first, second], [zeros], threads=2) == [2]


def sparse(size: int) -> mmap.mmap:
    """Zeros that take no memory until they are written to: reads of untouched huge pages share one page."""
    room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    room.madvise(mmap.MADV_HUGEPAGE)
    return room


@contextlib.contextmanager
def repeated(size: int, piece: int) -> Iterator[memoryview]:
    """`size` bytes of address space that are one piece of memory again and again; mmap(2), MAP_FIXED."""
    ffi = cffi.FFI()
    ffi.cdef(
        "void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset);"
        "int munmap(void *addr, size_t length);"
    )
    libc: Any = ffi.dlopen(None)
    fixed = 0x10
    memory = os.memfd_create("erasure-test", os.MFD_CLOEXEC)
    try:
        os.ftruncate(memory, piece)
        start = libc.mmap(ffi.NULL, size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        assert int(ffi.cast("intptr_t", start)) != -1
        try:
            address = int(ffi.cast("uintptr_t", start))
            for at in range(address, address + size, piece):
                place = ffi.cast("void *", at)
                assert (
                    libc.mmap(place, piece, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | fixed, memory, 0)
                    == place
                )
            with memoryview(ffi.buffer(start, size)) as view:
                yield view
        finally:
            libc.munmap(start, size)
    finally:
        os.close(memory)


def test_erasure_signal_handlers_are_kept() -> None:
    """Looking at signals runs the handlers of Python, and an exception of one ends the call."""
    under_test = erasure.Code(16, 4)

    class Stopped(Exception):
        pass

    def stop(number: int, frame: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with erasure.BufferPool(shards=20, shard_bytes=4 << 20) as pool, pool.stripe() as stripe:
            with pytest.raises(Stopped):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                while True:
                    under_test.encode_into(stripe.shards[:16], stripe.shards[16:])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
