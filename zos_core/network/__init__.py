"""Links, addresses and routes of containers, by rtnetlink; no `ip` binary.

    async with Network.open(instance) as network:                      # netlink socket of our own namespace
        plan = await network.plan(name); plan.describe() -> list[str]  # pure planning, for --plan
        attachment = await network.attach(name, netns_fd, rtnl_fd)     # idempotent: adopts what is whole
        attachment.link, .host_address, .address (IPv4Address of the container), .prefix_length
        await network.detach(name)                                     # absent is not an error
        result = await network.reconcile(wanted_names)                 # .kept: {name: Attachment}, .removed: link names
    port = parse_published("127.0.0.1:8080:80")                        # .listen and .connect(address), for forward
    limitations() -> tuple[Limitation(code, text), ...]                # what it cannot do yet, for `inspect`

The descriptors stay the caller's: `netns_fd` is `netns/<name>`, `rtnl_fd` is `rtnl/<name>` of hold.
"""

from __future__ import annotations

from zos_core.network.errors import (
    NetlinkRefused,
    NetlinkTimeout,
    NetworkNameInvalid,
    PoolExhausted,
    PortInvalid,
)
from zos_core.network.limitations import Limitation, limitations
from zos_core.network.plan import Attachment, AttachPlan, ReconcilePlan
from zos_core.network.ports import PublishedPort, parse_published
from zos_core.network.wiring import Network, Reconciled

__all__ = [
    "AttachPlan",
    "Attachment",
    "Limitation",
    "NetlinkRefused",
    "NetlinkTimeout",
    "Network",
    "NetworkNameInvalid",
    "PoolExhausted",
    "PortInvalid",
    "PublishedPort",
    "ReconcilePlan",
    "Reconciled",
    "limitations",
    "parse_published",
]
