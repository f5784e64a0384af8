"""Every error class of zos has a code of its own and a legal exit status."""

from __future__ import annotations

import re
from collections import defaultdict

from tests.lint.error_page import PAGE, error_classes, error_page

CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\.[a-z0-9]+(-[a-z0-9]+)*\Z")
# 77: mmdebstrap and automake say "skipped"; 125-127: zos run, as podman; 128 and up: killed by a signal.
EXIT_STATUS_FORBIDDEN = {0, 77, 125, 126, 127}
EXIT_STATUS_MAX = 127

# Which statuses an area has, by the first part of its codes (CONTRIBUTING, Habits). 1: a fault of ours, 2: a wrong
# command line. 29 is base's too, for what must be root: its ten are all taken.
AREAS = (
    ("base disk document file frame http instance key os request zos", {1, *range(10, 20), 29}),
    ("cli", {2}),
    ("flist hub hublog pack store", set(range(20, 50))),
    ("container doctor host node", set(range(50, 80))),
    ("network", set(range(80, 90))),
    ("fetch kernel merkle native sign", set(range(90, 100))),
    ("erasure pipeline", set(range(100, 110))),
    ("bench", set(range(110, 120))),
)


def test_lint_error_codes_are_unique_and_well_formed() -> None:
    by_code: dict[str, list[str]] = defaultdict(list)
    for each in error_classes():
        assert CODE.match(each.code), f"{each.__module__}.{each.__qualname__}: {each.code!r}"
        if "code" in vars(each):
            by_code[each.code].append(f"{each.__module__}.{each.__qualname__}")
    assert {code: names for code, names in by_code.items() if len(names) > 1} == {}


def test_lint_error_statuses_are_legal() -> None:
    for each in error_classes():
        name = f"{each.__module__}.{each.__qualname__}"
        assert each.exit_status not in EXIT_STATUS_FORBIDDEN, name
        assert 0 < each.exit_status <= EXIT_STATUS_MAX, name
        assert 400 <= each.http_status <= 599, name
        assert isinstance(each.retryable, bool), name


def test_lint_error_statuses_are_their_areas() -> None:
    areas = {area: statuses for names, statuses in AREAS for area in names.split()}
    for each in error_classes():
        if "code" in vars(each):
            assert each.exit_status in areas[each.code.partition(".")[0]], each.code


def test_lint_error_classes_name_themselves() -> None:
    """A leaf without a code of its own could not be told from its parent."""
    nameless = [
        f"{each.__module__}.{each.__qualname__}"
        for each in error_classes()
        if "code" not in vars(each) and not each.__subclasses__()
    ]
    assert nameless == []


def test_lint_error_page_is_what_the_classes_say() -> None:
    """`python -m tests.lint` writes it anew, in the same commit."""
    assert PAGE.read_text() == error_page()


def test_lint_error_page_says_what_each_means() -> None:
    """Every code is there, with words of its own and a place where it is raised."""
    page = PAGE.read_text()
    for each in error_classes():
        if "code" in vars(each):
            entry = page.partition(f"\n### {each.code}\n\n")[2].partition("\n### ")[0]
            assert len(entry.splitlines()[0]) > 20, each.code
            assert f"- exit status {each.exit_status}, HTTP {each.http_status}" in entry, each.code
            assert re.search(r"\n- (raised|declared) in `", entry), each.code
