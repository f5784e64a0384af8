"""The ledger of exits: each once, whatever the order in which hold tells of them, and none forgotten too early."""

from __future__ import annotations

import itertools

from zos_core.supervisor.exits import ExitLedger


def test_ledger_takes_each_exit_once() -> None:
    ledger = ExitLedger()
    assert ledger.take(3)
    assert not ledger.take(3), "it is worked on"
    ledger.close(3)
    assert not ledger.take(3), "it is dealt with"
    ledger.complete()
    assert ledger.take(4)
    assert ledger.close(4) == 4
    assert not ledger.take(3), "and forgotten by hold"
    assert not ledger.take(4)


def test_ledger_acknowledges_nothing_while_older_exits_may_be_untold() -> None:
    """An exit that comes while the list of the older ones is on its way: they are not lost to its acknowledgement."""
    ledger = ExitLedger()
    assert ledger.take(7)
    assert ledger.close(7) is None
    assert [seq for seq in (5, 6, 7) if ledger.take(seq)] == [5, 6]
    ledger.complete()
    assert ledger.close(6) == 4, "5 is still worked on"
    assert ledger.close(5) == 7


def test_ledger_never_passes_one_that_is_worked_on() -> None:
    for order in itertools.permutations(range(1, 5)):
        ledger = ExitLedger()
        assert all(ledger.take(seq) for seq in range(1, 5))
        ledger.complete()
        done: set[int] = set()
        for seq in order:
            upto = ledger.close(seq) or 0
            done.add(seq)
            assert upto == next(other - 1 for other in range(1, 6) if other not in done)


def test_ledger_close_may_be_repeated() -> None:
    """What acknowledges may have to be asked again, when a limit was reached meanwhile."""
    ledger = ExitLedger()
    ledger.complete()
    assert ledger.take(9)
    assert ledger.close(9) == 9
    assert ledger.close(9) == 9
