"""A package's `__init__.py` is its whole public surface: `__all__` and imports, no logic; pinned here."""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("native", "zos_core", "flist", "chain_lite", "initramfs")
PINNED = Path(__file__).with_name("public.json")
SKIPPED = {"target", "build", "crates"}


def modules(pattern: str) -> list[Path]:
    found = [path for part in PARTS for path in (ROOT / part).rglob(pattern)]
    return sorted(path for path in found if not SKIPPED & set(path.relative_to(ROOT).parts))


INITS = modules("__init__.py")


def surface() -> dict[str, list[str]]:
    return {name_of(path): sorted(importlib.import_module(name_of(path)).__all__) for path in INITS}


def name_of(path: Path) -> str:
    return ".".join(path.parent.relative_to(ROOT).parts)


@pytest.mark.parametrize("path", INITS, ids=name_of)
def test_lint_packages_have_no_logic(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    for node in tree.body[1:]:
        is_all = isinstance(node, ast.Assign | ast.AnnAssign) and "__all__" in ast.unparse(node).split("=")[0]
        assert is_all or isinstance(node, ast.Import | ast.ImportFrom), f"{name_of(path)}:{node.lineno}"


def test_lint_packages_public_surface_is_pinned() -> None:
    """To change the surface on purpose: `python -m tests.lint`, in the same commit."""
    assert surface() == json.loads(PINNED.read_text())


def test_lint_packages_modules_name_their_surface() -> None:
    """Every module of ours says what is public in it."""
    silent = [
        str(path.relative_to(ROOT))
        for path in modules("*.py")
        if path.name != "__main__.py" and not path.name.startswith("build_") and "__all__" not in path.read_text()
    ]
    assert silent == []
