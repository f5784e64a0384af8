"""Limits of a container: what may be asked for, how the kernel is told, and what it says is in force. Pure.

Files and forms are of Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from zos_core.base.size import read_size
from zos_core.host.errors import LimitInvalid

__all__ = [
    "CPU_MILLI_MAX",
    "CPU_MILLI_MIN",
    "KNOBS",
    "MEMORY_BYTES_MAX",
    "MEMORY_BYTES_MIN",
    "PIDS_MAX",
    "PIDS_MIN",
    "Knob",
    "LimitState",
    "Limits",
    "check_limits",
    "parse_cpus",
    "parse_memory",
]

MEMORY_BYTES_MIN: Final = 16 << 20
"""Below it a Python does not even start, and the kernel's own memory for a container is no longer small beside it."""
MEMORY_BYTES_MAX: Final = 1 << 50
CPU_MILLI_MIN: Final = 10
"""The kernel's quota is at least one of the period's hundred milliseconds."""
CPU_MILLI_MAX: Final = 1_000_000
PIDS_MIN: Final = 8
"""Reaper, payload, an exec with a pipe."""
PIDS_MAX: Final = 1 << 22  # PID_MAX_LIMIT
_CPU_PERIOD_US: Final = 100_000
_CPUS_FORM: Final = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,3})?|\.[0-9]{1,3}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is asked for; None asks for none. `cpu_milli` are thousandths of one processor."""

    memory_bytes: int | None = None
    cpu_milli: int | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """One limit as it was asked for, as it is in force (read back from the kernel), and why it is not, if it is not.

    `memory` in bytes (the kernel rounds down to pages), `cpu` in thousandths of a processor, `pids` in processes.
    """

    name: str
    requested: int | None
    enforced: int | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """How one limit is written for the kernel and read back: controller, file, and the two forms."""

    name: str
    controller: str
    file: str
    asked: Callable[[Limits], int | None]
    write: Callable[[int | None], str]
    read: Callable[[str], int | None]


def _number_or_max(value: int | None) -> str:
    return "max" if value is None else str(value)


def _read_number(text: str) -> int | None:
    word = text.strip()
    return None if word == "max" else int(word)


def _write_cpu(milli: int | None) -> str:
    return f"{'max' if milli is None else milli * _CPU_PERIOD_US // 1000} {_CPU_PERIOD_US}"


def _read_cpu(text: str) -> int | None:
    quota, period = text.split()
    return None if quota == "max" else int(quota) * 1000 // int(period)


KNOBS: Final = (
    Knob(
        name="memory",
        controller="memory",
        file="memory.max",
        asked=lambda limits: limits.memory_bytes,
        write=_number_or_max,
        read=_read_number,
    ),
    Knob(
        name="cpu",
        controller="cpu",
        file="cpu.max",
        asked=lambda limits: limits.cpu_milli,
        write=_write_cpu,
        read=_read_cpu,
    ),
    Knob(
        name="pids",
        controller="pids",
        file="pids.max",
        asked=lambda limits: limits.pids,
        write=_number_or_max,
        read=_read_number,
    ),
)


def check_limits(limits: Limits) -> None:
    """Refuse what no container could live with, before anything is made.

    Raises:
        LimitInvalid: below the minimum or above the maximum of one limit; says which.
    """
    for name, value, low, high, unit in (
        ("memory", limits.memory_bytes, MEMORY_BYTES_MIN, MEMORY_BYTES_MAX, "bytes"),
        ("cpu", limits.cpu_milli, CPU_MILLI_MIN, CPU_MILLI_MAX, "thousandths of a processor"),
        ("pids", limits.pids, PIDS_MIN, PIDS_MAX, "processes"),
    ):
        if value is None:
            continue
        if value < low:
            least = f"{low >> 20} MiB" if name == "memory" else f"{low} {unit}"
            raise LimitInvalid(
                f"a {name} limit of {value} {unit} is below the minimum of {least}",
                hint=f"ask for at least {least}, or for no {name} limit",
                limit=name,
                value=value,
            )
        if value > high:
            raise LimitInvalid(
                f"a {name} limit of {value} {unit} is above {high}",
                hint=f"ask for no {name} limit instead",
                limit=name,
                value=value,
            )


def parse_memory(text: str) -> int:
    """Read `256M`, `1g`, `512MiB` or plain bytes; suffixes are powers of 1024, as podman reads them.

    Raises:
        LimitInvalid: another form, or a limit that `check_limits` refuses.
    """
    size = read_size(text)
    if size is None:
        raise LimitInvalid(
            f"cannot read memory limit {text[:40]!r}", hint="write 256M, 1G or bytes", limit="memory", value=text[:40]
        )
    check_limits(Limits(memory_bytes=size))
    return size


def parse_cpus(text: str) -> int:
    """Read `0.5`, `2` or `.25` processors into thousandths of one.

    Raises:
        LimitInvalid: another form, or a limit that `check_limits` refuses.
    """
    if _CPUS_FORM.fullmatch(text) is None:
        raise LimitInvalid(
            f"cannot read cpu limit {text[:40]!r}",
            hint="write 0.5 or 2, thousandths at most",
            limit="cpu",
            value=text[:40],
        )
    milli = int(Decimal(text) * 1000)
    check_limits(Limits(cpu_milli=milli))
    return milli
