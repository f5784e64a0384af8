"""How ours stands beside each peer: how many times as fast, and to whom we lose. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.results import Group, Row
from bench.series import Interval, ratio

__all__ = ["Standing", "advantage", "losses", "nearest_roof", "standings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Our headline row beside one peer of the same group.

    Attributes:
        advantage: how many times as good as the peer, in speed, rate or size; below 1 the peer is better.
    """

    group: Group
    ours: Row
    peer: Row
    advantage: Interval

    @property
    def lost(self) -> bool:
        """Whether the peer is better by more than noise."""
        return self.advantage.high < 1


def advantage(group: Group, ours: Row, other: Row, *, one_run: bool = True) -> Interval | None:
    """How many times as good as `other` a row is, whichever way is better; None where that cannot be said."""
    if ours.missing is not None or other.missing is not None or not ours.values or not other.values:
        return None
    if min(*ours.values, *other.values) <= 0:
        return None
    pair = (ours.values, other.values) if group.more_is_better else (other.values, ours.values)
    return ratio(*pair, one_run=one_run)


def standings(groups: Sequence[Group]) -> list[Standing]:
    """Every headline row beside every peer that was measured with it."""
    found = []
    for group in groups:
        ours = group.headline_row()
        if ours is None:
            continue
        for row in group.rows:
            seen = advantage(group, ours, row) if row.role == "peer" else None
            if seen is not None:
                found.append(Standing(group=group, ours=ours, peer=row, advantage=seen))
    return found


def losses(groups: Sequence[Group]) -> list[Standing]:
    """Where a peer is better by more than noise, the worst first."""
    return sorted((one for one in standings(groups) if one.lost), key=lambda one: one.advantage.value)


def nearest_roof(group: Group) -> tuple[Row, Interval] | None:
    """The lowest of the group's rooflines, which is the one that binds, and how much of it our headline row has."""
    ours = group.headline_row()
    if ours is None:
        return None
    seen = [(row, advantage(group, ours, row)) for row in group.rows if row.role == "roof"]
    found = [(row, share) for row, share in seen if share is not None]
    return max(found, key=lambda each: each[1].value, default=None)
