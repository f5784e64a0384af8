"""Streams of output over the real logd: their connection goes with them, and what cannot be followed is said."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hold_tool import HoldTool, Starter
from tests.service_tool import Output, Service, write_all
from zos_core.base.endpoint import query_from_text
from zos_core.base.errors import DocumentInvalid, RemoteError
from zos_core.containers.logstream import STDOUT, LogStreamDecoder
from zos_core.supervisor.endpoints import LogQuery
from zos_core.supervisor.logs import LogStreams

CLIENTS_MAX = 256
LIMITS = {"file_bytes_max": 1 << 24, "files_max": 4}


@pytest.fixture
def service(start_hold: Starter, tmp_path: Path) -> Service:
    return Service(start_hold, "logd", ["log", "--dir", str(tmp_path / "logs")])


@pytest.fixture
def streams(service: Service, tmp_path: Path) -> LogStreams:
    return LogStreams(tmp_path / "logs", service.holding.run_dir / "logd.sock")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def test_the_connection_of_a_follower_goes_with_its_stream(service: Service, streams: LogStreams) -> None:
    logd, one = service.tool(), Output(service, "c")
    logd.ask("attach", name="c", **LIMITS)
    write_all(one.stdout, b"hello")
    service.hold.until(lambda: logd.ask("position", name="c")["offset"] > 0)
    before = descriptors(service.pid)
    decoder, said = LogStreamDecoder(), b""
    async with asyncio.timeout(20):
        stream = streams.stream("c", seq=0, offset=0, follow=True)
        async for chunk in stream:
            said += b"".join(frame.data for frame in decoder.feed(chunk) if frame.stream == STDOUT)
            if said == b"hello":
                break
        assert descriptors(service.pid) == before + 1
        await stream.aclose()  # type: ignore[attr-defined]  # as the server does with what it was given
    service.hold.until(lambda: descriptors(service.pid) == before)
    one.close()


async def test_a_logd_that_lets_nobody_in_is_no_end_of_the_output(service: Service, streams: LogStreams) -> None:
    logd, one = service.tool(), Output(service, "c")
    logd.ask("attach", name="c", **LIMITS)
    with ExitStack() as stack:
        for _ in range(CLIENTS_MAX - 1):
            stack.enter_context(HoldTool(service.holding.run_dir / "logd.sock"))
        logd.ask("position", name="c")
        with pytest.raises(RemoteError) as refused:
            await anext(streams.stream("c", seq=0, offset=0, follow=True))
    assert refused.value.remote_code == "frame.too-many-clients"
    one.close()


@pytest.mark.parametrize("field", ["seq", "offset"])
def test_positions_that_no_log_can_have_are_refused(field: str) -> None:
    with pytest.raises(DocumentInvalid):
        query_from_text({field: "9" * 30}, LogQuery)
