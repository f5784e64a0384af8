"""The reader of log files gives back what was written, whatever stands behind it."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from zos_core.containers.logfile import LogFrame, LogReader, LogTorn

frames = st.builds(
    LogFrame,
    stream=st.sampled_from([1, 2, 3]),
    time_ns=st.integers(0, 2**64 - 1),
    data=st.binary(min_size=1, max_size=40),
)


def encode(frame: LogFrame) -> bytes:
    head = struct.pack("<IB3xQ", len(frame.data), frame.stream, frame.time_ns)
    return head + frame.data + bytes(-len(frame.data) % 8)


@given(st.lists(st.lists(frames, max_size=5), min_size=1, max_size=4), st.binary(max_size=60), st.integers(1, 100))
def test_frames_come_back(files: list[list[LogFrame]], garbage: bytes, bytes_max: int) -> None:
    """And random bytes behind the last frame give an error or nothing, but never an exception of another kind."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for seq, content in enumerate(files, 1):
            data = struct.pack("<8sII", b"ZOSLOG1\0", seq, 0) + b"".join(map(encode, content))
            (directory / f"{seq}.log").write_bytes(data + (garbage if seq == len(files) else b""))
        expected = [frame for content in files for frame in content]
        read: list[LogFrame] = []
        with LogReader(directory) as reader:
            try:
                while batch := reader.read(bytes_max=bytes_max):
                    read += batch
            except LogTorn:
                pass
        assert read[: len(expected)] == expected
