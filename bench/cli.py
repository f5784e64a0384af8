"""The verbs of the measures: declarations only; their handlers are imported when one is called."""

from __future__ import annotations

from zos_core.base.verbs import Group, Verb, argument

__all__ = ["BENCH"]

BENCH = Group(
    summary="Measure zos beside the best of the field, report and compare",
    verbs={
        "list": Verb(
            summary="Show the groups of measures, what they need and the peers they are set beside",
            handler="bench.commands:list_groups",
            examples=(("zos bench list", "every group of every installed part"),),
        ),
        "run": Verb(
            summary="Measure groups, print tables and goals, keep the results",
            handler="bench.commands:run",
            arguments=(
                argument(
                    "groups", metavar="GROUP", nargs="*", complete="bench.commands:group_names", help="default: all"
                ),
                argument("--quick", action="store_true", help="few rounds: a look, no figures to quote"),
                argument("--peers", action="store_true", help="beside the peers that `zos bench peers install` made"),
                argument(
                    "--json", metavar="FILE", help="write the results there, too; - prints them instead of tables"
                ),
                argument(
                    "--rounds", type=int, metavar="N", help="rounds of each measure (default 61), container starts (40)"
                ),
                argument(
                    "--tree",
                    metavar="DIR",
                    complete="dir",
                    help="root file system of `flist` and `containers`; default: a new Debian one",
                ),
                argument(
                    "--quiet-wait",
                    type=float,
                    metavar="S",
                    default=10.0,
                    help="seconds to wait for a quiet machine before each table (default 10)",
                ),
                argument("--prefer", action="store_true", help="take precedence over other programs (root)"),
                argument(
                    "--cache",
                    metavar="DIR",
                    complete="dir",
                    help="where peers and results are (default: ~/.cache/zos/bench)",
                ),
            ),
            details=(
                "Ours and the peers are measured in turns, pinned to one CPU, so that ratios are of one run; how\n"
                "steady the machine was is said beside each table. Groups that need root ask sudo; others do not."
            ),
            examples=(
                ("zos bench run erasure sign --peers", "two groups beside their peers"),
                ("zos bench run --quick", "a look at everything in a few minutes"),
            ),
        ),
        "compare": Verb(
            summary="Say what changed between two results, and whether it is more than noise",
            handler="bench.commands:compare",
            arguments=(
                argument("before", metavar="A", help="results of `zos bench run --json`"),
                argument("after", metavar="B", help="later results"),
                argument(
                    "--threshold",
                    type=float,
                    metavar="PERCENT",
                    default=5.0,
                    help="changes below are the same (default 5)",
                ),
                argument("--all", action="store_true", help="show what did not change, too"),
            ),
            details="Exit status: 0 nothing got worse, 110 something got worse by more than noise and threshold.",
            examples=(("zos bench compare main.json branch.json", "in CI: fails when something got slower"),),
        ),
        "report": Verb(
            summary="Write pages with tables and plots from results",
            handler="bench.commands:report",
            arguments=(
                argument(
                    "results",
                    metavar="FILE",
                    nargs="*",
                    help="results; several of one machine become one report (default: the last run)",
                ),
                argument(
                    "-o",
                    "--output",
                    metavar="DIR",
                    complete="dir",
                    default="bench-report",
                    help="default: ./bench-report",
                ),
                argument(
                    "--cache", metavar="DIR", complete="dir", help="where results are (default: ~/.cache/zos/bench)"
                ),
            ),
            details="Writes performance.md, performance.html and one SVG for each table below performance/.",
            examples=(
                ("zos bench report", "the last run, into ./bench-report"),
                ("zos bench report run.json -o docs", "docs/performance.md of this checkout"),
            ),
        ),
        "peers": Verb(
            summary="Install or list the peers: what of others we are set beside",
            handler="bench.commands:peers",
            arguments=(
                argument("action", choices=["list", "install"], help="what to do"),
                argument(
                    "names",
                    metavar="PEER",
                    nargs="*",
                    complete="bench.commands:peer_names",
                    help="peers or groups; default: all",
                ),
                argument("--cache", metavar="DIR", complete="dir", help="where they go (default: ~/.cache/zos/bench)"),
            ),
            plans=True,
            details="From package registries only, by their ordinary clients, into a cache of their own.",
            examples=(
                ("zos bench peers install", "everything; about three minutes"),
                ("zos bench peers list", "what is here, which version, and what is missing and why"),
            ),
        ),
    },
)
