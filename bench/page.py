"""The report of a run as Markdown, as a page of HTML, and as plots beside them. Pure: files are made by the caller."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import PurePosixPath

from bench.budgets import Verdict
from bench.plot import goals_plot, group_plot
from bench.results import Group, Report
from bench.series import median
from bench.standing import Standing, losses, nearest_roof, standings
from bench.tables import budget_cells, cells, doubts, load_line, machine_lines, peer_cells, value_text

__all__ = ["files", "html", "markdown"]

PLOTS = "performance"
NAME_LENGTH_MAX = 100
TITLE = "zos, measured"
INTRODUCTION = (
    "Written by `zos bench report` from what `{command}` found. What is in one table was measured in "
    "turns, short calls pinned to one CPU, so the ratios are of one run on one machine. Figures in brackets are the "
    "ends of the 90 % bootstrap interval over the rounds of one process: where memory lies changes from run to run and "
    "is not in it, so another run may well lie outside. In the plots ours is blue and peers are grey; dashed bars and "
    "orange points are what the machine can do at most, no rivals."
)
HEADINGS = {
    "erasure": "Erasure coding",
    "hash": "Hashing",
    "pipeline": "Chunks in one pass",
    "sign": "Signatures",
    "merkle": "Merkle trees",
    "calls": "Calls into native code",
    "machine": "What the machine can do",
    "flist": "Images",
    "containers": "Containers",
}
CSS = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;max-width:60rem;margin:0 auto;
padding:1.5rem;color:#1f2328;background:#fff}
h1{font-size:1.9rem;margin:.5rem 0}h2{margin-top:2.6rem;border-bottom:1px solid #d1d9e0;padding-bottom:.3rem}
h3{margin:2rem 0 .6rem}svg{max-width:100%;height:auto;display:block;margin:.6rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.87rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .65rem;border-bottom:1px solid #d1d9e0;text-align:right;white-space:nowrap}
th:first-child,td:first-child,table.words td,table.words th{text-align:left}
table.words td:not(:nth-child(3)){white-space:normal}
table.glance td:first-child{white-space:normal;min-width:15rem}
thead th{border-bottom:2px solid #818b98}ul{font-size:.9rem;color:#59636e;padding-left:1.2rem}
.reached{color:#1a7f37;font-weight:600}.missed{color:#cf222e;font-weight:600}
.warn{border-left:4px solid #bf8700;padding:.5rem .9rem;background:#fff8c5;color:#1f2328}
nav a{margin-right:1rem}a{color:#0969da}code{font-size:.9em}
@media (prefers-color-scheme:dark){
body{color:#f0f6fc;background:#0d1117}h2,th,td{border-color:#2f353d}ul{color:#9198a1}a{color:#4493f8}
table.glance td:first-child{white-space:normal;min-width:15rem}
thead th{border-color:#656c76}.reached{color:#3fb950}.missed{color:#f85149}
.warn{background:#272115;color:#f0f6fc;border-color:#d29922}
}
"""


def files(report: Report, verdicts: Sequence[Verdict]) -> dict[PurePosixPath, str]:
    """Path -> text of everything that a report consists of."""
    made = {
        PurePosixPath("performance.md"): markdown(report, verdicts),
        PurePosixPath("performance.html"): html(report, verdicts),
    }
    goals = goals_plot(_in_order(verdicts))
    if goals is not None:
        made[PurePosixPath(PLOTS, "goals.svg")] = goals
    for group in report.groups:
        plot = group_plot(group)
        if plot is not None:
            made[PurePosixPath(PLOTS, f"{_file_name(group.key)}.svg")] = plot
    return made


def _file_name(key: str) -> str:
    """The key, where it can be a name of a file; else as much of it, and a digest that tells it from others."""
    name = re.sub(r"[^A-Za-z0-9.+-]", "-", key).lstrip(".")[:NAME_LENGTH_MAX]
    return name if name and name == key else f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _introduction(report: Report) -> str:
    words = ["zos", *(word if word == ";" else shlex.quote(word) for word in report.arguments)]
    return INTRODUCTION.format(command=" ".join(words).replace(" ; ", "; "))


def _suites(report: Report) -> list[tuple[str, list[Group]]]:
    """Groups by suite, in the order of `HEADINGS`, others behind."""
    order = list(HEADINGS)

    def place(group: Group) -> tuple[int, str]:
        return (order.index(group.suite) if group.suite in order else len(order), group.suite)

    return [(name, list(found)) for (_, name), found in groupby(sorted(report.groups, key=place), key=place)]


def _heading(suite: str) -> str:
    return HEADINGS.get(suite, suite or "Other measures")


def _in_order(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """What was measured first, by goal; then what is not here, then what was not run."""
    order = {"reached": 0, "missed": 0, "not here": 1, "missing": 2}
    return sorted(verdicts, key=lambda verdict: (order[verdict.outcome], _goal_number(verdict)))


def _goal_number(verdict: Verdict) -> int:
    goal = verdict.budget.goal or ""
    return int(goal[1:]) if goal[1:].isdecimal() else 1000


def _warnings(report: Report) -> list[str]:
    noisy = [group for group in report.groups if doubts(group)]
    found = []
    if noisy:
        worst = max(noisy, key=lambda group: group.noise.jitter)
        found.append(
            f"{len(noisy)} of {len(report.groups)} groups were measured on a busy machine (in the worst, the same work "
            f"varied by {worst.noise.jitter:.0%}): trust the ratios, not the figures by themselves."
        )
    missing = [peer.name for peer in report.peers if peer.missing is not None]
    if missing:
        found.append(f"Missing peers, which have no figures here: {', '.join(missing)}.")
    if report.interrupted:
        found.append("The run was interrupted: what is here is not all of it.")
    if report.failed:
        found.append(f"{len(report.failed)} measures broke off; they are listed at the end.")
    return found


def _counts(verdicts: Sequence[Verdict]) -> str:
    names = ("reached", "missed", "missing", "not here")
    counts = {name: sum(verdict.outcome == name for verdict in verdicts) for name in names}
    text = f"{counts['reached']} reached, {counts['missed']} missed, {counts['missing']} not measured"
    return text + (f", {counts['not here']} about what this CPU does not have" if counts["not here"] else "")


def _explanations(verdicts: Sequence[Verdict]) -> list[str]:
    """Why goals were missed, as far as somebody has found out."""
    found = []
    for verdict in _in_order(verdicts):
        if verdict.outcome == "missed":
            budget = verdict.budget
            name = f"{budget.goal or budget.group} ({budget.row}{f' to {budget.baseline}' if budget.baseline else ''})"
            found.append(f"{name} was missed: {budget.explanation or 'nobody has explained it yet'}")
    return found


def _loss_text(one: Standing) -> str:
    seen = one.advantage
    return (
        f"{one.group.title}: {one.peer.name} is {1 / seen.value:.2f} times as good as {one.ours.name} "
        f"({1 / seen.high:.2f}-{1 / seen.low:.2f})"
    )


def _loss_lines(report: Report) -> list[str]:
    lost = [_loss_text(one) for one in losses(report.groups)]
    if lost:
        return lost
    beside = len(standings(report.groups))
    return [f"To none of the {beside} peers' rows beside ours, by more than the noise of the rounds."] if beside else []


def _best_cells(report: Report) -> list[list[str]]:
    """Each group in a line: ours, the best peer, how many times as good ours is, and what the machine would allow."""
    table = [["", "unit", "ours", "best peer", "", "ours is", "of the roofline"]]
    found = standings(report.groups)
    for key, each in groupby(found, key=lambda one: one.group.key):
        best = min(each, key=lambda one: one.advantage.value)
        group = next(group for group in report.groups if group.key == key)
        seen = best.advantage
        ours, theirs = (value_text(median(row.values)) for row in (best.ours, best.peer))
        times = f"{seen.value:.2f}x" + ("" if seen.low == seen.high else f" ({seen.low:.2f}-{seen.high:.2f})")
        roof = nearest_roof(group)
        share = "" if roof is None else f"{roof[1].value:.2f} of {roof[0].name}"
        table.append([group.title, best.ours.unit, ours, best.peer.name, theirs, times, share])
    return table if len(table) > 1 else []


def _notes(group: Group) -> list[str]:
    return [load_line(group), *(f"{row.name}: {row.note}" for row in group.rows if row.note), *group.notes]


# --- Markdown ------------------------------------------------------------------------------------------------------


def markdown(report: Report, verdicts: Sequence[Verdict]) -> str:
    """The report as a page of Markdown; its plots are beside it, below performance/."""
    lines = [f"# {TITLE}", "", _introduction(report), ""]
    lines += [f"> **{text}**\n" for text in _warnings(report)]
    lines += [f"- {line}" for line in machine_lines(report)] + [""]
    best = _best_cells(report)
    if best:
        lines += ["## At a glance", "", *_markdown_table(best), ""]
    if verdicts:
        lines += ["## Goals", "", f"{_counts(verdicts)}. Reported, not gated.", ""]
        if goals_plot(_in_order(verdicts)) is not None:
            lines += [f"![What was seen over what was wanted]({PLOTS}/goals.svg)", ""]
        lines += [*_markdown_table(budget_cells(_in_order(verdicts))), ""]
        lines += [*(f"- {line}" for line in _explanations(verdicts)), ""]
    if _loss_lines(report):
        lines += ["## What we lose, and to whom", "", *(f"- {line}" for line in _loss_lines(report)), ""]
    for suite, groups in _suites(report):
        lines += [f"## {_heading(suite)}", ""]
        for group in groups:
            lines += [f"### {group.title}", ""]
            if group_plot(group) is not None:
                lines += [f"![{group.title}]({PLOTS}/{_file_name(group.key)}.svg)", ""]
            lines += [*_markdown_table(cells(group)), "", *(f"- {note}" for note in _notes(group)), ""]
    if report.peers:
        lines += ["## Peers", "", *_markdown_table(peer_cells(report)), ""]
    for title, reasons in (("Skipped", report.skipped), ("Broke off", report.failed)):
        if reasons:
            lines += [f"## {title}", "", *(f"- {reason}" for reason in reasons), ""]
    # What could begin a tag of HTML is text here, whatever a row is called.
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", "\n".join(lines))


def _markdown_table(table: Sequence[Sequence[str]]) -> list[str]:
    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"

    return [line(table[0]), line(["---"] * len(table[0])), *(line(row) for row in table[1:])]


# --- HTML ----------------------------------------------------------------------------------------------------------


def html(report: Report, verdicts: Sequence[Verdict]) -> str:
    """The report as one page of HTML that needs nothing else: plots are inside, there is no script."""
    suites = _suites(report)
    parts = [f"<h1>{escape(TITLE)}</h1>", f"<p>{_code(_introduction(report))}</p>"]
    parts += [f'<p class="warn">{escape(text)}</p>' for text in _warnings(report)]
    parts.append(_html_list(machine_lines(report)))
    links = [("goals", "Goals")] if verdicts else []
    links += [(suite or "other", _heading(suite)) for suite, _ in suites]
    parts.append("<nav>" + " ".join(f'<a href="#{escape(to)}">{escape(text)}</a>' for to, text in links) + "</nav>")
    best = _best_cells(report)
    if best:
        parts += ["<h2>At a glance</h2>", _html_table(best, kind="glance")]
    if verdicts:
        parts += ['<h2 id="goals">Goals</h2>', f"<p>{escape(_counts(verdicts))}. Reported, not gated.</p>"]
        parts += [goals_plot(_in_order(verdicts)) or "", _html_table(budget_cells(_in_order(verdicts)), kind="words")]
        if _explanations(verdicts):
            parts.append(_html_list(_explanations(verdicts)))
    if _loss_lines(report):
        parts += ["<h2>What we lose, and to whom</h2>", _html_list(_loss_lines(report))]
    for suite, groups in suites:
        parts.append(f'<h2 id="{escape(suite or "other")}">{escape(_heading(suite))}</h2>')
        for group in groups:
            parts += [f"<h3>{escape(group.title)}</h3>", group_plot(group) or "", _html_table(cells(group))]
            parts.append(_html_list(_notes(group)))
    if report.peers:
        parts += ["<h2>Peers</h2>", _html_table(peer_cells(report), kind="words")]
    for title, reasons in (("Skipped", report.skipped), ("Broke off", report.failed)):
        if reasons:
            parts += [f"<h2>{title}</h2>", _html_list(reasons)]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{escape(TITLE)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _code(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _html_list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _html_table(table: Sequence[Sequence[str]], *, kind: str = "figures") -> str:
    def cell(text: str) -> str:
        outcome = next((name for name in ("reached", "missed") if text.startswith(name)), None)
        return f'<td class="{outcome}">{escape(text)}</td>' if outcome else f"<td>{escape(text)}</td>"

    head = "".join(f"<th>{escape(text)}</th>" for text in table[0])
    rows = "".join("<tr>" + "".join(cell(text) for text in row) + "</tr>" for row in table[1:])
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
