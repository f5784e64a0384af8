"""Who gets which addresses and names: pure, from what the kernel says is there.

A container gets a pair of links with a /31 (RFC 3021) of its own: the host's end has the even address and is the
container's default gateway. The pair is chosen from a block of the instance, so that two instances do not meet;
whatever an address or a route of this machine claims is left alone.

    link of the host   z<tag>-<n>    tag: 8 hex digits of the instance's name, n: number of the pair within its block
    its alias          zos:<instance>:<container>    written last: a link without it is half made
    link inside        eth0
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from zos_core.network.errors import NetworkNameInvalid, PoolExhausted
from zos_core.network.messages import ALIAS_BYTES_MAX, Address, Link, Route

__all__ = [
    "POOLS",
    "AttachPlan",
    "Attachment",
    "NetworkState",
    "ReconcilePlan",
    "alias_of",
    "attachments",
    "is_ours",
    "plan_attach",
    "plan_reconcile",
]

POOLS: Final = (IPv4Network("100.64.0.0/10"), IPv4Network("198.18.0.0/15"))
"""RFC 6598 (shared address space: never a public address, rarely a local one), then RFC 2544 (benchmarks) for machines
whose provider, or VPN, lives in the first."""
INSIDE_LINK: Final = "eth0"
PREFIX_LENGTH: Final = 31
_BLOCK_LENGTH: Final = 18  # 8,192 pairs: more containers than one machine runs
_PAIRS: Final = 1 << (PREFIX_LENGTH - _BLOCK_LENGTH)
_ALIAS_FORM: Final = re.compile(r"zos:(?P<instance>[^:]*):(?P<container>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkState:
    """What the kernel says about our own namespace."""

    links: Sequence[Link]
    addresses: Sequence[Address]
    routes: Sequence[Route]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A container that is wired: both addresses of its pair, the container's being `address`."""

    container: str
    link: str
    index: int
    host_address: IPv4Address
    address: IPv4Address
    prefix_length: int = PREFIX_LENGTH


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachPlan:
    """What will be made for a container. Without `attached` nothing of it exists yet; with it nothing is to be done."""

    container: str
    link: str
    alias: str
    host_address: IPv4Address
    address: IPv4Address
    attached: Attachment | None = None

    def describe(self) -> list[str]:
        """The steps in words, for `--plan`."""
        if self.attached is not None:
            return []
        return [
            f"create veth {self.link} with {INSIDE_LINK} inside {self.container}",
            f"forward nothing from {self.link}",
            f"add {self.host_address}/{PREFIX_LENGTH} to {self.link}",
            f"bring {self.link} up",
            f"route {self.host_address}/{PREFIX_LENGTH} by {self.link}",
            f"inside: add {self.address}/{PREFIX_LENGTH} to {INSIDE_LINK}",
            f"inside: bring {INSIDE_LINK} up",
            f"inside: route everything to {self.host_address} by {INSIDE_LINK}",
            f"mark {self.link} as {self.alias}",
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilePlan:
    """Which of the instance's links stay, by container, and which go."""

    keep: Mapping[str, Attachment]
    remove: Sequence[Link]

    def describe(self) -> list[str]:
        """The steps in words, for `--plan`."""
        return [f"delete {link.name}" for link in self.remove]


def tag_of(instance: str) -> str:
    """Eight hex digits that stand for the instance in the names of its links."""
    return hashlib.blake2s(instance.encode(), digest_size=4, person=b"zos-link").hexdigest()


def is_ours(instance: str, link: Link) -> bool:
    """Whether the instance made this link."""
    return link.name.startswith(f"z{tag_of(instance)}-") and (
        link.alias is None or link.alias.startswith(f"zos:{instance}:")
    )


def alias_of(instance: str, container: str) -> str:
    """The text beside the link of a container.

    Raises:
        NetworkNameInvalid: too long together, a colon in the instance's name, or an empty name.
    """
    alias = f"zos:{instance}:{container}"
    if ":" in instance or not instance or not container or "\0" in alias:
        raise NetworkNameInvalid(f"cannot write {alias!r} beside a link", name=container)
    if len(alias.encode("utf-8", "surrogatepass")) > ALIAS_BYTES_MAX:
        raise NetworkNameInvalid(
            f"the name of container {container[:40]!r}... is too long: {ALIAS_BYTES_MAX} bytes with the instance's",
            hint="give the container a shorter name",
            name=container,
        )
    return alias


def attachments(instance: str, state: NetworkState) -> dict[str, Attachment]:
    """Containers of the instance whose wiring was finished, by name. Of two for one name the newest counts."""
    by_index = {address.index: address for address in state.addresses if address.prefix_length == PREFIX_LENGTH}
    found: dict[str, Attachment] = {}
    for link in sorted(state.links, key=lambda link: link.index):
        if not is_ours(instance, link) or link.alias is None or not link.up or link.index not in by_index:
            continue
        form = _ALIAS_FORM.fullmatch(link.alias)
        if form is None:
            continue
        host = by_index[link.index].address
        found[form["container"]] = Attachment(
            container=form["container"],
            link=link.name,
            index=link.index,
            host_address=host,
            address=IPv4Address(int(host) ^ 1),
        )
    return found


def plan_attach(instance: str, container: str, state: NetworkState) -> AttachPlan:
    """Choose the pair and the names of a container, or find that it has them already.

    Raises:
        PoolExhausted: every pair of the instance's blocks is taken, or claimed by a route.
        NetworkNameInvalid: see `alias_of`.
    """
    alias = alias_of(instance, container)
    have = attachments(instance, state).get(container)
    if have is not None:
        return AttachPlan(
            container=container,
            link=have.link,
            alias=alias,
            host_address=have.host_address,
            address=have.address,
            attached=have,
        )
    taken = {link.name for link in state.links}
    claims = _claims(state)
    for block in _blocks(instance):
        used = _used_pairs(block, claims)
        pair = used.find(0)
        while pair >= 0:
            name = f"z{tag_of(instance)}-{pair}"
            if name not in taken:
                host = block.network_address + 2 * pair
                return AttachPlan(container=container, link=name, alias=alias, host_address=host, address=host + 1)
            pair = used.find(0, pair + 1)
    raise PoolExhausted(
        "no free pair of addresses is left for a container",
        hint=f"which routes claim {' and '.join(str(pool) for pool in POOLS)}? (`ip route show table all`)",
    )


def plan_reconcile(instance: str, wanted: Collection[str], state: NetworkState) -> ReconcilePlan:
    """Keep the finished wiring of wanted containers; everything else that the instance made goes."""
    keep = {name: one for name, one in attachments(instance, state).items() if name in wanted}
    kept = {one.index for one in keep.values()}
    return ReconcilePlan(
        keep=keep, remove=[link for link in state.links if is_ours(instance, link) and link.index not in kept]
    )


def _claims(state: NetworkState) -> list[IPv4Network]:
    """What of the pools somebody claims.

    A route wider than a pool is somebody's way to everywhere (the default route; `0.0.0.0/1` of a VPN), not a claim.
    """
    networks = {address.network for address in state.addresses}
    networks |= {IPv4Network(address.address) for address in state.addresses}
    networks |= {route.destination for route in state.routes}
    return [network for network in networks if any(network.subnet_of(pool) for pool in POOLS)]


def _blocks(instance: str) -> Iterator[IPv4Network]:
    """The blocks of the pools in the instance's own order: each instance begins somewhere else."""
    start = int(tag_of(instance), 16)
    for pool in POOLS:
        count = 1 << (_BLOCK_LENGTH - pool.prefixlen)
        for at in range(count):
            base = int(pool.network_address) + ((start + at) % count << (32 - _BLOCK_LENGTH))
            yield IPv4Network((base, _BLOCK_LENGTH))


def _used_pairs(block: IPv4Network, claims: Sequence[IPv4Network]) -> bytearray:
    """One byte for each pair of the block, 1 where somebody claims one of its addresses."""
    used = bytearray(_PAIRS)
    first, last = int(block.network_address), int(block.broadcast_address)
    for claim in claims:
        low = max(first, int(claim.network_address))
        high = min(last, int(claim.broadcast_address))
        if low <= high:
            begin, end = (low - first) // 2, (high - first) // 2 + 1
            used[begin:end] = b"\1" * (end - begin)
    return used
