"""Groups of measures: found by entry point, refused by name, unavailable with a reason."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from bench.errors import GroupUnavailable, GroupUnknown
from bench.peers.catalog import CATALOG, find
from bench.suite import Suite, SuiteEntry, choose

ROOT = Path(__file__).resolve().parents[2]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["zos.bench"]
ENTRIES = [SuiteEntry("calls", "bench.suites:CALLS"), SuiteEntry("machine", "bench.suites:MACHINE")]


def test_groups_are_chosen_in_the_order_given_and_once() -> None:
    assert list(choose(ENTRIES, [])) == ["calls", "machine"]
    assert list(choose(ENTRIES, ["machine", "calls", "machine"])) == ["machine", "calls"]


def test_an_unknown_group_is_refused_and_the_others_are_named() -> None:
    with pytest.raises(GroupUnknown) as caught:
        choose(ENTRIES, ["calls", "moon"])
    assert "'moon'" in caught.value.message
    assert caught.value.hint == "one of calls, machine"


@pytest.mark.parametrize("value", ["bench.no_such_module:X", "bench.suites:NO_SUCH", "bench.suite:choose"])
def test_a_declaration_that_cannot_be_used_is_unavailable(value: str) -> None:
    with pytest.raises(GroupUnavailable):
        SuiteEntry("moon", value).load()


@pytest.mark.parametrize("module", ["bench.bench_moon", "no_such_package.bench_moon"])
def test_a_group_without_its_module_is_unavailable(module: str) -> None:
    with pytest.raises(GroupUnavailable) as caught:
        Suite(summary="the moon", modules=(module,)).paths()
    assert module in caught.value.message


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_what_is_registered_loads_and_names_peers_that_there_are(name: str) -> None:
    suite = SuiteEntry(name, DECLARED[name]).load()
    assert suite.summary
    assert [find(peer).name for peer in suite.peers] == list(suite.peers)
    for module in suite.modules:
        assert module.rpartition(".")[2].startswith("bench_")


def test_peers_have_names_and_titles_of_their_own() -> None:
    for names in ([spec.name for spec in CATALOG], [spec.title for spec in CATALOG]):
        assert len(set(names)) == len(names)
