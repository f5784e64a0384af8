"""The log stream of the API (docs/spec/api.md, API-LOG), sans I/O: frames in, frames out."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from native.errors import ZosError

__all__ = [
    "NOTE",
    "POSITION",
    "STDERR",
    "STDOUT",
    "LogStreamDecoder",
    "LogStreamInvalid",
    "StreamFrame",
    "encode_frame",
    "encode_position",
]

HEADER = struct.Struct("<IB3xQ")
POSITION_BODY = struct.Struct("<IQ")
POSITION, STDOUT, STDERR, NOTE = 0, 1, 2, 3
# logd's chunks are at most 64 KiB; what is longer is not a log frame.
FRAME_BYTES_MAX = 65_536
# Frames between two positions: API-LOG-2.
BATCH_BYTES_MAX = 1024 * 1024


class LogStreamInvalid(ZosError):
    """The stream breaks API-LOG."""

    code, http_status, exit_status = "container.log-stream-invalid", 502, 58


@dataclass(frozen=True, slots=True)
class StreamFrame:
    """One chunk of output as it was read from its pipe."""

    stream: int
    time_ns: int
    data: bytes


def encode_frame(frame: StreamFrame) -> bytes:
    """The bytes of one frame."""
    return HEADER.pack(len(frame.data), frame.stream, frame.time_ns) + frame.data


def encode_position(seq: int, offset: int) -> bytes:
    """The bytes of a position frame."""
    return encode_frame(StreamFrame(POSITION, 0, POSITION_BODY.pack(seq, offset)))


class LogStreamDecoder:
    """Turns received bytes into frames, each given out once the position after it is known."""

    def __init__(self, *, seq: int = 0, offset: int = 0) -> None:
        self.seq = seq
        self.offset = offset
        self._buffer = bytearray()
        self._held: list[StreamFrame] = []
        self._held_bytes = 0

    def feed(self, data: bytes) -> Iterator[StreamFrame]:
        """Add received bytes; yields the frames that may be printed.

        Raises:
            LogStreamInvalid: an impossible length or stream number, or a batch above the limit.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            length, stream, time_ns = HEADER.unpack_from(self._buffer)
            if length > FRAME_BYTES_MAX or stream > NOTE or (stream == POSITION and length != POSITION_BODY.size):
                raise LogStreamInvalid(f"a frame of stream {stream} and {length} bytes in the log stream")
            if len(self._buffer) < HEADER.size + length:
                return
            body = bytes(self._buffer[HEADER.size : HEADER.size + length])
            del self._buffer[: HEADER.size + length]
            if stream != POSITION:
                self._held.append(StreamFrame(stream, time_ns, body))
                self._held_bytes += length
                if self._held_bytes > BATCH_BYTES_MAX:
                    raise LogStreamInvalid("more than 1 MiB of the log stream without a position")
                continue
            self.seq, self.offset = POSITION_BODY.unpack(body)
            held, self._held, self._held_bytes = self._held, [], 0
            yield from held

    def broken(self) -> None:
        """The connection broke: what was not confirmed by a position comes again from (`seq`, `offset`)."""
        self._buffer.clear()
        self._held, self._held_bytes = [], 0
