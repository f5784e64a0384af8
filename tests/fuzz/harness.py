"""A fuzz harness in plain Python: seeded mutations of a corpus, only typed errors may come out, failures become small.

`ZOS_FUZZ_S` is the time of each target in seconds (5), `ZOS_FUZZ_SEED` repeats a run, `ZOS_FUZZ_DIR` is where a failing
input is written. The same habits as `native/crates/fuzz`, which does it for Rust.
"""

from __future__ import annotations

import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from native.errors import ZosError

__all__ = ["Target", "fuzz", "mutate"]

SECONDS = float(os.environ.get("ZOS_FUZZ_S", "5"))
INPUT_CPU_MAX_S = 2.0
GROWTH_KIB_MAX = 256 * 1024
INPUT_BYTES_MAX = 65_536
MINIMISE_MAX = 2_000
CHANGES_MAX = 6
EDGES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x1_0000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE]
EDGES += [0xFFFF_FFFF, 0x1_0000_0000, 0x7FFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF]


@dataclass(frozen=True, slots=True)
class Target:
    """A parser and good inputs of it.

    Attributes:
        parse: takes bytes; returns, or raises a `ZosError`. Everything else that comes out is a fault.
        seal: makes a mutation acceptable to what stands before the parser, such as a checksum.
    """

    name: str
    corpus: Sequence[bytes]
    parse: Callable[[bytes], object]
    seal: Callable[[bytes], bytes] = bytes


def mutate(chance: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One input: a member of the corpus with a few changes that know no format."""
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.randint(1, CHANGES_MAX)):
        at = chance.randrange(len(data)) if data else 0
        count = chance.randint(1, 16)
        kind = chance.randrange(9)
        if kind == 0 and data:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and data:
            data[at] = chance.randrange(256)
        elif kind in (2, 3):
            width = chance.choice((1, 2, 4, 8))
            number = (chance.choice(EDGES) + chance.choice((0, 0, 0, -1, 1, chance.randrange(256)))) % (1 << 8 * width)
            at = min(at, max(0, len(data) - width))
            data[at : at + width] = number.to_bytes(width, chance.choice(("little", "big")))
        elif kind == 4:
            del data[at : at + count]
        elif kind == 5:
            data[at:at] = chance.randbytes(count)
        elif kind == 6:
            data[at:at] = data[at : at + count]
        elif kind == 7:
            del data[at:]
        else:
            other = chance.choice(corpus)
            data[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(data[: max(INPUT_BYTES_MAX, *map(len, corpus))])


def fault(target: Target, data: bytes) -> str | None:
    """What is wrong with the target on this input, if something is."""
    before = time.process_time()
    try:
        target.parse(target.seal(data))
    except ZosError:
        pass
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"
    took = time.process_time() - before
    return f"takes {took:.1f} s" if took > INPUT_CPU_MAX_S else None


def minimised(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """The input without as many of its pieces as can be left out while it still fails."""
    piece, attempts = len(data) // 2, 0
    while piece:
        at = 0
        while at < len(data) and attempts < MINIMISE_MAX:
            less = data[:at] + data[at + piece :]
            attempts += 1
            if fails(less):
                data = less
            else:
                at += piece
        piece //= 2
    return data


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fuzz(target: Target, *, seconds: float = SECONDS) -> int:
    """Run a target for that long; how many inputs it took.

    Raises:
        AssertionError: a fault; the message has the seed and the file of the smallest input that shows it.
    """
    seed = int(os.environ.get("ZOS_FUZZ_SEED", str(time.time_ns())))
    print(f"fuzz {target.name}: seed {seed}")
    chance = random.Random(seed)
    for data in target.corpus:
        target.parse(data)  # what is good is accepted, or the target fuzzes nothing but its first check
    before, count, end = peak_kib(), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(chance, target.corpus)
        count += 1
        found = fault(target, data)
        if found is None:
            continue
        small = minimised(data, lambda less: fault(target, less) is not None)
        path = Path(os.environ.get("ZOS_FUZZ_DIR", tempfile.gettempdir())) / f"zos-fuzz-{target.name}-{seed}.bin"
        path.write_bytes(small)
        raise AssertionError(
            f"{target.name} {fault(target, small) or found}: {len(small)} bytes in {path}, seed {seed}"
        )
    grown = peak_kib() - before
    assert grown < GROWTH_KIB_MAX, f"{target.name}: {grown} KiB more than before, seed {seed}"
    return count
