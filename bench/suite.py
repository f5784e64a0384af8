"""What a group of measures is, and how parts register theirs: the entry-point group `zos.bench`.

    [project.entry-points."zos.bench"]
    erasure = "bench.suites:ERASURE"          # a Suite; the entry's name is the GROUP of `zos bench run GROUP`

A suite names modules; each is a file of pytest-benchmark measures (functions `bench_*`), as docs/benchmarks.md tells.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import GroupUnavailable, GroupUnknown

__all__ = ["Suite", "SuiteEntry", "choose", "installed_suites"]

ENTRY_POINTS = "zos.bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Measures that are run together.

    Attributes:
        summary: one line.
        modules: dotted names of the files with `bench_*` functions, in the order in which they run.
        root: why root is needed ("mounts images"), or None where any user may run them.
        peers: names of the catalogue that the measures are set beside; `zos bench peers install GROUP` installs these.
    """

    summary: str
    modules: tuple[str, ...]
    root: str | None = None
    peers: tuple[str, ...] = ()

    def paths(self) -> list[Path]:
        """The files of the modules.

        Raises:
            GroupUnavailable: one cannot be found.
        """
        found = []
        for module in self.modules:
            try:
                spec = importlib.util.find_spec(module)
            except ModuleNotFoundError:
                spec = None
            if spec is None or spec.origin is None:
                raise GroupUnavailable(
                    f"there is no module {module}",
                    hint="is the part that registered it installed whole?",
                    module=module,
                )
            found.append(Path(spec.origin))
        return found


@dataclass(frozen=True, slots=True)
class SuiteEntry:
    """A group's name and where its declaration is: "module:NAME"."""

    name: str
    value: str

    def load(self) -> Suite:
        """Import the declaration.

        Raises:
            GroupUnavailable: it cannot be imported, or is no `Suite`.
        """
        module, _, attribute = self.value.partition(":")
        try:
            declared = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise GroupUnavailable(f"group {self.name} = {self.value}: {error}", group=self.name) from error
        if not isinstance(declared, Suite):
            raise GroupUnavailable(f"group {self.name} = {self.value} is no Suite", group=self.name)
        return declared


def installed_suites() -> list[SuiteEntry]:
    """What the installed parts have registered, sorted by name."""
    found = {point.name: point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    return [SuiteEntry(name, value) for name, value in sorted(found.items())]


def choose(entries: Iterable[SuiteEntry], names: Sequence[str]) -> dict[str, Suite]:
    """The groups of these names, each once, in the order given; all of them where no name is.

    Raises:
        GroupUnknown: a name that nobody registered.
        GroupUnavailable: a declaration that cannot be loaded.
    """
    by_name = {entry.name: entry for entry in entries}
    for name in names:
        if name not in by_name:
            raise GroupUnknown(
                f"there is no group {name!r}",
                hint=f"one of {', '.join(by_name)}" if by_name else "none is registered: run `make setup` again",
                group=name,
            )
    return {name: by_name[name].load() for name in dict.fromkeys(names or by_name)}
