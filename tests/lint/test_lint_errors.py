"""Every error class of zos has a code of its own and a legal exit status."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import defaultdict

from native.errors import ZosError

PARTS = ("native", "zos_core", "flist", "bench")
CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\.[a-z0-9]+(-[a-z0-9]+)*\Z")
# 77: mmdebstrap and automake say "skipped"; 125-127: zos run, as podman; 128 and up: killed by a signal.
EXIT_STATUS_FORBIDDEN = {0, 77, 125, 126, 127}
EXIT_STATUS_MAX = 127


def error_classes() -> list[type[ZosError]]:
    for part in PARTS:
        package = importlib.import_module(part)
        for module in pkgutil.walk_packages(package.__path__, f"{part}."):
            if ".build" not in module.name and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found: list[type[ZosError]] = []
    waiting: list[type[ZosError]] = [ZosError]
    while waiting:
        each = waiting.pop()
        found.append(each)
        waiting += each.__subclasses__()
    return sorted(
        {each for each in found if each.__module__.split(".")[0] in PARTS}, key=lambda each: each.__qualname__
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


def test_lint_error_classes_name_themselves() -> None:
    """A leaf without a code of its own could not be told from its parent."""
    nameless = [
        f"{each.__module__}.{each.__qualname__}"
        for each in error_classes()
        if "code" not in vars(each) and not each.__subclasses__()
    ]
    assert nameless == []
