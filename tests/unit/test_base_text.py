"""What others have written, on a terminal of ours."""

from __future__ import annotations

import pytest

from zos_core.base.endpoint import Problem, RemoteProblem
from zos_core.base.text import printable

EVIL = "\x1b[2J\x1b]0;pwned\x07 all fine\nzos: image is trusted\x9b\u202e\udcff"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ä and 日本", "plain, ä and 日本"),
        ("two\nlines\ttab\r", r"two\nlines\ttab\r"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\udcff", r"\udcff"),
        ("\u202eright to left", r"\u202eright to left"),
        ("", ""),
    ],
)
def test_text_is_one_printable_line(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_servers_words_do_nothing_to_a_terminal() -> None:
    problem = Problem(code=f"x{EVIL}", message=EVIL, hint=EVIL)
    error = RemoteProblem.from_problem(problem, 403)
    for text in (error.code, error.message, error.hint or ""):
        assert text.isprintable(), text
    assert "all fine" in error.message
