"""Log file v1 (docs/spec/logd.md): a reader of what logd writes, across its files.

Nothing here waits or follows: whoever follows a log asks logd when it has grown and reads on from `position`. Files may
be written, closed and deleted meanwhile; positions stay valid, because a file's bytes never change once a position
beyond them has been told.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple, Self

from native.errors import ZosError

__all__ = [
    "CHUNK_BYTES_MAX",
    "NOTE",
    "STDERR",
    "STDOUT",
    "LogFrame",
    "LogPosition",
    "LogReader",
    "LogTorn",
    "log_files",
]

MAGIC = b"ZOSLOG1\0"
FILE_HEADER = struct.Struct("<8sII")
FRAME_HEADER = struct.Struct("<IB3sQ")
STDOUT, STDERR, NOTE = 1, 2, 3
CHUNK_BYTES_MAX = 65_536  # LOG-FRAME-2: what logd takes from a pipe at once
BATCH_BYTES_MAX = 1024 * 1024  # of one `read`, unless the caller says otherwise
CONTINUES, ENDED = 0, 3  # the stream byte of a frame of length 0 (LOG-FRAME-3)


class LogTorn(ZosError):
    """A log file holds something that is no frame; what follows in that file cannot be read (LOG-FRAME-4)."""

    code, http_status, exit_status = "container.log-torn", 500, 61


class LogPosition(NamedTuple):
    """A place between two frames: file and byte offset. `(0, 0)` is before everything."""

    seq: int
    offset: int


@dataclass(frozen=True, slots=True)
class LogFrame:
    """One chunk of output as it was read from its pipe (1 to 65,536 bytes), or a note of logd (UTF-8)."""

    stream: int
    time_ns: int
    data: bytes


def log_files(directory: Path) -> list[int]:
    """The numbers of the files of a log, ascending; none if the directory is not there."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries]
    except FileNotFoundError:
        return []
    stems = (name.removesuffix(".log") for name in names if name.endswith(".log"))
    return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit() and str(int(stem)) == stem)


class LogReader:
    """Reads the frames of one log in order.

    Attributes:
        position: after the last frame that was given out.
        ended: the last frame read said that the output has ended, and no later file is there.
        files_skipped: files that were deleted before they were read.
    """

    def __init__(self, directory: Path, *, seq: int = 0, offset: int = 0) -> None:
        self.position = LogPosition(seq, offset)
        self.ended = False
        self.files_skipped = 0
        self._directory = directory
        self._file: FileIO | None = None

    def close(self) -> None:
        """Close the file that is open; `read` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, *, until: tuple[int, int] | None = None, bytes_max: int = BATCH_BYTES_MAX) -> list[LogFrame]:
        """The next frames, at most `bytes_max` bytes of them (but at least one); an empty list if there are no more.

        Args:
            until: a position that logd told. Without it everything that is complete is read, and an incomplete frame at
                the end of the newest file counts as not yet written.
            bytes_max: of data, frame headers not counted.

        Raises:
            LogTorn: something else stands where a frame should; what lies before it has been given out by earlier
                calls. `skip_file` goes on with the next file.
        """
        frames: list[LogFrame] = []
        size = 0
        try:
            for frame in self._frames(until):
                frames.append(frame)
                size += len(frame.data)
                if size + CHUNK_BYTES_MAX > bytes_max:
                    break
        except LogTorn:
            if not frames:
                raise
        return frames

    def skip_file(self) -> bool:
        """Leave a torn file; False if there is no later one."""
        later = [seq for seq in log_files(self._directory) if seq > self.position.seq]
        if not later:
            return False
        self._go_to(later[0])
        return True

    def _frames(self, until: tuple[int, int] | None) -> Iterator[LogFrame]:
        while until is None or self.position < until:
            if not self._open():
                return
            header = self._read_exactly(FRAME_HEADER.size)
            if len(header) < FRAME_HEADER.size:
                if self._at_end_of_file(torn=len(header) > 0, until=until):
                    continue
                return
            length, stream, zeros, time_ns = FRAME_HEADER.unpack(header)
            if zeros != bytes(3) or length > CHUNK_BYTES_MAX:
                raise self._torn(f"a frame of {length} bytes")
            if length == 0:
                if stream not in (CONTINUES, ENDED):
                    raise self._torn(f"an end of kind {stream}")
                if not self._next_file():
                    self.ended = stream == ENDED
                    return
                continue
            if stream not in (STDOUT, STDERR, NOTE):
                raise self._torn(f"a frame of stream {stream}")
            data = self._read_exactly(length + -length % 8)
            if len(data) < length + -length % 8:
                if self._at_end_of_file(torn=True, until=until):
                    continue
                return
            self.position = LogPosition(self.position.seq, self.position.offset + FRAME_HEADER.size + len(data))
            yield LogFrame(stream, time_ns, data[:length])

    def _at_end_of_file(self, *, torn: bool, until: tuple[int, int] | None) -> bool:
        """No whole frame is left in this file. True to go on in the next one."""
        seq = self.position.seq
        if not torn and self._next_file():
            return True
        # What logd has told is written; and where a later file is, nobody adds to this one.
        if (torn and seq != max(log_files(self._directory), default=seq)) or (until is not None and seq <= until[0]):
            raise self._torn("the file ends")
        return False

    def _torn(self, what: str) -> LogTorn:
        seq, offset = self.position
        self.close()
        return LogTorn(
            f"{what} at offset {offset} of {self._directory / f'{seq}.log'}",
            hint="the rest of this file is lost; the next file can be read",
            path=str(self._directory),
            seq=seq,
            offset=offset,
        )

    def _next_file(self) -> bool:
        """Go to the file after the present one, if there is one."""
        later = [seq for seq in log_files(self._directory) if seq > self.position.seq]
        if later:
            self.files_skipped += later[0] - self.position.seq - 1
            self._go_to(later[0])
        return bool(later)

    def _go_to(self, seq: int) -> None:
        self.close()
        self.position = LogPosition(seq, 0)

    def _open(self) -> bool:
        """Have the file of `position` open there, or the first later one; False if there is none."""
        if self._file is None:
            if self.position.seq == 0:
                first = log_files(self._directory)
                if not first:
                    return False
                self._go_to(first[0])
            try:
                # Unbuffered: what lies beyond a position that was told may still change.
                self._file = FileIO(self._directory / f"{self.position.seq}.log", "r")
            except FileNotFoundError:
                later = [seq for seq in log_files(self._directory) if seq > self.position.seq]
                if not later:
                    return False
                self.files_skipped += later[0] - self.position.seq
                self._go_to(later[0])
                return self._open()
        if self.position.offset == 0:
            self._file.seek(0)
            header = self._file.read(FILE_HEADER.size)
            if len(header) < FILE_HEADER.size:
                # Just created, or the machine stopped at this moment.
                self.close()
                return self._next_file() and self._open()
            magic, seq, zero = FILE_HEADER.unpack(header)
            if (magic, seq, zero) != (MAGIC, self.position.seq, 0):
                raise self._torn("no header")
            self.position = LogPosition(self.position.seq, FILE_HEADER.size)
        elif self._file.tell() != self.position.offset:
            self._file.seek(self.position.offset)
        return True

    def _read_exactly(self, size: int) -> bytes:
        return b"" if self._file is None else self._file.read(size)
