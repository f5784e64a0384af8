"""For how long a client asks a node again that went away."""

from __future__ import annotations

from typing import Any, cast

import pytest

from zos_core.attach import call_again
from zos_core.base.client import Client
from zos_core.base.errors import Unreachable
from zos_core.supervisor.endpoints import NODE

BROKE = Unreachable("broke off in the middle of an answer")
REFUSED = Unreachable("connection refused", absent=True)


class Line:
    """A client to which these things happen, one at each call."""

    def __init__(self, *happens: Any) -> None:
        self.happens = list(happens)

    async def call(self, *_arguments: Any, **_options: Any) -> Any:
        what = self.happens.pop(0)
        if isinstance(what, Exception):
            raise what
        return what

    def client(self) -> Client:
        return cast(Client, self)


async def test_a_node_that_was_never_there_is_an_error_at_once() -> None:
    line = Line(REFUSED, "too late")
    with pytest.raises(Unreachable):
        await call_again(line.client(), NODE)
    assert line.happens == ["too late"]


@pytest.mark.parametrize("known", [False, True])
async def test_a_node_that_goes_while_it_is_asked_is_waited_for(known: bool) -> None:
    """`zos run` amid a start, hold killed: the first connection breaks off, and until `zos up` nobody listens."""
    line = Line(BROKE, REFUSED, REFUSED, "answer")
    assert cast(str, await call_again(line.client(), NODE, known=known)) == "answer"
