"""What the twins do with buffers: the checks of `native/src/buffer.rs`, with the same errors, in plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from _cffi_backend import FFI  # cffi itself brings a parser of C, which takes long to import

from native.errors import InputInvalid

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "COUNT_MAX",
    "addresses",
    "check_format",
    "count_of",
    "item",
    "items",
    "no_overlap",
    "numbers",
    "parts",
    "shown",
    "view",
]

COUNT_MAX: Final = (1 << 64) - 1
_FFI: Final = FFI()


def view(buffer: Buffer, name: str) -> memoryview:
    """The bytes of a buffer, without a copy.

    Raises:
        InputInvalid: it is closed, released or not contiguous.
        TypeError: it is no buffer.
    """
    try:
        whole = memoryview(buffer)
        check_format(whole)
    except (BufferError, ValueError) as error:
        raise InputInvalid(f"{name} cannot be read: {error}") from error
    if not whole.c_contiguous:
        raise InputInvalid(f"{name} is not contiguous")
    if whole.nbytes == 0:  # which cannot be cast
        return memoryview(b"" if whole.readonly else bytearray())
    return whole.cast("B")


def check_format(whole: memoryview) -> None:
    """Check that a buffer holds no references, which to write over would end the process."""
    # Names of fields stand between colons.
    if any("O" in codes for codes in whole.format.split(":")[::2]):
        raise BufferError("the buffer is one of references to objects")


def item(buffer: Buffer, size: int, name: str) -> bytes:
    """The bytes of a buffer that has exactly `size` of them."""
    data = view(buffer, name)
    if len(data) != size:
        raise InputInvalid(f"{name} has {len(data)} bytes instead of {size}")
    return bytes(data)


def items(buffer: Buffer, size: int, name: str) -> list[bytes]:
    """The bytes of a buffer, `size` by `size`."""
    data = view(buffer, name)
    if len(data) % size:
        raise InputInvalid(f"{name} has {len(data)} bytes, no multiple of {size}")
    return [bytes(data[at : at + size]) for at in range(0, len(data), size)]


def numbers(buffer: Buffer, name: str) -> list[int]:
    """The numbers of a buffer: u64, little-endian."""
    return [int.from_bytes(each, "little") for each in items(buffer, 8, name)]


def parts(data: Buffer, offsets: Buffer) -> list[memoryview]:
    """The parts of `data` between neighbouring offsets."""
    whole, ends = view(data, "data"), numbers(offsets, "offsets")
    if not ends:
        raise InputInvalid("offsets is empty: n parts have n + 1 offsets")
    if ends[-1] > len(whole):
        raise InputInvalid("offsets lead past the end of data")
    if any(begin > end for begin, end in pairwise(ends)):
        raise InputInvalid("offsets fall")
    return [whole[begin:end] for begin, end in pairwise(ends)]


def addresses(buffer: memoryview) -> range:
    """The addresses of a buffer's bytes."""
    start = int(_FFI.cast("uintptr_t", _FFI.from_buffer(buffer)))
    return range(start, start + buffer.nbytes)


def no_overlap(inputs: Mapping[str, memoryview], outputs: Mapping[str, memoryview]) -> None:
    """Check that outputs can be written, and that each shares no byte with an input or an output before it."""
    seen = [(addresses(each), "what is read") for each in inputs.values()]
    for name, out in outputs.items():
        if out.readonly:
            raise InputInvalid(f"{name} cannot be written")
        mine = addresses(out)
        for other, what in seen:
            if mine.start < other.stop and other.start < mine.stop:
                raise InputInvalid(f"{name} overlaps {what}")
        seen.append((mine, name))


def shown(index: int) -> str:
    """An index as errors show it: Python refuses to print one of more than 4300 digits."""
    return str(index) if 0 <= index < COUNT_MAX else "of a number that is out of range"


def count_of(number: int) -> int:
    """A number that fits into 64 bits without a sign.

    The error does not name it: Python refuses to print one of more than 4300 digits.
    """
    if not isinstance(number, int):
        raise TypeError(f"{type(number).__name__} is no number")
    if not 0 <= number <= COUNT_MAX:
        raise InputInvalid("a number is not from 0 to 2^64 - 1")
    return number
