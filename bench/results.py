"""What a run of the measures found, as documents, and its file: docs/spec/bench-results.md.

A `Group` is a set of rows that were measured in turns, so that their ratios count; a row is one thing under one
configuration with every sample that was taken. A row that could not be measured says why, and is never a number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bench.errors import ResultsInvalid, ResultsVersion
from zos_core.base.atomic_file import Owner, named_output, read_limited, write_atomic
from zos_core.base.document import Record, decode_json, encode_json
from zos_core.base.errors import DocumentInvalid, FileTooLarge

__all__ = [
    "VERSION",
    "Group",
    "Machine",
    "Noise",
    "PeerSeen",
    "Report",
    "Role",
    "Row",
    "decode",
    "load",
    "merge",
    "save",
]

VERSION = 2
# A run of everything writes about 1 MB.
FILE_BYTES_MAX = 64 << 20

Role = Literal["ours", "peer", "roof"]
"""Ours; what ours is set beside; what the machine can do at most (never a rival)."""

# Beyond it is nothing that was measured, and sums and ratios of it are no numbers any more.
SAMPLE_MAX = 1e100
Samples = Annotated[list[Annotated[float, Meta(ge=-SAMPLE_MAX, le=SAMPLE_MAX)]], Meta(max_length=1_000_000)]


class Machine(Record, frozen=True, kw_only=True):
    """Where the figures come from.

    Attributes:
        features: what of the instruction set matters here, as /proc/cpuinfo names it.
        paths: which of several code paths each native kernel has chosen, where it tells.
    """

    kernel: str
    architecture: str = ""
    cpu: str
    cpus: int
    features: list[str] = []
    memory_mib: int
    file_system: str
    virtual: str
    versions: dict[str, str]
    paths: dict[str, str] = {}


class Row(Record, frozen=True, kw_only=True):
    """One thing under one configuration: its samples in `unit`, or why there are none."""

    name: str
    unit: str
    values: Samples = []
    missing: str | None = None
    note: str | None = None
    role: Role = "ours"


class Noise(Record, frozen=True, kw_only=True):
    """How much else went on while a group was measured.

    Attributes:
        load: load average over one minute at the beginning and at the end.
        busy: share of all CPUs that was in use just before the beginning.
        stolen: share of all CPU time that the hypervisor gave to others meanwhile.
        jitter: spread ((p90 - p10) / median) of a fixed piece of work between the rounds; 0 where none was done.
    """

    load: tuple[float, float] = (0.0, 0.0)
    busy: float = 0.0
    stolen: float = 0.0
    jitter: float = 0.0


class Group(Record, frozen=True, kw_only=True):
    """Rows that were measured in turns.

    Attributes:
        key: by which budgets name it, such as `erasure.encode.16+4.64KiB`.
        suite: the GROUP of `zos bench run` that it belongs to.
        baselines: rows to which the others are set in relation.
        direction: `cost`: row / baseline, less is better; `rate`: the same, more is better; `speed`: baseline / row of
            times, more is better.
        headline: the row of ours that is meant to be compared; the first of ours where none is named.
        seconds: how long it took.
    """

    key: str
    title: str
    suite: str = ""
    rows: list[Row]
    baselines: list[str] = []
    direction: Literal["cost", "rate", "speed"] = "cost"
    headline: str | None = None
    notes: list[str] = []
    noise: Noise = Noise()
    seconds: float = 0.0

    def row(self, name: str) -> Row | None:
        """The row of that name, if it is there."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def more_is_better(self) -> bool:
        """Whether a larger value of a row is the better one."""
        return self.direction == "rate"

    def headline_row(self) -> Row | None:
        """The row of ours that is set beside the peers."""
        if self.headline is not None:
            return self.row(self.headline)
        return next((row for row in self.rows if row.role == "ours"), None)


class PeerSeen(Record, frozen=True, kw_only=True):
    """A peer that the run wanted: its version, or why it was missing."""

    name: str
    version: str | None = None
    missing: str | None = None


class Report(Record, frozen=True, kw_only=True):
    """A whole run."""

    version: int = VERSION
    begun: str
    seconds: float
    arguments: list[str]
    interrupted: bool = False
    machine: Machine
    image: str
    groups: list[Group]
    peers: list[PeerSeen] = []
    skipped: list[str] = []
    failed: list[str] = []


class _Version(Record, frozen=True, kw_only=True):
    version: int


def decode(data: bytes, *, what: str) -> Report:
    """The bytes of a results file.

    Raises:
        ResultsInvalid: not JSON, or not of that shape (BENCH-RESULTS-1).
        ResultsVersion: of another version of the format (BENCH-RESULTS-2).
    """
    hint = "results are what `zos bench run --json FILE` writes"
    try:
        version = decode_json(data, _Version, what=what).version
        if version != VERSION:
            raise ResultsVersion(
                f"{what} has version {version} of the format, this zos reads {VERSION}",
                hint="measure again, or read it with the zos that wrote it",
                version=version,
            )
        report = decode_json(data, Report, what=what)
    except DocumentInvalid as error:
        raise ResultsInvalid(error.message, hint=hint) from error
    keys = [group.key for group in report.groups]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ResultsInvalid(f"{what} has the group {twice} twice", hint=hint)
    for group in report.groups:
        empty = [row.name for row in group.rows if not row.values and row.missing is None]
        if empty:
            raise ResultsInvalid(f"{what}: group {group.key}: {empty[0]} has neither samples nor a reason", hint=hint)
        names = [row.name for row in group.rows]
        unknown = {*group.baselines, *([] if group.headline is None else [group.headline])} - set(names)
        if len(set(names)) != len(names) or unknown:
            raise ResultsInvalid(f"{what}: group {group.key} names a row twice, or one that it has not", hint=hint)
    return report


def load(path: Path) -> Report:
    """A results file.

    Raises:
        ResultsInvalid, ResultsVersion: as `decode`.
        OSError: it cannot be read.
    """
    try:
        data = read_limited(path, FILE_BYTES_MAX)
    except FileTooLarge as error:
        raise ResultsInvalid(error.message, hint="this is no file of results") from error
    return decode(data, what=str(path))


def save(path: Path, report: Report, *, owner: Owner | None = None) -> None:
    """Write a results file; the old one, if there is one, stays whole until the new one is."""
    write_atomic(named_output(path), msgspec.json.format(encode_json(report), indent=1) + b"\n", owner=owner)


def merge(reports: list[Report]) -> Report:
    """Several runs of one machine as one: groups by key, those of later runs take the place of earlier ones.

    Raises:
        ResultsInvalid: the runs are of different machines or versions of zos, so that they are no one table.
    """
    first, last = reports[0], reports[-1]
    for each in reports[1:]:
        differs = [
            name
            for name in ("kernel", "cpu", "cpus", "architecture", "features")
            if getattr(each.machine, name) != getattr(first.machine, name)
        ]
        if differs:
            raise ResultsInvalid(
                f"the runs are of different machines ({', '.join(differs)} differ)",
                hint="`zos bench compare` sets two runs of different machines beside each other",
            )
    groups = {group.key: group for each in reports for group in each.groups}
    peers: dict[str, PeerSeen] = {}
    for each in reports:
        peers |= {peer.name: peer for peer in each.peers if peer.name not in peers or peer.missing is None}
    arguments = [word for each in reports for word in (";", "zos", *each.arguments)][2:]
    versions = {name: version for each in reports for name, version in each.machine.versions.items()}
    paths = {name: path for each in reports for name, path in each.machine.paths.items()}
    return msgspec.structs.replace(
        last,
        begun=first.begun,
        arguments=arguments,
        seconds=sum(each.seconds for each in reports),
        interrupted=any(each.interrupted for each in reports),
        machine=msgspec.structs.replace(last.machine, versions=versions, paths=paths),
        image=next((each.image for each in reversed(reports) if each.image), ""),
        groups=list(groups.values()),
        peers=list(peers.values()),
        skipped=list(dict.fromkeys(reason for each in reports for reason in each.skipped)),
        failed=list(dict.fromkeys(reason for each in reports for reason in each.failed)),
    )
