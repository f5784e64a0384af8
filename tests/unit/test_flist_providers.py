"""Which provider is taken on which machine, and what is said about it."""

from __future__ import annotations

import msgspec
import pytest

from flist.providers import PROVIDERS, Provider, ProviderUnavailable, choose
from zos_core.base.programs import Probe

EVERYTHING = Probe(
    kernel="6.18", fuse=True, erofs=True, erofs_file_backed=True, loop_control=True, detached_layers=True, overlay=True
)


def without(*features: str) -> Probe:
    return msgspec.structs.replace(
        EVERYTHING, **dict.fromkeys(features, False), reasons={feature: f"no {feature}" for feature in features}
    )


@pytest.mark.parametrize(
    ("probe", "full", "provider", "said"),
    [
        (EVERYTHING, False, "file", "6.12"),
        (EVERYTHING, True, "full", "no daemon"),
        (without("erofs_file_backed"), False, "loop", "no erofs_file_backed"),
        (without("erofs_file_backed"), True, "full", "no daemon"),
        (without("erofs_file_backed", "loop_control"), False, "extract", "no loop_control"),
        (without("fuse"), False, "extract", "no fuse"),
        (without("fuse"), True, "full", "no daemon"),
        (without("erofs"), True, "extract", "no erofs"),
    ],
)
def test_the_best_that_works_is_taken_and_the_reason_kept(
    probe: Probe, full: bool, provider: Provider, said: str
) -> None:
    choice = choose(probe, full=full, forced=None)
    assert choice.provider == provider
    assert said in choice.reason


@pytest.mark.parametrize("forced", PROVIDERS)
def test_a_forced_provider_is_taken_where_it_works(forced: Provider) -> None:
    assert choose(EVERYTHING, full=False, forced=forced).provider == forced


@pytest.mark.parametrize(
    ("lacking", "forced"),
    [("fuse", "file"), ("fuse", "loop"), ("erofs", "full"), ("erofs_file_backed", "file"), ("loop_control", "loop")],
)
def test_a_forced_provider_that_cannot_work_is_refused_with_what_is_lacking(lacking: str, forced: Provider) -> None:
    with pytest.raises(ProviderUnavailable, match=f"no {lacking}"):
        choose(without(lacking), full=False, forced=forced)
