"""`python -m bench VERB ...` is `zos bench VERB ...`, also where the entry point is not installed."""

from __future__ import annotations

import sys

from zos_core.base.verbs import Entry, run

if __name__ == "__main__":
    sys.exit(run(["bench", *sys.argv[1:]], [Entry("bench", "bench.cli:BENCH")]))
