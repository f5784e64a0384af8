"""Sizes as people write them. Pure."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["read_size"]

_SUFFIXES: Final = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_FORM: Final = re.compile(r"([0-9]{1,16})([bkmgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)


def read_size(text: str) -> int | None:
    """The bytes of `256M`, `1g`, `512MiB` or a plain number, None for any other form.

    Suffixes are powers of 1024, as podman reads them.
    """
    form = _FORM.fullmatch(text)
    return None if form is None else int(form[1]) << _SUFFIXES[form[2].lower()]
