"""docs/errors.md, made from the error classes: `python -m tests.lint` writes it.

Meaning, code and statuses are the class's own. Hints and places are read from the source: every call of the class, and
for what native code raises its `import_exception!`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from native.errors import ZosError

__all__ = ["PAGE", "error_classes", "error_page"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/errors.md"
PARTS = ("native", "zos_core", "flist", "bench")
NOT_OURS = {"target", "build", "crates"}
IMPORTED = re.compile(r"import_exception!\([\w.]+, (\w+)\)")
HEAD = """\
# Errors

Written by `python -m tests.lint` from the error classes; a test compares. Do not edit.

An error is printed as `zos: what happened` and `hint: what to do` on stderr, or with `--json` as one object on stdout:
`{"error": {"code", "message", "hint", "exit_status", "retryable", "context"}}`. The API answers with the same object.
Programs go by `code`, which stays; texts may change. *Again*: the same request may succeed later without a change. In a
hint, `{}` stands for what is filled in. `http.404` and `http.405` are a server's for a path or method that it has not.

`zos run` and `zos exec` end with the status of the container's command, as a shell does: 125 if zos itself failed, 126
if the command cannot be executed, 127 if there is none, 128 + N if signal N ended it. Every other verb ends with the
status below; `zos doctor` with 77 where containers cannot run, `zos bench compare` with 110 where something got worse;
all with 130 after Ctrl-C and 143 after SIGTERM, except that `zos hub serve` ends with 0 after SIGTERM, and `zos run`
hands both to a container that has started.
"""


@dataclass
class Raised:
    """Where a class is raised, and with which hints."""

    places: set[str] = field(default_factory=set)
    hints: list[str] = field(default_factory=list)


def error_classes() -> list[type[ZosError]]:
    """Every error class of ours, sorted by its name."""
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
    return sorted({each for each in found if _is_declared(each)}, key=lambda each: each.__qualname__)


def _is_declared(each: type[ZosError]) -> bool:
    """Whether it stands in a module of ours: a test that ran before may have left a class that `RemoteProblem` made."""
    parts = each.__module__.split(".")
    return parts[0] in PARTS and vars(sys.modules[each.__module__]).get(each.__name__) is each


def error_page() -> str:
    """The whole page."""
    raised = _raised()
    classes = sorted(
        (each for each in error_classes() if "code" in vars(each)), key=lambda each: (each.exit_status, each.code)
    )
    lines = [HEAD, "## By exit status", "", "| status | errors |", "|---|---|"]
    by_status: dict[int, list[str]] = defaultdict(list)
    for each in classes:
        by_status[each.exit_status].append(each.code)
    for status, codes in sorted(by_status.items()):
        lines.append(f"| {status} | {', '.join(f'[{code}](#{_anchor(code)})' for code in codes)} |")
    lines += ["", "## By code"]
    for each in sorted(classes, key=lambda each: each.code):
        lines += ["", *_entry(each, raised[each.__name__])]
    return "\n".join(lines) + "\n"


def _anchor(code: str) -> str:
    """As pages of markdown make it from a heading."""
    return code.replace(".", "")


def _entry(each: type[ZosError], raised: Raised) -> Iterator[str]:
    yield f"### {each.code}"
    yield ""
    yield " ".join((inspect.getdoc(each) or "").split("\n\nAttributes:")[0].split())
    yield ""
    again = ", again" if each.retryable else ""
    yield f"- exit status {each.exit_status}, HTTP {each.http_status}{again}"
    for hint in dict.fromkeys(raised.hints):
        yield f"- hint: {hint}"
    places = ", ".join(f"`{place}`" for place in sorted(raised.places))
    yield f"- raised in {places}" if places else f"- declared in `{_path_of(each)}`"


def _path_of(each: type[ZosError]) -> str:
    return each.__module__.replace(".", "/") + ".py"


def _raised() -> dict[str, Raised]:
    found: dict[str, Raised] = defaultdict(Raised)
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*.py")):
            relative = path.relative_to(ROOT)
            if not NOT_OURS & set(relative.parts[:-1]):
                _read_python(path, str(relative), found)
    for path in sorted((ROOT / "native/src").glob("*.rs")):
        for name in IMPORTED.findall(path.read_text()):
            found[name].places.add("native/src")
    return found


def _read_python(path: Path, place: str, found: dict[str, Raised]) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
            found[node.exc.id].places.add(place)
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        if name is None:
            continue
        found[name].places.add(place)
        found[name].hints += [_text(word.value) for word in node.keywords if word.arg == "hint" and _text(word.value)]


def _text(node: ast.expr) -> str:
    """A hint as it is written; what is filled in is in braces. "" for one that is made elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
            for part in node.values
            if isinstance(part, ast.Constant | ast.FormattedValue)
        )
    return ""
