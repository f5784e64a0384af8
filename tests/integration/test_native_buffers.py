"""What every kernel does with Python's buffers, with threads, signals, forks and other interpreters."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
from blake3 import blake3
from nacl.signing import SigningKey

from native import _rust as rust
from native.errors import InputInvalid
from native.reference import merkle as reference

MIB = 1 << 20
KEY = SigningKey(bytes(32))
PUBLIC = bytes(KEY.verify_key)


PIPELINE = rust.Pipeline(chunk_bytes=65_536, level=1, cipher="aes-256-gcm", key=bytes(32), k=4, m=2)


def seal(line: rust.Pipeline, data: bytes, *, threads: int = 1) -> tuple[bytearray, bytearray]:
    """Slots and lengths."""
    count = -(-len(data) // line.chunk_bytes)
    slots, lengths = bytearray(count * line.slot_bytes), bytearray(4 * count)
    line.seal_into(data, slots, lengths, threads=threads)
    return slots, lengths


def whole(data: object) -> object:
    """The digest of one part that is all of eight bytes."""
    return rust.hash_many(data, array("Q", [0, 8]))  # type: ignore[arg-type]


def alone(program: str) -> str:
    """What a process of its own says that does this with the compiled kernels."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "ZOS_NATIVE": "native"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[mmap.mmap]:
    (tmp_path / "file").write_bytes(b"12345678")
    with (tmp_path / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as map_:
        yield map_


class Named(ctypes.Structure):
    """With a field whose name is the code of a reference."""

    _fields_ = (("O", ctypes.c_uint32), ("pair", ctypes.c_uint16 * 2))


def test_buffers_of_every_kind_are_taken(mapped: mmap.mmap) -> None:
    data = b"12345678"
    kinds: list[object] = [
        data,
        bytearray(data),
        memoryview(data),
        memoryview(b"x" + data)[1:],
        memoryview(data).cast("I"),
        memoryview(data).cast("B", shape=[2, 4]),
        array("H", data),
        mapped,
        (ctypes.c_ubyte * 8)(*data),
        (ctypes.c_uint16 * 2 * 2).from_buffer_copy(data),
        Named.from_buffer_copy(data),
    ]
    assert {whole(kind) for kind in kinds} == {blake3(data).digest()}


def test_buffers_that_are_closed_or_strided_are_refused(mapped: mmap.mmap) -> None:
    released = memoryview(b"12345678")
    released.release()
    mapped.close()
    for wrong in (released, mapped, memoryview(b"0123456789abcdef")[::2], memoryview(b"12345678")[::-1]):
        with pytest.raises(InputInvalid):
            whole(wrong)


@pytest.mark.parametrize("nothing", [None, "12345678", 8, [1] * 8])
def test_buffers_that_are_none_are_type_errors(nothing: object) -> None:
    with pytest.raises(TypeError):
        whole(nothing)


def beside(work: Callable[[], object], meanwhile: Callable[[], bool]) -> bool:
    """Whether `meanwhile` was true at least once in another thread while `work` was being done."""
    done, seen = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            if meanwhile():
                seen.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(50):
            work()
            if seen.is_set():
                break
    finally:
        done.set()
        watcher.join()
    return seen.is_set()


def test_buffers_cannot_be_resized_while_they_are_read() -> None:
    data = bytearray(64 * MIB)

    def refused() -> bool:
        try:
            data.append(0)
            del data[64 * MIB :]  # refused, too, where the call began in between
        except BufferError:
            return True
        return False

    assert beside(lambda: rust.hash_many(data, array("Q", [0, 64 * MIB])), refused)
    del data[64 * MIB :]
    data.append(0)  # nothing is exported any more


@pytest.mark.parametrize("kernel", ["hash", "sign", "merkle", "pipeline"])
def test_buffers_are_worked_on_without_the_interpreter(kernel: str) -> None:
    """Another thread counts far on while one call lasts, which it could not within one switch interval."""
    count = 300
    signed = KEY.sign(b"").signature
    works: dict[str, Callable[[], object]] = {
        "hash": lambda: rust.hash_many(bytes(16 * MIB), array("Q", [0, 16 * MIB])),
        "sign": lambda: rust.sign_verify_many(PUBLIC * count, signed * count, b"", bytes(8 * count + 8)),
        "merkle": lambda: rust.merkle_extend(b"", 0, bytes(MIB)),
        "pipeline": lambda: seal(PIPELINE, bytes(4 * MIB)),
    }
    inside, turns = threading.Event(), [0]
    before = sys.getswitchinterval()

    def work() -> None:
        turns[0] = 0
        inside.set()
        works[kernel]()
        inside.clear()

    def turned() -> bool:
        if inside.is_set():
            turns[0] += 1
        return turns[0] > 10

    # With an interval of a second nobody is interrupted: only who lets go lets others in.
    sys.setswitchinterval(1)
    try:
        assert beside(work, turned)
    finally:
        sys.setswitchinterval(before)


def test_buffers_of_the_caller_are_filled_without_a_page_fault() -> None:
    data, ends, out = bytearray(os.urandom(4 * MIB)), array("Q", range(0, 4 * MIB + 1, 65536)), bytearray(64 * 32)
    for _ in range(3):
        rust.hash_many_into(data, ends, out)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(50):
        rust.hash_many_into(data, ends, out)
    faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
    assert faults < 50  # less than one in a call


def test_buffers_many_threads_share_keys_and_nodes() -> None:
    leaves = b"".join(blake3(bytes([number])).digest() for number in range(64))
    nodes, known = rust.merkle_extend(b"", 0, leaves), rust.Keys(PUBLIC)
    signed = KEY.sign(b"text").signature
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for index in range(64):
                proof = rust.merkle_inclusion_proof(nodes, 64, index)
                rust.merkle_verify_inclusion(reference.root(nodes, 64), 64, index, leaves[32 * index :][:32], proof)
                known.verify(0, b"text", signed)
                known.verify_many(bytes(16), signed * 4, b"text" * 4, array("Q", range(0, 20, 4)), threads=2)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_buffers_a_hasher_is_of_one_thread_at_a_time() -> None:
    hasher, data = rust.Hasher(), bytes(64 * MIB)

    def refused() -> bool:
        try:
            hasher.digest()
        except InputInvalid:
            return True
        return False

    assert beside(lambda: hasher.update(data), refused)
    hasher.digest()


@contextlib.contextmanager
def alarmed(
    handler: Callable[[int, FrameType | None], object], *, after_s: float = 0, every_s: float = 0
) -> Iterator[None]:
    """SIGALRM is handled so; with `after_s` it comes then, with `every_s` again and again."""
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, after_s, every_s)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_buffers_a_hasher_that_took_everything_does_not_say_that_it_was_interrupted() -> None:
    """A signal is there before the update begins; what comes behind it in the same C code is done all the same."""
    hasher, data, done = rust.Hasher(), os.urandom(MIB), list[int]()
    raised, update = ctypes.CDLL(None)["raise"], hasher.update
    steps = [partial(raised, signal.SIGALRM), partial(update, data), partial(done.append, 1)]
    with alarmed(signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        deque(map(partial.__call__, steps), maxlen=0)
    assert hasher.digest() == blake3(data).digest()
    assert done == [1]


@pytest.mark.parametrize("kernel", ["hash", "hasher", "sign", "keys", "merkle", "pipeline"])
def test_buffers_ctrl_c_is_heard(kernel: str) -> None:
    """The signal comes while the call is under way, from a timer of the system; the call would go on for long."""
    count = 100_000
    calls: dict[str, Callable[[], object]] = {
        "hash": lambda: rust.hash_many(
            mmap.mmap(-1, 4096 * MIB, mmap.MAP_PRIVATE), array("Q", range(0, 4096 * MIB + 1, MIB))
        ),
        "hasher": lambda: rust.Hasher().update(mmap.mmap(-1, 4096 * MIB, mmap.MAP_PRIVATE)),
        "sign": lambda: rust.sign_verdicts(PUBLIC * count, bytes(64) * count, b"", bytes(8 * count + 8)),
        "keys": lambda: rust.Keys(PUBLIC * 10 * count),
        "merkle": lambda: [rust.merkle_extend(b"", 0, bytes(32 * MIB)) for _ in range(100)],
        "pipeline": lambda: seal(rust.Pipeline(chunk_bytes=65_536, level=19), os.urandom(8 * MIB).hex().encode()),
    }
    with alarmed(signal.default_int_handler, after_s=0.05), pytest.raises(KeyboardInterrupt):
        calls[kernel]()


@pytest.mark.parametrize("kernel", ["leaf", "leaves", "signature", "known key", "signatures", "messages"])
def test_buffers_ctrl_c_is_heard_within_what_is_long_by_itself(kernel: str) -> None:
    """One leaf or message of a GiB, and messages that are one together."""
    room = mmap.mmap(-1, 1024 * MIB, mmap.MAP_PRIVATE)
    ends, signed = array("Q", [0, 1024 * MIB]), KEY.sign(b"").signature
    steps = array("Q", range(0, 1024 * MIB + 1, 4 * MIB))
    calls: dict[str, Callable[[], object]] = {
        "leaf": lambda: reference.hash_leaf(room),
        "leaves": lambda: rust.merkle_hash_leaves(room, ends),
        "signature": lambda: rust.sign_verify(PUBLIC, room, signed),
        "known key": lambda: rust.Keys(PUBLIC).verify(0, room, signed),
        "signatures": lambda: rust.sign_verdicts(PUBLIC, signed, room, ends),
        "messages": lambda: rust.sign_verdicts(PUBLIC * 256, signed * 256, room, steps),
    }
    begun_s = time.monotonic()
    with alarmed(signal.default_int_handler, after_s=0.02), pytest.raises(KeyboardInterrupt):
        calls[kernel]()
    # Within 0.1 s where nothing else is done; a whole GiB takes seconds.
    assert time.monotonic() - begun_s < 0.7


def test_buffers_signals_are_heard_while_memory_is_slow() -> None:
    """Shards that nobody touched before take many times as long as the kernel that is at work on them."""
    room, heard = memoryview(mmap.mmap(-1, 20 * 20 * MIB, mmap.MAP_PRIVATE)), list[int]()
    shards = [room[at : at + 20 * MIB] for at in range(0, len(room), 20 * MIB)]
    code = rust.ErasureCode(16, 4)
    with alarmed(lambda number, _: heard.append(number), after_s=0.001, every_s=0.001):
        code.encode_into(shards[:16], shards[16:])
        times = len(heard)
    assert times > 5  # and one when it is done


@pytest.mark.parametrize("kernel", ["hash", "merkle", "sign"])
def test_buffers_offsets_that_change_meanwhile_are_no_panic(kernel: str) -> None:
    """Another thread writes to what was checked: an answer about other bytes, or an error, and no BaseException."""
    count = 2_000 if kernel == "sign" else 200_000
    data, ends, stop = bytes(64 * count), array("Q", range(0, 64 * count + 1, 64)), threading.Event()
    keys, signatures = PUBLIC * count, bytes(64 * count)
    calls: dict[str, Callable[[], object]] = {
        "hash": lambda: rust.hash_many(data, ends),
        "merkle": lambda: rust.merkle_hash_leaves(data, ends),
        "sign": lambda: rust.sign_verdicts(keys, signatures, data, ends),
    }

    def change() -> None:
        while not stop.is_set():
            for at in (count // 2, count - 3):
                ends[at] = 1 << 62
                ends[at] = 64 * at

    changer = threading.Thread(target=change)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    changer.start()
    try:
        for _ in range(100):
            with contextlib.suppress(InputInvalid):
                calls[kernel]()
    finally:
        stop.set()
        changer.join()
        sys.setswitchinterval(before)


@pytest.mark.parametrize(
    "call", ["merkle.inclusion_proofs(nodes, 1 << 16, bytes(8 << 20))", "sign.Keys(bytes(32 << 20))"]
)
def test_buffers_more_than_the_memory_there_is_is_an_error(call: str) -> None:
    """A MemoryError, as of Python itself; an allocation of Rust's that fails ends the process."""
    program = f"""
import resource
from native import merkle, sign
nodes = bytes(32 * merkle.node_count(1 << 16))
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (150 << 20), resource.RLIM_INFINITY))
try:
    {call}
except MemoryError:
    print("refused")
"""
    assert alone(program) == "refused\n"


def test_buffers_a_thread_that_does_not_start_is_an_oserror() -> None:
    """EAGAIN of every kernel: try again, or with fewer. There is no room for a thread's stack here."""
    program = """
import resource
from array import array
from native import erasure, hashing, pipeline, sign
code, line = erasure.Code(16, 4), pipeline.Pipeline(chunk_bytes=1000)
data, slots, lengths = [bytes(1 << 20)] * 16, bytearray(5 * line.slot_bytes), bytearray(20)
out = [bytearray(1 << 20) for _ in range(4)]
parts, ends = bytes(3 << 20), array("Q", [0, 1 << 20, 2 << 20, 3 << 20])
keys, signatures, nothing = bytes(32 * 300), bytes(64 * 300), bytes(8 * 301)
calls = {
    "erasure": lambda: code.encode_into(data, out, threads=4),
    "hashing": lambda: hashing.hash_many(parts, ends, threads=3),
    "pipeline": lambda: line.seal_into(parts[:5000], slots, lengths, threads=3),
    "sign": lambda: sign.verdicts(keys, signatures, b"", nothing, threads=3),
}
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), resource.RLIM_INFINITY))
for name, call in calls.items():
    try:
        call()
    except BaseException as error:
        print(name, type(error).__name__, getattr(error, "errno", None))
"""
    names = ["erasure", "hashing", "pipeline", "sign"]
    assert alone(program).splitlines() == [f"{name} BlockingIOError {errno.EAGAIN}" for name in names]


def test_buffers_a_forked_child_can_call() -> None:
    """While another thread is inside of a kernel: no lock and no thread of ours stays behind in the child."""
    data, ends, stop = bytes(8 * MIB), array("Q", [0, 4 * MIB, 8 * MIB]), threading.Event()
    signed = KEY.sign(b"").signature

    sealed, out = seal(PIPELINE, data), bytearray(len(data))

    def busy() -> None:
        mine = bytearray(len(data))
        while not stop.is_set():
            rust.hash_many(data, ends, threads=2)
            PIPELINE.open_into(*sealed, mine, have=[0, 1, 3, 5], threads=2)

    worker = threading.Thread(target=busy)
    worker.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    signal.alarm(20)  # a child that hangs ends by it
                    rust.hash_many(data, ends, threads=2)
                    rust.Keys(PUBLIC * 20).verify_many(bytes(80), signed * 20, b"", bytes(168), threads=2)
                    PIPELINE.open_into(*sealed, out, have=[0, 2, 3, 4], threads=2)
                    seal(PIPELINE, data[:MIB], threads=2)
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        worker.join()


@pytest.mark.parametrize("facade", ["fetch", "hashing", "merkle", "pack", "pipeline", "sign"])
def test_buffers_another_interpreter_gets_a_refusal(facade: str, tmp_path: Path) -> None:
    """An ImportError that says so, and no crash: the compiled module belongs to the main interpreter."""
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    interpreters = importlib.import_module(name)
    told = tmp_path / "told"
    root = str(Path(__file__).resolve().parents[2])
    script = f"""
import sys
sys.path.insert(0, {root!r})
try:
    import native.{facade}
except ImportError as error:
    said = f"refused: {{error}}"
else:
    said = "taken"
with open({str(told)!r}, "w") as file:
    file.write(said)
"""
    other = interpreters.create()
    try:
        interpreters.run_string(other, script)
    finally:
        interpreters.destroy(other)
    assert told.read_text().startswith("refused: ")
    assert "subinterpreter" in told.read_text()


@pytest.mark.parametrize("before", ["pass", "import native._rust"])
def test_buffers_another_interpreter_gets_no_compiled_module(before: str) -> None:
    """Neither alone nor beside the main one, and not past the facades either."""
    program = f"""
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
{before}
other = interpreters.create()
failed = interpreters.run_string(other, '''
import os
try:
    import native._rust
except ImportError as error:
    os.write(1, str(error).encode())
''')
assert not failed, failed
interpreters.destroy(other)
"""
    assert "subinterpreter" in alone(program)
