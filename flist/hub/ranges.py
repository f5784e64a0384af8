"""Single byte ranges of HTTP (RFC 9110, section 14). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Span", "Unsatisfiable", "span_of"]

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})\Z")


class Unsatisfiable(ValueError):
    """The range lies behind the end: 416."""


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes from `start` on; `partial` says whether they were asked for by a range."""

    start: int
    length: int
    partial: bool


def span_of(header: str | None, size: int) -> Span:
    """What to send of an object of `size` bytes. A header that is no single byte range is ignored, as the RFC allows.

    Raises:
        Unsatisfiable: the range lies behind the end.
    """
    whole = Span(0, size, False)
    match = _RANGE.match(header.strip()) if header is not None else None
    if match is None or match.groups() == ("", ""):
        return whole
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        if not length:
            raise Unsatisfiable
        return Span(size - length, length, True)
    start = int(first)
    end = min(int(last), size - 1) if last else size - 1
    if start >= size:
        raise Unsatisfiable
    if last and int(last) < start:
        return whole
    return Span(start, end - start + 1, True)
