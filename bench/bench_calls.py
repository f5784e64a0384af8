"""What one call into native code costs, with next to no work done: it decides what is written in what."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

import native._rust
from bench.duel import Duel, Timed, each
from native.cy import netlink as compiled
from native.reference import netlink as plain

RELEASED = "two buffers in, interpreter released"
ATTRIBUTES = [(1, b"eth0\0"), (4, b"\x00\x00\x00\x01"), (10, bytes(16))]


def _direct(function: Callable[[Any], object], argument: object) -> Timed:
    """Calls without a lambda between, which would cost as much as what is measured."""

    def run(count: int) -> int:
        times = repeat(None, count)
        begin_ns = time.perf_counter_ns()
        for _ in times:
            function(argument)
        return time.perf_counter_ns() - begin_ns

    return Timed(run)


def bench_cython(duel: Duel) -> None:
    """The netlink codec in Cython beside its twin in Python: an empty parse is the bare call."""
    packed = plain.pack_attributes(ATTRIBUTES)
    duel(
        "calls.cython",
        "Calls of the netlink codec (Cython, and its twin in Python)",
        each(unit="ns"),
        ours={
            "unpack_attributes(b'')": _direct(compiled.unpack_attributes, b""),
            "unpack three attributes": _direct(compiled.unpack_attributes, packed),
            "pack three attributes": _direct(compiled.pack_attributes, ATTRIBUTES),
            "unpack three, in Python": _direct(plain.unpack_attributes, packed),
            "pack three, in Python": _direct(plain.pack_attributes, ATTRIBUTES),
            "len(b'')": _direct(len, b""),
        },
        against=["unpack three, in Python", "pack three, in Python"],
        notes=["len(b'') is the cheapest call that Python has, the loop around it included"],
    )


def released(count: int, size: int = 64) -> int:
    """Nanoseconds of calls of the function with the least to do of those that release the interpreter in any case."""
    call, data, out, times = native._rust.erasure_roofline, [bytes(size)], [bytearray(size)], repeat(None, count)
    begin_ns = time.perf_counter_ns()
    for _ in times:
        call(data, out, streaming=False)
    return time.perf_counter_ns() - begin_ns


def bench_pyo3(duel: Duel) -> None:
    """The cheapest function that the Rust library has, which keeps the interpreter, and one that releases it."""
    call = getattr(native._rust, "merkle_node_count", None)
    name = "one number in, one out"
    ours = {RELEASED: Timed(released), "len(b'')": _direct(len, b"")}
    if call is not None:
        ours = {name: _direct(call, 7), **ours}
    duel(
        "calls.pyo3",
        "A call into the Rust library (PyO3)",
        each(unit="ns"),
        ours=ours,
        headline=name,
        notes=[f"{RELEASED}: also exports the buffers of two lists and XORs 64 bytes; no function releases alone"],
        missing={} if call is not None else {name: "missing: this build has no function that does nothing else"},
    )
