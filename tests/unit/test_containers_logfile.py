"""The reader of log files, on files that are written here byte by byte (docs/spec/logd.md)."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from zos_core.containers.logfile import CHUNK_BYTES_MAX, STDERR, STDOUT, LogFrame, LogReader, LogTorn, log_files

CONTINUES, ENDED = 0, 3


def header(seq: int) -> bytes:
    return struct.pack("<8sII", b"ZOSLOG1\0", seq, 0)


def frame(stream: int, data: bytes, time_ns: int = 7) -> bytes:
    return struct.pack("<IB3xQ", len(data), stream, time_ns) + data + bytes(-len(data) % 8)


def end(kind: int) -> bytes:
    return struct.pack("<IB3xQ", 0, kind, 0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "1.log").write_bytes(header(1) + frame(STDOUT, b"one") + frame(STDERR, b"two") + end(CONTINUES))
    (tmp_path / "2.log").write_bytes(header(2) + frame(STDOUT, b"12345678"))
    return tmp_path


def texts(frames: list[LogFrame]) -> list[bytes]:
    return [frame.data for frame in frames]


def test_all_files_in_order(log: Path) -> None:
    with LogReader(log) as reader:
        assert reader.read() == [
            LogFrame(STDOUT, 7, b"one"),
            LogFrame(STDERR, 7, b"two"),
            LogFrame(STDOUT, 7, b"12345678"),
        ]
        assert reader.position == (2, 40)
        assert reader.read() == []
        assert not reader.ended


def test_a_position_is_a_place_to_go_on_from(log: Path) -> None:
    with LogReader(log) as reader:
        assert texts(reader.read(until=(1, 40))) == [b"one"]
        position = reader.position
    assert position == (1, 40)
    with LogReader(log, seq=position.seq, offset=position.offset) as reader:
        assert texts(reader.read(until=(1, 64))) == [b"two"]
        assert texts(reader.read(until=(2, 40))) == [b"12345678"]
        assert reader.read(until=(2, 40)) == []


def test_what_is_added_later_is_read_later(log: Path) -> None:
    with LogReader(log) as reader, open(log / "2.log", "ab", buffering=0) as file:
        reader.read()
        added = frame(STDOUT, b"more")
        for part in (added[:5], added[5:18]):
            file.write(part)
            assert reader.read() == []
        file.write(added[18:])
        assert texts(reader.read()) == [b"more"]
        file.write(end(ENDED))
        assert reader.read() == []
        assert reader.ended


def test_what_follows_an_end_takes_its_place(log: Path) -> None:
    with LogReader(log) as reader, open(log / "2.log", "r+b", buffering=0) as file:
        file.seek(40)
        file.write(end(ENDED))
        reader.read()
        reader.read()
        assert reader.ended
        file.seek(40)
        file.write(frame(STDOUT, b"it runs again"))
        assert texts(reader.read()) == [b"it runs again"]


def test_batches_are_bounded(tmp_path: Path) -> None:
    chunk = bytes(CHUNK_BYTES_MAX)
    (tmp_path / "1.log").write_bytes(header(1) + frame(STDOUT, chunk) * 20)
    with LogReader(tmp_path) as reader:
        sizes = [len(reader.read(bytes_max=3 * CHUNK_BYTES_MAX)) for _ in range(8)]
        assert sizes == [3, 3, 3, 3, 3, 3, 2, 0]
    with LogReader(tmp_path) as reader:
        assert len(reader.read(bytes_max=1)) == 1


def test_deleted_files_are_counted(log: Path) -> None:
    (log / "2.log").rename(log / "5.log")
    (log / "5.log").write_bytes(header(5) + frame(STDOUT, b"five"))
    with LogReader(log) as reader:
        assert texts(reader.read()) == [b"one", b"two", b"five"]
        assert reader.files_skipped == 3
    with LogReader(log, seq=2, offset=16) as reader:
        assert texts(reader.read()) == [b"five"]
        assert reader.files_skipped == 3


def test_nothing_there(tmp_path: Path) -> None:
    with LogReader(tmp_path / "absent") as reader:
        assert reader.read() == []
    with LogReader(tmp_path, seq=3, offset=16) as reader:
        assert reader.read() == []
    (tmp_path / "1.log").write_bytes(b"ZOSLOG1")
    with LogReader(tmp_path) as reader:
        assert reader.read() == []


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack("<IB3xQ", CHUNK_BYTES_MAX + 1, STDOUT, 0),
        struct.pack("<IB3xQ", 8, 0, 0),
        struct.pack("<IB3xQ", 8, 4, 0),
        struct.pack("<IB3xQ", 0, STDOUT, 0),
        struct.pack("<IB3sQ", 8, STDOUT, b"\0\1\0", 0),
        frame(STDOUT, b"cut off")[:20],
        frame(STDOUT, b"cut off")[:3],
    ],
)
def test_torn_files_say_so_after_what_is_good(log: Path, bad: bytes) -> None:
    (log / "1.log").write_bytes(header(1) + frame(STDOUT, b"good") + bad)
    with LogReader(log) as reader:
        assert texts(reader.read()) == [b"good"]
        for _ in range(2):
            with pytest.raises(LogTorn, match=r"offset 40 of .*1\.log") as torn:
                reader.read()
            assert (torn.value.context["seq"], torn.value.context["offset"]) == (1, 40)
        assert reader.skip_file()
        assert texts(reader.read()) == [b"12345678"]
        assert not reader.skip_file()


def test_a_file_shorter_than_logd_has_told_is_torn(log: Path) -> None:
    with LogReader(log) as reader:
        assert len(reader.read(until=(2, 64))) == 3
        with pytest.raises(LogTorn):
            reader.read(until=(2, 64))


@pytest.mark.parametrize("head", [header(2), b"ZOSLOG2\0" + bytes(8), bytes(16)])
def test_a_foreign_header(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "1.log").write_bytes(head)
    with LogReader(tmp_path) as reader, pytest.raises(LogTorn):
        reader.read()


def test_only_log_files_count(tmp_path: Path) -> None:
    for name in ("1.log", "10.log", "2.log", "01.log", "x.log", "3.txt", "-1.log", "\u00b2.log"):
        (tmp_path / name).touch()
    (tmp_path / "exec-1").mkdir()
    assert log_files(tmp_path) == [1, 2, 10]
