"""Published ports as people write them: `8080:80`, `127.0.0.1:8080:80`, `[::1]:8080:80`, with or without `/tcp`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from zos_core.network.errors import PortInvalid

__all__ = ["LISTEN_DEFAULT", "PublishedPort", "parse_published"]

LISTEN_DEFAULT: Final = IPv4Address("127.0.0.1")
"""Where a port without an address is published: this machine only. The world is said aloud: `0.0.0.0:8080:80`."""

_TEXT_MAX: Final = 80
_FORM: Final = re.compile(
    r"(?:(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+)):)?(?P<host>[0-9]{0,5}):(?P<inside>[0-9]{1,5})(?:/(?P<protocol>[a-z]+))?",
    re.ASCII,
)
_HINT: Final = "write 8080:80, 127.0.0.1:8080:80 or [::1]:8080:80"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    """A port of the host that leads to a port of a container. `host_port` 0: the kernel chooses."""

    host_address: IPv4Address | IPv6Address
    host_port: int
    container_port: int
    protocol: str = "tcp"

    @property
    def listen(self) -> str:
        """`ADDRESS:PORT` to listen on, IPv6 in brackets (docs/spec/forward.md)."""
        return endpoint(self.host_address, self.host_port)

    def connect(self, address: IPv4Address) -> str:
        """`ADDRESS:PORT` to connect to, for a container that has this address."""
        return endpoint(address, self.container_port)

    def __str__(self) -> str:
        return f"{self.listen}:{self.container_port}/{self.protocol}"


def endpoint(address: IPv4Address | IPv6Address, port: int) -> str:
    """Address and port in one text."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def parse_published(text: str) -> PublishedPort:
    """Read one published port. An empty host port, or 0, lets the kernel choose: `:80`, `127.0.0.1::80`.

    Raises:
        PortInvalid: another form, a port above 65535, container port 0, an address that is none, or not TCP.
    """
    form = _FORM.fullmatch(text) if len(text) <= _TEXT_MAX else None
    if form is None:
        raise PortInvalid(f"cannot read published port {text[:_TEXT_MAX]!r}", hint=_HINT, port=text[:_TEXT_MAX])
    protocol = form["protocol"] or "tcp"
    if protocol != "tcp":
        raise PortInvalid(f"cannot publish {protocol} in {text!r}", hint="only tcp can be published yet", port=text)
    written = form["six"] or form["four"]
    try:
        address = ip_address(written) if written else LISTEN_DEFAULT
    except ValueError as error:
        raise PortInvalid(f"{written!r} in published port {text!r} is not an address", hint=_HINT, port=text) from error
    if address.version != (6 if form["six"] else 4):
        raise PortInvalid(f"{written!r} in published port {text!r} has brackets", hint=_HINT, port=text)
    host_port, container_port = int(form["host"] or 0), int(form["inside"])
    if host_port > 65535 or not 1 <= container_port <= 65535:
        raise PortInvalid(f"a port in {text!r} is not between 1 and 65535", hint=_HINT, port=text)
    return PublishedPort(host_address=address, host_port=host_port, container_port=container_port, protocol=protocol)
