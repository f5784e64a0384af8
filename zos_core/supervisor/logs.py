"""Streams of output for the API: what logd has written, and what it goes on to write (API-LOG)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

from zos_core.base.frame import Channel, PeerGone, RemoteError
from zos_core.base.programs import Named, Nothing, Position
from zos_core.base.threads import in_thread
from zos_core.containers.logfile import LogReader, LogTorn
from zos_core.containers.logstream import NOTE, StreamFrame, encode_frame, encode_position

__all__ = ["LogStreams"]

REQUEST_TIMEOUT_S = 20.0
# How soon a logd that died is asked again, and for how long.
RECONNECT_INTERVAL_S = 0.05
RECONNECTS_MAX = 400


class LogStreams:
    """Reads logd's files; never in the way of a container's writes."""

    def __init__(self, directory: Path, logd: Path) -> None:
        self._directory = directory
        self._logd = logd

    async def stream(self, process: str, *, seq: int, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Frames of `process` from a position on, each batch followed by its position.

        Without `follow` to what has been written by now, with it until the output has ended.
        """
        growth = self._growth(process) if follow else self._once()
        async with aclosing(growth):  # its connection to logd ends with the stream, and not when it is collected
            told = await anext(growth)  # what cannot be followed is an error, and not a stream that breaks off
            with LogReader(self._directory / process, seq=seq, offset=offset) as reader:
                yield b""  # the head of the answer leaves before the first output is there
                async for open_ in _after(told, growth):
                    while frames := await in_thread(_read, reader):
                        yield b"".join(map(encode_frame, frames)) + encode_position(*reader.position)
                    if not open_:
                        return

    async def _once(self) -> AsyncGenerator[bool, None]:
        yield False

    async def _growth(self, process: str) -> AsyncGenerator[bool, None]:
        """Yields whenever there may be more to read: True while the output is open, a last False when it has ended.

        Raises:
            PeerGone: logd has not come back.
            DescriptorsExhausted: logd, or this process, has no descriptor for one more reader.
            RemoteError: logd refuses for another reason, such as that it has as many clients as it takes.
        """
        last: PeerGone | None = None
        for _ in range(RECONNECTS_MAX):
            try:
                async with await Channel.connect(self._logd) as channel:
                    await channel.request("watch", Named(name=process), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
                    now, _ = await channel.request(
                        "position", Named(name=process), reply=Position, timeout_s=REQUEST_TIMEOUT_S
                    )
                    yield now.open
                    if not now.open:
                        return
                    async for name, _body in channel.events():
                        yield name != "closed"
                        if name == "closed":
                            return
            except PeerGone as gone:
                last = gone
                await asyncio.sleep(RECONNECT_INTERVAL_S)
            except RemoteError as error:
                if error.remote_code != "logd.unknown-name":
                    raise
                yield False  # logd has no such process (any more): what its files hold is all there is
                return
        raise last or PeerGone("logd has not come back")


async def _after(first: bool, then: AsyncIterator[bool]) -> AsyncIterator[bool]:
    yield first
    async for each in then:
        yield each


def _read(reader: LogReader) -> list[StreamFrame]:
    """The next batch; a file that is torn is told as a note, and left for the next one."""
    try:
        return [StreamFrame(frame.stream, frame.time_ns, frame.data) for frame in reader.read()]
    except LogTorn as torn:
        if not reader.skip_file():
            raise
        return [StreamFrame(NOTE, 0, torn.message.encode())]
