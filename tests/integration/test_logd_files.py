"""logd writes what a process writes: docs/spec/logd.md against the real program, under a real hold."""

from __future__ import annotations

import os
import platform
import random
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.hold_tool import DEADLINE_S, HoldTool, Refused, Starter, pidfd, wait_exit
from tests.service_tool import Output, Service, output, read_log, write_all
from zos_core.containers.logfile import NOTE, STDERR, STDOUT, LogReader, log_files

FILE_BYTES_MIN = 131_072
LIMITS = {"file_bytes_max": 1 << 24, "files_max": 4}
RECVFROM = {"x86_64": 45, "aarch64": 207}


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def service(start_hold: Starter, logs: Path) -> Service:
    return Service(start_hold, "logd", ["log", "--dir", str(logs)])


@pytest.fixture
def logd(service: Service) -> HoldTool:
    return service.tool()


def wait_closed(logd: HoldTool, name: str) -> None:
    logd.ask("watch", name=name)
    logd.event("closed", name=name)


def test_both_streams_in_their_order(service: Service, logd: HoldTool, logs: Path) -> None:
    one = Output(service, "c")
    logd.ask("attach", name="c", **LIMITS)
    logd.ask("watch", name="c")
    assert logd.event("grown", name="c")["offset"] == 0
    for number in range(10):
        position = logd.ask("position", name="c")
        write_all(one.stdout if number % 2 else one.stderr, f"line {number}\n".encode())
        while logd.ask("position", name="c") == position:
            logd.event("grown", name="c")
    one.close()
    logd.event("closed", name="c")
    frames = read_log(logs / "c")
    assert [frame.data for frame in frames] == [f"line {number}\n".encode() for number in range(10)]
    assert [frame.stream for frame in frames] == [STDERR, STDOUT] * 5
    times = [frame.time_ns for frame in frames]
    assert times == sorted(times)
    position = logd.ask("position", name="c")
    assert position == {"seq": 1, "offset": position["offset"], "open": False, "dropped_bytes": 0}
    with LogReader(logs / "c") as reader:
        assert len(reader.read(until=(position["seq"], position["offset"]))) == 10
        assert reader.position == (position["seq"], position["offset"])
        assert not reader.ended
        assert reader.read() == []
        assert reader.ended


def test_many_processes_at_once(service: Service, logd: HoldTool, logs: Path) -> None:
    outputs = {f"c{number}": Output(service, f"c{number}", 4096) for number in range(20)}
    for name in outputs:
        logd.ask("attach", name=name, **LIMITS)
    expected = {name: random.Random(name).randbytes(200_000) for name in outputs}

    def write(name: str) -> None:
        write_all(outputs[name].stdout, expected[name])
        outputs[name].close()

    writers = [threading.Thread(target=write, args=[name]) for name in outputs]
    for writer in writers:
        writer.start()
    for name in outputs:
        wait_closed(logd, name)
    for writer in writers:
        writer.join()
    for name in outputs:
        assert output(read_log(logs / name)) == {STDOUT: expected[name]}


def test_kills_lose_nothing_and_double_nothing(service: Service, logd: HoldTool, logs: Path) -> None:
    one = Output(service, "c", 4096)
    logd.ask("attach", name="c", file_bytes_max=1 << 20, files_max=1024)
    dice = random.Random(1)
    kills, next_kill = 0, 100
    pid = service.pid
    for number in range(100_000):
        descriptor = one.stdout if number % 7 else one.stderr
        os.write(descriptor, b"%d %s\n" % (number, b"x" * (number % 90)))
        if number == next_kill:
            os.kill(pid, signal.SIGKILL)
            kills += 1
            next_kill = number + dice.randrange(200, 2500)
            pid = service.wait_successor(pid)
    one.close()
    wait_closed(service.tool(), "c")
    streams = output(read_log(logs / "c"))
    lines = [line for data in streams.values() for line in data.splitlines()]
    numbers = [int(line.split()[0]) for line in lines]
    assert len(numbers) == 100_000
    assert sorted(numbers) == list(range(100_000))
    for data in streams.values():
        of_stream = [int(line.split()[0]) for line in data.splitlines()]
        assert of_stream == sorted(of_stream)
    assert all(line == b"%d %s" % (n, b"x" * (n % 90)) for line, n in zip(lines, numbers, strict=True))
    recovered = [line for line in service.log().splitlines() if "finished a take" in line]
    had_read = sum(" 0 of" not in line for line in recovered)
    print(f"{kills} kills, {len(recovered)} in the middle of a take, {had_read} of them after the read")
    assert kills > 40


def test_files_are_bounded_and_losses_noted(service: Service, logd: HoldTool, logs: Path) -> None:
    one = Output(service, "c")
    logd.ask("attach", name="c", file_bytes_max=FILE_BYTES_MIN, files_max=3)
    data = random.Random(2).randbytes(2_000_000)
    write_all(one.stdout, data)
    one.close()
    wait_closed(logd, "c")
    files = log_files(logs / "c")
    assert len(files) == 3
    assert all((logs / "c" / f"{seq}.log").stat().st_size <= FILE_BYTES_MIN for seq in files)
    frames = read_log(logs / "c")
    kept = output(frames)[STDOUT]
    assert data.endswith(kept)
    assert 200_000 < len(kept) < 3 * FILE_BYTES_MIN
    notes = [frame.data.decode() for frame in frames if frame.stream == NOTE]
    assert len(notes) == 3
    assert all(note.startswith("zos: ") and note.endswith("of older output were deleted\n") for note in notes)
    # Each deleted file held whole frames of at most 64 KiB and their headers.
    assert int(notes[-1].split()[1]) >= len(data) - len(kept)
    with LogReader(logs / "c", seq=1, offset=16) as reader:
        assert reader.read()
        assert reader.files_skipped == files[0] - 1


def test_limits_may_be_changed(service: Service, logd: HoldTool, logs: Path) -> None:
    one = Output(service, "c")
    logd.ask("attach", name="c", file_bytes_max=FILE_BYTES_MIN, files_max=8)
    write_all(one.stdout, b"x" * 700_000)
    logd.ask("attach", name="c", file_bytes_max=FILE_BYTES_MIN, files_max=2)
    write_all(one.stdout, b"y" * 200_000)
    one.close()
    wait_closed(logd, "c")
    assert len(log_files(logs / "c")) == 2


def test_pipes_are_taken_at_start_without_anybody_asking(service: Service, logs: Path) -> None:
    one = Output(service, "web")
    two = Output(service, "web/exec-1")
    write_all(one.stdout, b"first")
    write_all(two.stderr, b"second")
    service.kill()
    one.close()
    two.close()
    logd = service.tool()
    wait_closed(logd, "web")
    wait_closed(logd, "web/exec-1")
    assert output(read_log(logs / "web")) == {STDOUT: b"first"}
    assert output(read_log(logs / "web/exec-1")) == {STDERR: b"second"}


def test_sigterm_is_clean_and_the_successor_goes_on(service: Service, logd: HoldTool, logs: Path) -> None:
    one = Output(service, "c")
    logd.ask("attach", name="c", **LIMITS)
    write_all(one.stdout, b"before ")
    service.kill(signal.SIGTERM)
    write_all(one.stdout, b"after")
    one.close()
    wait_closed(service.tool(), "c")
    assert output(read_log(logs / "c")) == {STDOUT: b"before after"}
    assert log_files(logs / "c") == [1]
    assert service.holding.end() == 0


def test_attach_again_changes_nothing(service: Service, logd: HoldTool, logs: Path) -> None:
    one = Output(service, "c")
    for _ in range(3):
        logd.ask("attach", name="c", **LIMITS)
        write_all(one.stdout, b"x")
    one.close()
    wait_closed(logd, "c")
    logd.ask("attach", name="c", **LIMITS)
    assert not logd.ask("position", name="c")["open"]
    assert output(read_log(logs / "c")) == {STDOUT: b"xxx"}


def test_a_second_run_goes_on_in_the_same_log(service: Service, logd: HoldTool, logs: Path) -> None:
    for run in range(3):
        one = Output(service, "c")
        logd.ask("attach", name="c", **LIMITS)
        assert logd.ask("position", name="c")["open"]
        write_all(one.stdout, b"run %d\n" % run)
        one.close()
        wait_closed(logd, "c")
        if run == 1:
            service.kill()
            logd = service.tool()
    assert output(read_log(logs / "c")) == {STDOUT: b"run 0\nrun 1\nrun 2\n"}


def test_a_dead_hold_ends_no_log(service: Service, logd: HoldTool, logs: Path) -> None:
    one = Output(service, "c")
    logd.ask("attach", name="c", **LIMITS)
    with pidfd(service.pid) as descriptor:
        os.kill(service.holding.pid, signal.SIGKILL)
        service.holding.process.wait()
        write_all(one.stdout, b"x" * 3_000_000)
        assert logd.ask("position", name="c")["open"]
        with pytest.raises(Refused) as refused:
            logd.ask("remove", name="c")
        assert refused.value.code == "hold.gone"
        one.close()
        wait_exit(descriptor)
    assert output(read_log(logs / "c")) == {STDOUT: b"x" * 3_000_000}


def test_remove(service: Service, logd: HoldTool, logs: Path) -> None:
    kept = Output(service, "c2")
    logd.ask("attach", name="c2", **LIMITS)
    for name in ("c", "c/exec-1", "c/exec-2"):
        Output(service, name).close()
        logd.ask("attach", name=name, **LIMITS)
    write_all(kept.stdout, b"x")
    logd.ask("watch", name="c/exec-1")
    logd.ask("remove", name="c/exec-1")
    logd.event("closed", name="c/exec-1")
    assert not (logs / "c/exec-1").exists()
    logd.ask("remove", name="c")
    logd.ask("remove", name="c")
    assert not (logs / "c").exists()
    assert service.hold.names("log/") == ["log/c2/stderr", "log/c2/stdout"]
    assert service.hold.names("logslot/") == ["logslot/c2"]
    with pytest.raises(Refused) as refused:
        logd.ask("position", name="c")
    assert refused.value.code == "logd.unknown-name"
    kept.close()
    wait_closed(logd, "c2")
    assert output(read_log(logs / "c2")) == {STDOUT: b"x"}


@pytest.mark.parametrize(
    ("op", "body", "code"),
    [
        ("attach", {"name": "absent", **LIMITS}, "logd.unknown-name"),
        ("attach", {"name": "../x", **LIMITS}, "logd.bad-name"),
        ("attach", {"name": "x", "file_bytes_max": FILE_BYTES_MIN - 1, "files_max": 1}, "logd.bad-limits"),
        ("attach", {"name": "x", "file_bytes_max": 1 << 31, "files_max": 1}, "logd.bad-limits"),
        ("attach", {"name": "x", "file_bytes_max": 1 << 20, "files_max": 0}, "logd.bad-limits"),
        ("attach", {"name": "x"}, "frame.bad-body"),
        ("watch", {"name": "absent"}, "logd.unknown-name"),
        ("watch", {"name": "absent", "more": 1}, "frame.bad-body"),
        ("remove", {"name": ""}, "logd.bad-name"),
        ("follow", {"name": "x"}, "frame.unknown-op"),
    ],
)
def test_refusals(logd: HoldTool, op: str, body: dict[str, object], code: str) -> None:
    with pytest.raises(Refused) as refused:
        logd.call(op, body)
    assert refused.value.code == code


def test_a_watcher_that_does_not_read_stops_nothing(service: Service, logd: HoldTool, logs: Path) -> None:
    one = Output(service, "c", 4096)
    logd.ask("attach", name="c", **LIMITS)
    deaf = [service.tool() for _ in range(3)]
    for tool in deaf:
        tool.ask("watch", name="c")
    write_all(one.stdout, b"x" * 5_000_000)
    one.close()
    wait_closed(logd, "c")
    assert len(output(read_log(logs / "c"))[STDOUT]) == 5_000_000
    # Growth was told in few events, not one for each of the 1,200 chunks.
    events = 0
    while select.select([deaf[0].socket], [], [], 0)[0]:
        assert deaf[0].receive()
        events += 1
    assert 0 < events < 300


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 512 KiB."""
    where = tmp_path / "small"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "zos-test", where], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    yield where
    subprocess.run(["umount", "--lazy", where], check=True)


@pytest.mark.root
def test_a_full_disk_blocks_nobody_and_is_counted(start_hold: Starter, small_disk: Path) -> None:
    service = Service(start_hold, "logd", ["log", "--dir", str(small_disk)])
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 300_000)
    one = Output(service, "c", 4096)
    logd = service.tool()
    logd.ask("attach", name="c", **LIMITS)
    data = random.Random(3).randbytes(1_000_000)
    write_all(one.stdout, data)
    service.hold.until(lambda: logd.ask("position", name="c")["dropped_bytes"] > 700_000)
    service.kill()
    filler.unlink()
    write_all(one.stdout, b"after")
    one.close()
    logd = service.tool()
    wait_closed(logd, "c")
    dropped = logd.ask("position", name="c")["dropped_bytes"]
    frames = read_log(small_disk / "c")
    written = output(frames)[STDOUT]
    assert written.endswith(b"after")
    assert len(written) + dropped == len(data) + len(b"after")
    assert data.startswith(written[:100_000])
    notes = [frame.data.decode() for frame in frames if frame.stream == NOTE]
    assert any("could not be written here and are lost" in note for note in notes)
    assert service.holding.end() == 0


def test_a_removal_that_hold_did_not_live_to_do_leaves_a_log_that_ends(start_hold: Starter, logs: Path) -> None:
    """Whoever follows such a log hears of its end: its pipes are taken anew, and no others are waited for."""
    service = Service(start_hold, "logd", ["log", "--dir", str(logs)], survives=True)
    logd, one, other = service.tool(), Output(service, "c"), Output(service, "other")
    for name in ("c", "other"):  # for the other one it goes on without hold
        logd.ask("attach", name=name, **LIMITS)
    write_all(one.stdout, b"before ")
    pid = service.pid
    os.kill(service.holding.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        removal = pool.submit(logd.ask, "remove", name="c")
        # logd has given up the pipes, and waits for hold's answer, which will not come.
        deadline = time.monotonic() + DEADLINE_S
        try:
            while not Path(f"/proc/{pid}/syscall").read_text().startswith(f"{RECVFROM[platform.machine()]} "):
                assert time.monotonic() < deadline, "logd asks nothing of hold"
        finally:
            service.holding.process.kill()  # a process that is stopped ends by nothing less
        service.lose_hold(pid)
        with pytest.raises(Refused) as refused:
            removal.result()
    assert refused.value.code == "hold.gone"
    write_all(one.stdout, b"after")
    one.close()
    wait_closed(logd, "c")
    assert not logd.ask("position", name="c")["open"]
    assert output(read_log(logs / "c"))[STDOUT] == b"before after"
    logd.ask("remove", name="c")
    assert not (logs / "c").exists()
    other.close()
    assert service.holding.end() == 0
