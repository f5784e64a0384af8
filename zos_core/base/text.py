"""Text for a person's terminal."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """One line that can be shown: control characters, line ends among them, and bytes that were no UTF-8 are escaped.

    For what others have written. A terminal acts on some of them, and a second line could be taken for one of ours.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
