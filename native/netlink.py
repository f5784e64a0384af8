"""rtnetlink messages and attributes: build, and parse strictly. `native/reference/netlink.py` says bytes and rules."""

from __future__ import annotations

from native._choice import REFERENCE
from native.reference.netlink import DATAGRAM_MAX, NESTING_MAX, VALUE_MAX, AttributeValue, Message, NetlinkInvalid

if REFERENCE:
    from native.reference.netlink import pack_attributes, pack_message, parse_messages, unpack_attributes
else:
    import native._main_only  # noqa: F401  # refuses other interpreters
    from native.cy.netlink import pack_attributes, pack_message, parse_messages, unpack_attributes

__all__ = [
    "DATAGRAM_MAX",
    "NESTING_MAX",
    "VALUE_MAX",
    "AttributeValue",
    "Message",
    "NetlinkInvalid",
    "pack_attributes",
    "pack_message",
    "parse_messages",
    "unpack_attributes",
]
