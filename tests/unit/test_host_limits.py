"""Limits as people write them, and as the kernel is told."""

from __future__ import annotations

import pytest

from zos_core.host import LimitInvalid, Limits, check_limits, parse_cpus, parse_memory
from zos_core.host.limits import KNOBS

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256M", 256 * MIB),
        ("256m", 256 * MIB),
        ("256MB", 256 * MIB),
        ("256MiB", 256 * MIB),
        ("1g", 1 << 30),
        ("16384k", 16 * MIB),
        ("16777216", 16 * MIB),
        ("16777216b", 16 * MIB),
    ],
)
def test_host_limits_memory(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1M", "1.5G", "256X", "256 M", "1e9", "9" * 40, "0x10M", "\u0661M", "16M\n"]
)
def test_host_limits_memory_refused(text: str) -> None:
    with pytest.raises(LimitInvalid) as caught:
        parse_memory(text)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["15M", "0", "1", "4k", "9999999999999999T"])
def test_host_limits_memory_outside(text: str) -> None:
    with pytest.raises(LimitInvalid, match=r"below the minimum of 16 MiB|above"):
        parse_memory(text)


@pytest.mark.parametrize(("text", "milli"), [("1", 1000), ("0.5", 500), (".25", 250), ("0.01", 10), ("2.125", 2125)])
def test_host_limits_cpus(text: str, milli: int) -> None:
    assert parse_cpus(text) == milli


@pytest.mark.parametrize("text", ["", "0", "0.001", "-1", "1e3", "nan", "inf", "1.2345", "99999", "1,5", "."])
def test_host_limits_cpus_refused(text: str) -> None:
    with pytest.raises(LimitInvalid) as caught:
        parse_cpus(text)
    assert caught.value.hint


@pytest.mark.parametrize("limits", [Limits(pids=7), Limits(pids=1 << 23), Limits(cpu_milli=9), Limits(memory_bytes=0)])
def test_host_limits_outside(limits: Limits) -> None:
    with pytest.raises(LimitInvalid):
        check_limits(limits)


def test_host_limits_none_is_none() -> None:
    check_limits(Limits())


def test_host_limits_forms_of_the_kernel() -> None:
    memory, cpu, pids = KNOBS
    assert (memory.write(64 * MIB), memory.write(None)) == ("67108864", "max")
    assert (memory.read("67108864\n"), memory.read("max\n")) == (64 * MIB, None)
    assert (cpu.write(500), cpu.write(None)) == ("50000 100000", "max 100000")
    assert (cpu.read("50000 100000\n"), cpu.read("max 100000\n")) == (500, None)
    assert (pids.write(64), pids.read("64\n"), pids.read("max\n")) == ("64", 64, None)
