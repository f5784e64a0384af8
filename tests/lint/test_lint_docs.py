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
PREFIXES = "ERASURE|MERKLE|SIG|FLIST|FRAME|HOLD|SPAWN|BLOCKD|LOGD|FORWARD|LOG|LOGHUB|PUB|REQSIG|REV|BENCH"
RULE = re.compile(rf"\b(?:{PREFIXES})(?:-[A-Z]+)*-\d+\b")


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
    defined = {rule for page in ROOT.glob("docs/spec/*.md") for rule in RULE.findall(page.read_text())}
    cited: dict[str, str] = {}
    for source in SOURCES:
        for rule in RULE.findall(source.read_text()):
            cited.setdefault(rule, str(source.relative_to(ROOT)))
    assert {rule: where for rule, where in cited.items() if rule not in defined} == {}
