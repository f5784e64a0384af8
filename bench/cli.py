"""The verbs of the measures: declarations only; their handlers are imported when one is called."""

from __future__ import annotations

from zos_core.base.verbs import Group, Verb, argument

__all__ = ["BENCH"]

BENCH = Group(
    summary="Measure zos beside other software, report and compare",
    verbs={
        "list": Verb(
            summary="Show the groups of measurements, what each needs, and its peers: what zos is compared with",
            handler="bench.commands:list_groups",
            examples=(("zos bench list", "every group of every installed part"),),
        ),
        "run": Verb(
            summary="Measure, print tables and goals, keep the results",
            handler="bench.commands:run",
            arguments=(
                argument(
                    "groups",
                    metavar="GROUP",
                    nargs="*",
                    complete="bench.commands:group_names",
                    help="what to measure, of `zos bench list` (default: all)",
                ),
                argument("--quick", action="store_true", help="few rounds, for a first look; no figures to quote"),
                argument(
                    "--peers",
                    action="store_true",
                    help="measure the peers, too, which `zos bench peers install` has installed",
                ),
                argument(
                    "--json", metavar="FILE", help="also write the results there; - prints them in place of the tables"
                ),
                argument(
                    "--rounds",
                    type=int,
                    metavar="N",
                    help="rounds of each measurement and starts of containers (default: 61 and 40, --quick 15 and 10)",
                ),
                argument(
                    "--tree",
                    metavar="DIR",
                    complete="dir",
                    help="root file system that the groups flist and containers take (default: a new Debian one)",
                ),
                argument(
                    "--quiet-wait",
                    type=float,
                    metavar="S",
                    default=10.0,
                    help="seconds to wait at most for a quiet machine before each table (default: 10, --quick 1)",
                ),
                argument("--prefer", action="store_true", help="take precedence over other programs; needs root"),
                argument(
                    "--cache",
                    metavar="DIR",
                    complete="dir",
                    help="where peers and results are kept (default: ~/.cache/zos/bench)",
                ),
            ),
            details=(
                "zos and the peers are measured in turns, pinned to one CPU, so that ratios are of one run; how\n"
                "steady the machine was is said beside each table. Groups that need root ask sudo; others do not.\n"
                "The results are kept below --cache, and `zos bench report` makes pages of them."
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
                argument("before", metavar="A", help="results that `zos bench run --json A` wrote"),
                argument("after", metavar="B", help="later results, to be compared with A"),
                argument(
                    "--threshold",
                    type=float,
                    metavar="PERCENT",
                    default=5.0,
                    help="smaller changes count as none (default: 5)",
                ),
                argument("--all", action="store_true", help="show what did not change, too"),
            ),
            statuses="0 if nothing got worse, 110 if something did by more than noise and threshold, else the error's",
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
                    help="results of `zos bench run`; several of one machine become one report (default: the last run)",
                ),
                argument(
                    "-o",
                    "--output",
                    metavar="DIR",
                    complete="dir",
                    default="bench-report",
                    help="where the pages go (default: ./bench-report)",
                ),
                argument(
                    "--cache",
                    metavar="DIR",
                    complete="dir",
                    help="where results are kept (default: ~/.cache/zos/bench)",
                ),
            ),
            details="Writes performance.md, performance.html and one SVG for each table below performance/.",
            examples=(
                ("zos bench report", "the last run, into ./bench-report"),
                ("zos bench report run.json -o docs", "docs/performance.md of this checkout"),
            ),
        ),
        "peers": Verb(
            summary="Install or list the peers: the software that zos is compared with",
            handler="bench.commands:peers",
            arguments=(
                argument("action", choices=["list", "install"], help="show which are here, or install them"),
                argument(
                    "names",
                    metavar="PEER",
                    nargs="*",
                    complete="bench.commands:peer_names",
                    help="a peer, or the peers of a group (default: all)",
                ),
                argument(
                    "--cache", metavar="DIR", complete="dir", help="where they are kept (default: ~/.cache/zos/bench)"
                ),
            ),
            plans=True,
            details=(
                "They come from package registries, by their ordinary clients (pip, cargo, go, apt), into --cache.\n"
                "Peers that are programs of the machine, such as crun, are not installed; `list` says how to."
            ),
            examples=(
                ("zos bench peers install", "everything; about three minutes"),
                ("zos bench peers list", "what is here, which version, and what is missing and why"),
            ),
        ),
    },
)
