"""hold keeps descriptors by name: docs/spec/hold.md against the real program."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.hold_tool import Gone, HoldTool, Refused, Starter
from zos_core.base import frame


@pytest.fixture
def tool(start_hold: Starter) -> HoldTool:
    return start_hold().tool()


@pytest.fixture
def paper(tmp_path: Path) -> int:
    """A descriptor of a file with a text."""
    path = tmp_path / "paper"
    path.write_text("hello")
    return os.open(path, os.O_RDONLY)


def same_file(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)


def test_put_get_list_drop(tool: HoldTool, paper: int) -> None:
    for name in ("log/b/stdout", "log/a/stdout", "log/a/stderr", "z"):
        tool.put(name, paper)
    assert tool.names("log/") == ["log/a/stderr", "log/a/stdout", "log/b/stdout"]
    assert tool.names() == ["log/a/stderr", "log/a/stdout", "log/b/stdout", "z"]
    one, two = tool.get("z", "log/a/stdout")
    assert same_file(one, paper)
    assert same_file(two, paper)
    assert not os.get_inheritable(one)
    assert tool.ask("drop", names=["z", "z", "absent"]) == {"dropped": 1}
    assert tool.ask("drop", prefix="log/a") == {"dropped": 2}
    assert tool.names() == ["log/b/stdout"]


def test_an_existing_name_is_replaced_only_on_demand(tool: HoldTool, paper: int) -> None:
    other = os.memfd_create("other")
    tool.put("a", paper)
    with pytest.raises(Refused, match="kept already") as refused:
        tool.put("a", other)
    assert refused.value.code == "hold.exists"
    assert same_file(tool.get("a")[0], paper)
    tool.put("a", other, replace=True)
    assert same_file(tool.get("a")[0], other)


def test_a_missing_name_sends_nothing(tool: HoldTool, paper: int) -> None:
    tool.put("a", paper)
    with pytest.raises(Refused) as refused:
        tool.get("a", "b")
    assert refused.value.code == "hold.missing"


def test_32_descriptors_in_one_answer(tool: HoldTool, paper: int) -> None:
    names = [f"n/{number}" for number in range(33)]
    for name in names:
        tool.put(name, paper)
    assert len(tool.get(*names[:32])) == 32
    for wrong in (names, []):
        with pytest.raises(Refused) as refused:
            tool.get(*wrong)
        assert refused.value.code == "frame.bad-body"


@pytest.mark.parametrize("name", ["", "a b", "a\x00", "ä", "x" * 256])
def test_bad_names(tool: HoldTool, paper: int, name: str) -> None:
    with pytest.raises(Refused) as refused:
        tool.put(name, paper)
    assert refused.value.code == "hold.bad-name"


def test_the_number_of_descriptors_must_fit(tool: HoldTool, paper: int) -> None:
    wrong: list[tuple[str, dict[str, object], list[int]]] = [
        ("put", {"name": "a", "replace": False}, []),
        ("put", {"name": "a", "replace": False}, [paper, paper]),
        ("list", {"prefix": ""}, [paper]),
        ("register", {"name": "a", "generation": 1, "pid": 2, "keep": ["b"]}, [paper]),
    ]
    for op, body, fds in wrong:
        with pytest.raises(Refused) as refused:
            tool.call(op, body, fds)
        assert refused.value.code == "frame.bad-body"


def test_requests_are_strict_about_keys(tool: HoldTool) -> None:
    wrong: list[dict[str, object]] = [{"prefix": "", "more": 1}, {}, {"prefix": 1}]
    for op, body in [*(("list", body) for body in wrong), ("drop", {})]:
        with pytest.raises(Refused) as refused:
            tool.ask(op, **body)
        assert refused.value.code == "frame.bad-body"
    with pytest.raises(Refused) as refused:
        tool.ask("drop", prefix="")
    assert refused.value.code == "frame.bad-body"
    with pytest.raises(Refused) as refused:
        tool.ask("what")
    assert refused.value.code == "frame.unknown-op"


def test_the_limit_is_a_typed_error(start_hold: Starter, paper: int) -> None:
    tool = start_hold(descriptors_max=3).tool()
    for name in "abc":
        tool.put(name, paper)
    with pytest.raises(Refused) as refused:
        tool.put("d", paper)
    assert refused.value.code == "hold.full"
    tool.put("c", paper, replace=True)
    answer = tool.ask("services")
    assert (answer["descriptors"], answer["descriptors_max"]) == (3, 3)
    tool.ask("drop", names=["a"])
    tool.put("d", paper)


def test_descriptors_outlive_who_put_them(start_hold: Starter) -> None:
    holding = start_hold()
    read, write = os.pipe()
    with holding.tool() as first:
        first.put("pipe", read)
        os.close(read)
    os.write(write, b"still here")
    (read,) = holding.tool().get("pipe")
    assert os.read(read, 100) == b"still here"
    os.close(write)


def test_large_frames_both_ways(tool: HoldTool, paper: int) -> None:
    names = [f"{number:04}/{'x' * 240}" for number in range(600)]
    for name in names:
        tool.put(name, paper)
    assert sum(map(len, names)) > frame.INLINE_BYTES_MAX
    assert tool.names() == names
    assert tool.ask("drop", names=names) == {"dropped": 600}
    assert tool.names() == []


def test_a_large_frame_with_a_bad_memfd_ends_the_connection(start_hold: Starter) -> None:
    holding = start_hold()
    data = frame.encode_request(1, "list", {"prefix": ""})
    header = frame.HEADER.pack(1, len(data))
    unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.write(unsealed, data)
    for fds in ([unsealed], []):
        tool = holding.tool()
        tool.send_raw(header, fds)
        with pytest.raises(Gone):
            tool.receive()
    assert holding.tool().names() == []


def test_the_machines_limit_is_a_typed_error_too(start_hold: Starter, paper: int) -> None:
    """With few descriptors to be had hold keeps fewer, and needs none for saying so."""
    start_hold.limit_nofile = 256
    holding = start_hold()
    tool = holding.tool()
    room = tool.ask("services")["descriptors_max"]
    limit = int(re.findall(r"Max open files\s+(\d+)", Path(f"/proc/{holding.pid}/limits").read_text())[0])
    assert room == min(16_384, max(limit - 1_024, limit // 2))
    for number in range(room):
        tool.put(f"n/{number}", paper)
    with pytest.raises(Refused) as refused:
        tool.put("one-more", paper)
    assert refused.value.code == "hold.full"
    assert len(tool.names("n/")) == room
    with pytest.raises(Refused) as refused:
        tool.call("put", {"name": "a"}, [paper] * 64)
    assert refused.value.code == "frame.bad-body"
