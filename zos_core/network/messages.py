"""rtnetlink in terms of links, addresses and routes: pure builders and readers over `native.netlink`.

Numbers are of include/uapi/linux/{rtnetlink,if_link,if_addr,ip}.h; rtnetlink(7). A reader gives a typed object, or None
for what does not concern us, or raises `NetlinkInvalid`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from errno import EAFNOSUPPORT, EOPNOTSUPP
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from native.netlink import AttributeValue, Message, NetlinkInvalid, pack_attributes, unpack_attributes

__all__ = [
    "Address",
    "Link",
    "Refusal",
    "Request",
    "Route",
    "add_address",
    "add_default_route",
    "add_only_route",
    "create_veth",
    "delete_link",
    "dump_addresses",
    "dump_links",
    "dump_routes",
    "get_link",
    "keep_to_itself",
    "no_ipv6_addresses",
    "read_address",
    "read_done",
    "read_link",
    "read_refusal",
    "read_route",
    "set_alias",
    "set_up",
]

NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLMSG_OVERRUN: Final = 4
NLM_F_REQUEST: Final = 0x1
NLM_F_MULTI: Final = 0x2
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_CAPPED: Final = 0x100
NLM_F_ACK_TLVS: Final = 0x200
NLM_F_DUMP: Final = 0x300
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19
RTM_NEWADDR: Final = 20
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_GETROUTE: Final = 26

_AF_INET: Final = 2
_AF_INET6: Final = 10
_IFF_UP: Final = 0x1

_IFLA_IFNAME: Final = 3
_IFLA_LINK: Final = 5
_IFLA_LINKINFO: Final = 18
_IFLA_IFALIAS: Final = 20
_IFLA_AF_SPEC: Final = 26
_IFLA_NET_NS_FD: Final = 28
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_VETH_INFO_PEER: Final = 1
_IFLA_INET_CONF: Final = 1
_IPV4_DEVCONF_FORWARDING: Final = 1
_IFLA_INET6_ADDR_GEN_MODE: Final = 8
_IN6_ADDR_GEN_MODE_NONE: Final = 1
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_FLAGS: Final = 8
_IFA_F_NOPREFIXROUTE: Final = 0x200
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_PREFSRC: Final = 7
_RTA_TABLE: Final = 15
_RT_TABLE_MAIN: Final = 254
_RTPROT_STATIC: Final = 4
_RT_SCOPE_UNIVERSE: Final = 0
_RT_SCOPE_LINK: Final = 253
_RTN_UNICAST: Final = 1
_NLMSGERR_ATTR_MSG: Final = 1

_IFINFOMSG: Final = struct.Struct("=BxHiII")
_IFADDRMSG: Final = struct.Struct("=BBBBI")
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
_U32: Final = struct.Struct("=I")
_I32: Final = struct.Struct("=i")
_ERROR_HEADER: Final = 4 + 16  # errno, and the header of the request it answers

NAME_BYTES_MAX: Final = 15
"""IFNAMSIZ without its NUL."""
ALIAS_BYTES_MAX: Final = 255
"""IFALIASZ without its NUL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network interface. `peer_index`: of the other end of a veth pair, in that one's own namespace."""

    index: int
    name: str
    up: bool
    kind: str | None = None
    alias: str | None = None
    peer_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An IPv4 address of the link with this index, and the length of its prefix in bits."""

    index: int
    address: IPv4Address
    prefix_length: int

    @property
    def network(self) -> IPv4Network:
        """What the address makes directly reachable."""
        return IPv4Network((self.address, self.prefix_length), strict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A destination that something on this machine claims, in any table."""

    destination: IPv4Network
    table: int
    gateway: IPv4Address | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One message to the kernel, in words for errors and `--plan`, and the errnos that are no failure of it."""

    what: str
    type: int
    flags: int
    payload: bytes
    tolerated: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The kernel's answer to one request: errno (0: it was done), and its own words."""

    errno: int
    text: str | None


def _link(
    what: str,
    type: int,
    attributes: list[tuple[int, AttributeValue]],
    *,
    flags: int = 0,
    up: bool = False,
    index: int = 0,
    tolerated: frozenset[int] = frozenset(),
) -> Request:
    state = _IFF_UP if up else 0
    header = _IFINFOMSG.pack(0, 0, index, state, state)
    return Request(what=what, type=type, flags=flags, payload=header + pack_attributes(attributes), tolerated=tolerated)


def _name(name: str) -> tuple[int, bytes]:
    raw = name.encode()
    if not 0 < len(raw) <= NAME_BYTES_MAX:
        raise NetlinkInvalid(f"netlink: link name {name!r} is not of 1 to {NAME_BYTES_MAX} bytes")
    return _IFLA_IFNAME, raw + b"\0"


def create_veth(name: str, peer: str, peer_namespace_fd: int) -> Request:
    """Make a pair of links, both down: `name` here, `peer` at once in the namespace of the descriptor."""
    inside = _IFINFOMSG.pack(0, 0, 0, 0, 0) + pack_attributes(
        [_name(peer), (_IFLA_NET_NS_FD, _U32.pack(peer_namespace_fd))]
    )
    info: list[tuple[int, AttributeValue]] = [
        (_IFLA_INFO_KIND, b"veth"),
        (_IFLA_INFO_DATA, [(_VETH_INFO_PEER, inside)]),
    ]
    return _link(
        f"create veth {name} with {peer} inside",
        RTM_NEWLINK,
        [_name(name), (_IFLA_LINKINFO, info)],
        flags=NLM_F_CREATE | NLM_F_EXCL,
    )


def delete_link(name: str, index: int, *, absent_is_fine: frozenset[int] = frozenset()) -> Request:
    """Delete the link of this index, and with it the other end of a veth pair."""
    return _link(f"delete {name}", RTM_DELLINK, [], index=index, tolerated=absent_is_fine)


def set_up(name: str) -> Request:
    """Bring a link up, by name."""
    return _link(f"bring {name} up", RTM_SETLINK, [_name(name)], up=True)


def set_alias(name: str, alias: str) -> Request:
    """Write a text beside a link; it stays with the link and is seen in every list of links."""
    raw = alias.encode()
    if len(raw) > ALIAS_BYTES_MAX:
        raise NetlinkInvalid(f"netlink: an alias of {len(raw)} bytes is above {ALIAS_BYTES_MAX}")
    return _link(f"mark {name} as {alias}", RTM_SETLINK, [_name(name), (_IFLA_IFALIAS, raw)])


def keep_to_itself(name: str) -> Request:
    """Forward nothing that comes in by this link, also where the host forwards for others (net.ipv4.ip_forward)."""
    off: AttributeValue = [(_IFLA_INET_CONF, [(_IPV4_DEVCONF_FORWARDING, _U32.pack(0))])]
    return _link(
        f"forward nothing from {name}",
        RTM_SETLINK,
        [_name(name), (_IFLA_AF_SPEC, [(_AF_INET, off)])],
    )


def no_ipv6_addresses(name: str) -> Request:
    """Let the kernel make no link-local IPv6 address for this link: nothing here would answer for it."""
    none: AttributeValue = [(_IFLA_INET6_ADDR_GEN_MODE, bytes([_IN6_ADDR_GEN_MODE_NONE]))]
    return _link(
        f"make no IPv6 address for {name}",
        RTM_SETLINK,
        [_name(name), (_IFLA_AF_SPEC, [(_AF_INET6, none)])],
        tolerated=frozenset({EAFNOSUPPORT, EOPNOTSUPP}),  # IPv6 is switched off: there is nothing to keep away
    )


def add_address(name: str, index: int, address: IPv4Address, prefix_length: int, *, route: bool = True) -> Request:
    """Give an address to a link, with the route to its network or without. EEXIST when it has it already."""
    header = _IFADDRMSG.pack(_AF_INET, prefix_length, 0, _RT_SCOPE_UNIVERSE, index)
    flags = _U32.pack(0 if route else _IFA_F_NOPREFIXROUTE)
    attributes = pack_attributes([(_IFA_LOCAL, address.packed), (_IFA_ADDRESS, address.packed), (_IFA_FLAGS, flags)])
    return Request(
        what=f"add {address}/{prefix_length} to {name}",
        type=RTM_NEWADDR,
        flags=NLM_F_CREATE | NLM_F_EXCL,
        payload=header + attributes,
    )


def add_only_route(name: str, index: int, network: IPv4Network, source: IPv4Address) -> Request:
    """Make a network directly reachable by this link, and by no other: EEXIST when one has it already.

    The kernel gives the same address to two links without a word. This is where it decides between two programs.
    """
    header = _RTMSG.pack(
        _AF_INET, network.prefixlen, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_LINK, _RTN_UNICAST, 0
    )
    attributes = [
        (_RTA_DST, network.network_address.packed),
        (_RTA_OIF, _U32.pack(index)),
        (_RTA_PREFSRC, source.packed),
    ]
    return Request(
        what=f"route {network} by {name}",
        type=RTM_NEWROUTE,
        flags=NLM_F_CREATE | NLM_F_EXCL,
        payload=header + pack_attributes(attributes),
    )


def add_default_route(name: str, index: int, gateway: IPv4Address) -> Request:
    """Send everything that has no better way to `gateway`, by this link."""
    header = _RTMSG.pack(_AF_INET, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0)
    return Request(
        what=f"route everything to {gateway} by {name}",
        type=RTM_NEWROUTE,
        flags=NLM_F_CREATE | NLM_F_EXCL,
        payload=header + pack_attributes([(_RTA_GATEWAY, gateway.packed), (_RTA_OIF, _U32.pack(index))]),
    )


def get_link(name: str, *, absent_is_fine: frozenset[int] = frozenset()) -> Request:
    """Ask for one link by name."""
    return _link(f"find {name}", RTM_GETLINK, [_name(name)], tolerated=absent_is_fine)


def dump_links() -> Request:
    """Ask for all links."""
    return _link("list links", RTM_GETLINK, [], flags=NLM_F_DUMP)


def dump_addresses() -> Request:
    """Ask for all IPv4 addresses."""
    header = _IFADDRMSG.pack(_AF_INET, 0, 0, 0, 0)
    return Request(what="list addresses", type=RTM_GETADDR, flags=NLM_F_DUMP, payload=header)


def dump_routes() -> Request:
    """Ask for all IPv4 routes of all tables."""
    header = _RTMSG.pack(_AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
    return Request(what="list routes", type=RTM_GETROUTE, flags=NLM_F_DUMP, payload=header)


def _fixed(layout: struct.Struct, message: Message, what: str) -> tuple[int, ...]:
    if len(message.payload) < layout.size:
        raise NetlinkInvalid(f"netlink: a {what} of {len(message.payload)} bytes")
    return layout.unpack_from(message.payload)


def _u32(value: bytes, what: str) -> int:
    if len(value) != _U32.size:
        raise NetlinkInvalid(f"netlink: {what} of {len(value)} bytes")
    return int(_U32.unpack(value)[0])


def _ipv4(value: bytes, what: str) -> IPv4Address:
    if len(value) != 4:
        raise NetlinkInvalid(f"netlink: {what} of {len(value)} bytes is no IPv4 address")
    return IPv4Address(value)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "surrogateescape")


def read_link(message: Message) -> Link | None:
    """Read an RTM_NEWLINK message; None for any other."""
    if message.type != RTM_NEWLINK:
        return None
    _, _, index, flags, _ = _fixed(_IFINFOMSG, message, "link")
    attributes = dict(unpack_attributes(message.payload, _IFINFOMSG.size))
    name = attributes.get(_IFLA_IFNAME)
    if name is None:
        raise NetlinkInvalid(f"netlink: link {index} has no name")
    info = dict(unpack_attributes(attributes.get(_IFLA_LINKINFO, b"")))
    kind, alias, peer = info.get(_IFLA_INFO_KIND), attributes.get(_IFLA_IFALIAS), attributes.get(_IFLA_LINK)
    return Link(
        index=index,
        name=_text(name),
        up=bool(flags & _IFF_UP),
        kind=None if kind is None else _text(kind),
        alias=None if alias is None else _text(alias),
        peer_index=None if peer is None else _u32(peer, "peer's index"),
    )


def read_address(message: Message) -> Address | None:
    """Read an RTM_NEWADDR message; None for any other, and for other families than IPv4."""
    if message.type != RTM_NEWADDR:
        return None
    family, prefix_length, _, _, index = _fixed(_IFADDRMSG, message, "address")
    if family != _AF_INET:
        return None
    attributes = dict(unpack_attributes(message.payload, _IFADDRMSG.size))
    raw = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
    if raw is None or prefix_length > 32:
        raise NetlinkInvalid(f"netlink: an address of link {index} without a value, or with prefix {prefix_length}")
    return Address(index=index, address=_ipv4(raw, "address"), prefix_length=prefix_length)


def read_route(message: Message) -> Route | None:
    """Read an RTM_NEWROUTE message; None for any other, and for other families than IPv4."""
    if message.type != RTM_NEWROUTE:
        return None
    family, length, _, _, table, _, _, _, _ = _fixed(_RTMSG, message, "route")
    if family != _AF_INET:
        return None
    attributes = dict(unpack_attributes(message.payload, _RTMSG.size))
    if length > 32:
        raise NetlinkInvalid(f"netlink: a route with prefix {length}")
    base = _ipv4(attributes[_RTA_DST], "destination") if _RTA_DST in attributes else IPv4Address(0)
    gateway, out = attributes.get(_RTA_GATEWAY), attributes.get(_RTA_OIF)
    return Route(
        destination=IPv4Network((base, length), strict=False),
        table=_u32(attributes[_RTA_TABLE], "table") if _RTA_TABLE in attributes else table,
        gateway=None if gateway is None else _ipv4(gateway, "gateway"),
        index=None if out is None else _u32(out, "link of a route"),
    )


def read_refusal(message: Message) -> Refusal:
    """Read an NLMSG_ERROR message: errno 0 is the acknowledgement. Its words come with NETLINK_{EXT,CAP}_ACK only."""
    if len(message.payload) < _ERROR_HEADER:
        raise NetlinkInvalid(f"netlink: an answer of {len(message.payload)} bytes")
    number = -_I32.unpack_from(message.payload)[0]
    if not 0 <= number < 4096:
        raise NetlinkInvalid(f"netlink: errno {number} in an answer")
    text = None
    if message.flags & NLM_F_ACK_TLVS and message.flags & NLM_F_CAPPED:
        words = dict(unpack_attributes(message.payload, _ERROR_HEADER)).get(_NLMSGERR_ATTR_MSG)
        text = None if words is None else _text(words)
    return Refusal(errno=number, text=text)


def read_done(message: Message) -> int:
    """Read the NLMSG_DONE that ends a list: an errno, or 0."""
    if len(message.payload) < _I32.size:
        return 0
    return max(0, -int(_I32.unpack_from(message.payload)[0]))
