"""The golden log file, which logd's own tests write byte for byte (docs/spec/logd.md)."""

from __future__ import annotations

from pathlib import Path

from zos_core.containers.logfile import STDOUT, LogFrame, LogReader

VECTOR = Path(__file__).resolve().parents[1] / "vectors" / "log"


def test_the_golden_log_file() -> None:
    with LogReader(VECTOR) as reader:
        assert reader.read() == [LogFrame(STDOUT, 7, data) for data in (b"hello\n", b"12345678", b"\xff\0")]
        assert reader.read() == []
        assert reader.ended
        assert reader.position == (1, 88)
