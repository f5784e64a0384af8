"""From what was tried to what it means: findings, the machine's row, what would help. Pure.

The rows are those of docs/machines.md. Chosen by what works, never by a version.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flist.providers import Provider, choose
from zos_core.base.document import Record
from zos_core.base.programs import Probe

__all__ = ["ROW_IMAGES", "Finding", "Report", "Row", "not_tried", "report_on", "row_of"]

# What puts an image's bytes below a container, by row.
ROW_IMAGES = {
    1: "EROFS with its file on a one-file FUSE; no daemon in the path when the image is full",
    2: "EROFS with its file on a one-file FUSE; no daemon in the path when the image is full",
    3: "EROFS on loop devices over a one-file FUSE",
    4: "extraction before the start: nothing is fetched while it runs",
    5: "none: mounts need root",
}
# A container that would be started anyway may lack one of these.
OPTIONAL = frozenset(
    {"user-namespaces", "pidfd-exit", "fanotify", "fuse", "erofs", "erofs-file-backed", "loop", "detached-layers"}
    | {"limits"}
)


class Finding(Record, frozen=True, kw_only=True):
    """One thing that was tried.

    Attributes:
        name: of the facility.
        works: None when it was not tried.
        tried: what was done.
        found: what the kernel answered.
        means: what follows for containers.
        command: the one command that would help, where there is one.
    """

    name: str
    works: bool | None
    tried: str
    found: str
    means: str
    command: str | None = None


class Row(Record, frozen=True, kw_only=True):
    """A row of the table: its number (1 is the best), how images are mounted, and how containers are made."""

    number: int
    images: str
    containers: str


class Report(Record, frozen=True, kw_only=True):
    """The answer of `zos doctor`.

    Attributes:
        kernel, architecture: as uname(2) says.
        uid: as whom it was tried.
        containers: whether a container was started and ended as it should, and nothing that each has failed.
        row: what this machine does now.
        better: the next better row, None in the best one.
        takes: what it would take.
        problem: why containers cannot run, in one sentence.
        command: the one command that would help.
        findings: everything that was tried.
    """

    kernel: str
    architecture: str
    uid: int
    containers: bool
    row: Row
    better: Row | None
    takes: str | None
    problem: str | None
    command: str | None
    findings: list[Finding]


def not_tried(name: str, means: str, why: str) -> Finding:
    """A finding of something that could not even be tried."""
    return Finding(name=name, works=None, tried="nothing", found=f"not tried: {why}", means=means)


def row_of(probe: Probe | None, *, pidfd_exit: bool) -> Row:
    """The row that is in use; `probe` is None where spawn could not be asked, as without root."""
    if probe is None:
        return Row(number=5, images=ROW_IMAGES[5], containers="none")
    provider: Provider = choose(probe, full=False, forced=None).provider
    ways = {
        (True, True): "detached mounts; exit status also by pidfd",
        (True, False): "detached mounts; exits by hold's record alone",
        (False, True): "mounts attached in spawn's own namespace; exit status also by pidfd",
        (False, False): "mounts attached in spawn's own namespace; exits by hold's record alone",
    }
    number = {"file": 2, "full": 2, "loop": 3, "extract": 4}[provider]
    if number == 2 and probe.detached_layers and pidfd_exit:
        number = 1
    return Row(number=number, images=ROW_IMAGES[number], containers=ways[probe.detached_layers, pidfd_exit])


def _better(row: Row, probe: Probe | None, findings: Iterable[Finding]) -> tuple[Row | None, str | None]:
    """The next better row, and what it would take."""
    if probe is None:
        return None, "root: the rest can be tried then"
    ways = "detached mounts; exit status also by pidfd"
    lacking = {finding.name: finding.found for finding in findings if finding.works is False}
    if row.number == 1:
        return None, None
    if row.number == 2:
        better = Row(number=1, images=ROW_IMAGES[1], containers=ways)
        return better, f"Linux 6.15 or later; here: {_first(lacking, 'detached-layers', 'pidfd-exit')}"
    if row.number == 3:
        better = Row(number=2, images=ROW_IMAGES[2], containers=row.containers)
        return better, f"Linux 6.12 or later; here: {_first(lacking, 'erofs-file-backed')}"
    number = 2 if probe.erofs_file_backed else 3
    better = Row(number=number, images=ROW_IMAGES[number], containers=row.containers)
    return better, f"what is missing here: {_first(lacking, 'fuse', 'erofs', 'loop')}"


def _first(lacking: dict[str, str], *names: str) -> str:
    return next((f"{name}: {lacking[name]}" for name in names if name in lacking), "nothing that was tried")


def report_on(findings: Sequence[Finding], probe: Probe | None, *, kernel: str, architecture: str, uid: int) -> Report:
    """Judge what was tried."""
    works = {finding.name: finding.works for finding in findings}
    row = row_of(probe, pidfd_exit=works.get("pidfd-exit") is True)
    better, takes = _better(row, probe, findings)
    failed = [finding for finding in findings if finding.works is False and finding.name not in OPTIONAL]
    containers = works.get("container") is True and not failed
    problem = command = None
    if not containers:
        # The trial of a whole container fails last, of something that may have been found before and is said better.
        problem = f"{failed[0].name}: {failed[0].found}" if failed else "no container could be tried"
        command = next((finding.command for finding in failed if finding.command is not None), None)
    return Report(
        kernel=kernel,
        architecture=architecture,
        uid=uid,
        containers=containers,
        row=row,
        better=better,
        takes=takes,
        problem=problem,
        command=command,
        findings=list(findings),
    )
