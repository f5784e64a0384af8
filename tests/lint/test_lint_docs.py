"""Links in the documents lead somewhere, and rules that the code cites exist in a spec page."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("changes.d/*.md")])
SOURCES = sorted(
    path
    for part in ("native", "zos_core", "flist", "bench", "tests")
    for pattern in ("*.py", "*.pyx", "*.rs")
    for path in (ROOT / part).rglob(pattern)
    if "target" not in path.relative_to(ROOT).parts
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Where a spec page lays a rule down: at the head of an item, of a table's row, or in a heading.
DEFINED = re.compile(r"^(?:\s*[-*] |\| |#+ .*?\(?)([A-Z]{2,}(?:-[A-Z0-9]+)+)\b", re.MULTILINE)


def test_lint_docs_links_lead_somewhere() -> None:
    dead = []
    for page in PAGES:
        for target in LINK.findall(page.read_text()):
            if "://" in target or target.startswith("#"):
                continue
            if not (page.parent / target.split("#")[0]).exists():
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert dead == []


def test_lint_docs_cited_rules_exist() -> None:
    """What begins as the rules of a spec page do is one of them, HOLD-RESTART, STORE-5, or some together, FLIST-IDX."""
    defined = {rule for page in ROOT.glob("docs/spec/*.md") for rule in DEFINED.findall(page.read_text())}
    together = {rule.rpartition("-")[0] for rule in defined}
    families = "|".join(sorted({rule.partition("-")[0] for rule in defined}))
    citation = re.compile(rf"(?<![\w-])(?:{families})(?:-[A-Z]+)*(?:-[A-Z]+|-[0-9]+)(?![\w-])")
    cited: dict[str, str] = {}
    for source in [*SOURCES, *ROOT.glob("docs/**/*.md")]:
        for rule in citation.findall(source.read_text()):
            cited.setdefault(rule, str(source.relative_to(ROOT)))
    assert {rule: where for rule, where in cited.items() if rule not in defined | together} == {}
