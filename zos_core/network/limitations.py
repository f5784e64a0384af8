"""What a container's network cannot do yet, as data: `inspect` prints it, so that nobody has to find out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["Limitation", "limitations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limitation:
    """One thing that is missing: a stable code, and a sentence for people."""

    code: str
    text: str


_LIMITATIONS: Final = (
    Limitation(
        code="network.no-egress",
        text="no way out: packets from a container are not forwarded, it reaches this host's addresses only",
    ),
    Limitation(code="network.no-dns", text="no names: there is no resolver that a container could reach"),
    Limitation(code="network.no-peers", text="no way to other containers, except through their published ports"),
    Limitation(
        code="network.host-reachable",
        text="a container reaches what listens on all addresses of this host; a packet filter comes later",
    ),
    Limitation(code="network.tcp-ipv4-only", text="containers have IPv4 only, and only TCP ports can be published"),
)


def limitations() -> tuple[Limitation, ...]:
    """All of them, the most surprising first."""
    return _LIMITATIONS
