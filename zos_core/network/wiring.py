"""Wires containers: plan from what the kernel says, then act. Nothing is remembered outside the kernel.

Whoever dies at whatever moment: a link is marked with its container's name when everything else is done, so what is
unmarked is half made, and goes at the next `reconcile` or `attach`. Deleting one end deletes the other, and what
belongs to it (addresses, routes) with it.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final, ParamSpec, TypeVar

from zos_core.base.paths import Instance
from zos_core.base.threads import in_thread
from zos_core.network import messages
from zos_core.network.errors import NetlinkRefused, NetlinkTimeout
from zos_core.network.messages import Link, Request
from zos_core.network.plan import (
    INSIDE_LINK,
    PREFIX_LENGTH,
    Attachment,
    AttachPlan,
    NetworkState,
    ReconcilePlan,
    alias_of,
    attachments,
    is_ours,
    plan_attach,
    plan_reconcile,
)
from zos_core.network.rtnl import REQUESTS_MAX, RouteSocket

__all__ = ["Network", "Reconciled"]

P = ParamSpec("P")
T = TypeVar("T")

_ABSENT: Final = frozenset({errno.ENODEV})
ATTACH_TRIES_MAX: Final = 8
"""Another program may take the chosen name or address between planning and acting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What a restarted supervisor found: wired containers that stay, and the names of links that were removed."""

    kept: Mapping[str, Attachment]
    removed: tuple[str, ...]


class Network:
    """The links of one instance's containers. `async with Network.open(instance) as network`."""

    def __init__(self, instance: Instance, host: RouteSocket) -> None:
        self._instance = instance.name
        self._host = host
        self._turn = asyncio.Lock()  # two plans from one state would choose the same pair

    @classmethod
    @asynccontextmanager
    async def open(cls, instance: Instance) -> AsyncIterator[Network]:
        """Open the network of our own namespace for an instance."""
        with RouteSocket.opened() as host:
            yield cls(instance, host)

    async def plan(self, container: str) -> AttachPlan:
        """Say what `attach` would make; nothing is changed."""
        return plan_attach(self._instance, container, await self._in_turn(self._state))

    async def plan_reconcile(self, wanted: Collection[str]) -> ReconcilePlan:
        """Say what `reconcile` would keep and remove; nothing is changed."""
        return plan_reconcile(self._instance, wanted, await self._in_turn(self._state))

    async def attach(self, container: str, netns_fd: int, rtnl_fd: int) -> Attachment:
        """Wire a container's namespace to the host. The same call adopts what is whole, and replaces what is not.

        Args:
            container: its name, unique within the instance.
            netns_fd: its network namespace (hold's `netns/<name>`); stays the caller's.
            rtnl_fd: a NETLINK_ROUTE socket made inside it (hold's `rtnl/<name>`); stays the caller's.

        Raises:
            NetlinkRefused: a step was refused; whatever was made before it is removed again.
            PoolExhausted: no addresses are left.
        """
        return await self._in_turn(self._attach, container, netns_fd, rtnl_fd)

    async def detach(self, container: str) -> None:
        """Remove the wiring of a container. That there is none is not an error."""
        await self._in_turn(self._detach, alias_of(self._instance, container))

    async def reconcile(self, wanted: Collection[str]) -> Reconciled:
        """Keep the wiring of wanted containers, remove all else that the instance made, half-made links included."""
        return await self._in_turn(self._reconcile, wanted)

    async def attachments(self) -> dict[str, Attachment]:
        """The wired containers, by name."""
        return attachments(self._instance, await self._in_turn(self._state))

    # --- in a thread, one at a time ------------------------------------------------------------------------------

    async def _in_turn(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in a thread; when cancelled, it is first let come to its end."""
        async with self._turn:
            return await in_thread(work, *args, **kwargs)

    def _attach(self, container: str, netns_fd: int, rtnl_fd: int) -> Attachment:
        with RouteSocket.over(rtnl_fd) as inside:
            for _ in range(ATTACH_TRIES_MAX):
                plan = plan_attach(self._instance, container, self._state())
                adopted = self._adopt(plan, inside)
                if adopted is not None:
                    return adopted
                if plan.attached is not None:
                    continue  # it led into a namespace that is no longer this container's, and is gone: plan again
                try:
                    try:
                        self._host.apply([messages.create_veth(plan.link, INSIDE_LINK, netns_fd)])
                    except NetlinkRefused as refused:
                        if refused.context["errno"] != errno.EEXIST:
                            raise
                        continue  # the name was taken since, here or inside
                    made = self._finish(plan, inside)
                    if made is not None:
                        return made
                    self._delete_named(plan.link)  # another instance was faster with this pair: plan again
                except BaseException:
                    # What cannot be removed now is unmarked, and goes at the next reconcile.
                    self._delete_named(plan.link)
                    raise
        raise NetlinkTimeout(f"cannot wire {container!r}: its links changed {ATTACH_TRIES_MAX} times meanwhile")

    def _detach(self, alias: str) -> None:
        links = self._host.dump(messages.dump_links(), messages.read_link)
        self._delete([link for link in links if is_ours(self._instance, link) and link.alias == alias])

    def _reconcile(self, wanted: Collection[str]) -> Reconciled:
        plan = plan_reconcile(self._instance, wanted, self._state())
        self._delete(plan.remove)
        return Reconciled(kept=plan.keep, removed=tuple(link.name for link in plan.remove))

    def _state(self) -> NetworkState:
        return NetworkState(
            links=self._host.dump(messages.dump_links(), messages.read_link),
            addresses=self._host.dump(messages.dump_addresses(), messages.read_address),
            routes=self._host.dump(messages.dump_routes(), messages.read_route),
        )

    def _adopt(self, plan: AttachPlan, inside: RouteSocket) -> Attachment | None:
        """Whether the namespace has our link already; what of ours stands in the way of a new one is removed."""
        links = inside.dump(messages.dump_links(), messages.read_link)
        present = next((link for link in links if link.name == INSIDE_LINK), None)
        have = plan.attached
        if have is not None:
            if present is not None and present.peer_index == have.index:
                return have
            self._delete_named(have.link)
            return None
        if present is not None:
            # Made by an attach that did not get to its end. The host's end is of our name, or it is not ours to delete.
            links = self._host.dump(messages.dump_links(), messages.read_link)
            half = [link for link in links if link.index == present.peer_index and is_ours(self._instance, link)]
            if not half:
                raise NetlinkRefused(
                    f"cannot wire {plan.container!r}: its namespace has an {INSIDE_LINK} that is not ours",
                    request=f"create veth {plan.link} with {INSIDE_LINK} inside",
                    errno=errno.EEXIST,
                    errno_name="EEXIST",
                )
            self._delete(half)
        return None

    def _finish(self, plan: AttachPlan, inside: RouteSocket) -> Attachment | None:
        """Give the pair its addresses and its mark; None when somebody else has taken the addresses meanwhile."""
        index = _index_of(self._host, plan.link)
        pair = IPv4Network((plan.host_address, PREFIX_LENGTH))
        try:
            self._host.apply(
                [
                    messages.keep_to_itself(plan.link),
                    messages.no_ipv6_addresses(plan.link),
                    messages.add_address(plan.link, index, plan.host_address, PREFIX_LENGTH, route=False),
                    messages.set_up(plan.link),
                    messages.add_only_route(plan.link, index, pair, plan.host_address),
                ]
            )
        except NetlinkRefused as refused:
            if refused.context["errno"] != errno.EEXIST:
                raise
            return None
        own = _index_of(inside, INSIDE_LINK)
        inside.apply(
            [
                messages.no_ipv6_addresses(INSIDE_LINK),
                messages.add_address(INSIDE_LINK, own, plan.address, PREFIX_LENGTH),
                messages.set_up(INSIDE_LINK),
                messages.add_default_route(INSIDE_LINK, own, plan.host_address),
            ]
        )
        self._host.apply([messages.set_alias(plan.link, plan.alias)])
        return Attachment(
            container=plan.container,
            link=plan.link,
            index=index,
            host_address=plan.host_address,
            address=plan.address,
        )

    def _delete_named(self, name: str) -> None:
        links = self._host.dump(messages.dump_links(), messages.read_link)
        self._delete([link for link in links if link.name == name])

    def _delete(self, links: Sequence[Link]) -> None:
        """Delete links that were just seen; one that is gone meanwhile is as wanted."""
        requests: list[Request] = [
            messages.delete_link(link.name, link.index, absent_is_fine=_ABSENT) for link in links
        ]
        for at in range(0, len(requests), REQUESTS_MAX):
            self._host.apply(requests[at : at + REQUESTS_MAX])


def _index_of(sock: RouteSocket, name: str) -> int:
    (answers,) = sock.apply([messages.get_link(name)])
    for message in answers:
        if (link := messages.read_link(message)) is not None:
            return link.index
    raise NetlinkRefused(f"cannot find {name}", request=f"find {name}", errno=errno.ENODEV, errno_name="ENODEV")
