"""Write tests/vectors/bench anew: `python -m tests.bench_golden`, after a change of pages or format on purpose."""

from __future__ import annotations

from pathlib import Path

from bench import page
from bench.budgets import judge
from bench.results import save
from tests.bench_reports import MACHINE, report
from tests.unit.test_bench_page import GOALS, VECTORS

__all__: list[str] = []

if __name__ == "__main__":
    save(VECTORS / "results-2.json", report())
    for path, text in page.files(report(), judge(GOALS, report().groups, MACHINE.features)).items():
        if path.suffix != ".html":
            (VECTORS / Path(path).name).write_text(text)
