"""Containers wired by netlink alone, between network namespaces that the test makes for itself.

A thread that calls unshare(2) has a namespace of its own: the test's "host" is one such namespace, so that nothing is
ever made in the namespace of the machine.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeVar

import pytest

from native.netlink import NetlinkInvalid, pack_message
from tests.conftest import loop_factory
from tests.threads import in_own_thread
from zos_core.base.paths import Instance
from zos_core.network import NetlinkRefused, Network, PoolExhausted, messages
from zos_core.network.messages import Request
from zos_core.network.plan import INSIDE_LINK, tag_of
from zos_core.network.rtnl import RouteSocket

pytestmark = pytest.mark.root

CLONE_NEWNET = 0x40000000
INSTANCE = Instance("t-net")
T = TypeVar("T")


def unshare_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")


def enter_network(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns(CLONE_NEWNET)")


def on_host(main: Callable[[], Coroutine[None, None, T]]) -> T:
    """Run a coroutine function where the namespace of the thread is a new, empty one."""

    def run() -> T:
        unshare_network()
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(main())

    return in_own_thread(run)


@dataclass(frozen=True)
class Inside:
    """A container's namespace, as spawn hands it over, without a container in it."""

    netns: int
    rtnl: int

    def run(self, function: Callable[[], T]) -> T:
        def enter() -> T:
            enter_network(self.netns)
            return function()

        return in_own_thread(enter)

    def socket(self, family: int, kind: int) -> socket.socket:
        return self.run(lambda: socket.socket(family, kind))


@contextmanager
def namespace() -> Iterator[Inside]:
    def make() -> Inside:
        unshare_network()
        netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as made:
            return Inside(netns, os.dup(made.fileno()))

    inside = in_own_thread(make)
    try:
        yield inside
    finally:
        os.close(inside.netns)
        os.close(inside.rtnl)


async def link_names(network: Network) -> list[str]:
    with RouteSocket.opened() as host:
        return sorted(link.name for link in host.dump(messages.dump_links(), messages.read_link))


async def exchange(server: socket.socket, client: socket.socket, address: str) -> bytes:
    """A connection over the wire, one message each way."""
    loop = asyncio.get_running_loop()
    for each in (server, client):
        each.setblocking(False)
    server.bind((address, 0))
    server.listen()
    async with asyncio.timeout(10):
        await loop.sock_connect(client, server.getsockname())
        accepted, _ = await loop.sock_accept(server)
        with accepted:
            await loop.sock_sendall(client, b"there")
            assert await loop.sock_recv(accepted, 16) == b"there"
            await loop.sock_sendall(accepted, b"back")
            return await loop.sock_recv(client, 16)


def test_network_attach_carries_tcp_both_ways() -> None:
    async def main() -> None:
        async with Network.open(INSTANCE) as network:
            with namespace() as inside, ExitStack() as stack:
                plan = await network.plan("web")
                made = await network.attach("web", inside.netns, inside.rtnl)
                assert (made.link, made.address, made.host_address) == (plan.link, plan.address, plan.host_address)
                assert len(made.link) <= 15
                container = stack.enter_context(inside.socket(socket.AF_INET, socket.SOCK_STREAM))
                host = stack.enter_context(socket.socket())
                assert await exchange(container, host, str(made.address)) == b"back"
                container = stack.enter_context(inside.socket(socket.AF_INET, socket.SOCK_STREAM))
                host = stack.enter_context(socket.socket())
                assert await exchange(host, container, str(made.host_address)) == b"back"
                # The default route leads to the host's end.
                probe = stack.enter_context(inside.socket(socket.AF_INET, socket.SOCK_DGRAM))
                probe.connect(("192.0.2.1", 9))
                assert probe.getsockname()[0] == str(made.address)
                # And there is no IPv6 link-local address on either side.
                assert await network.attachments() == {"web": made}
                await network.detach("web")
                assert await link_names(network) == ["lo"]
                await network.detach("web")

    on_host(main)


def test_network_attach_twice_adopts() -> None:
    async def main() -> None:
        with namespace() as inside:
            async with Network.open(INSTANCE) as network:
                first = await network.attach("web", inside.netns, inside.rtnl)
                assert (await network.plan("web")).describe() == []
                assert await network.attach("web", inside.netns, inside.rtnl) == first
            async with Network.open(INSTANCE) as network:  # a restarted supervisor
                assert (await network.reconcile(["web"])).kept == {"web": first}
                assert await network.attach("web", inside.netns, inside.rtnl) == first
                assert len(await link_names(network)) == 2

    on_host(main)


def test_network_addresses_are_reused_after_detach_and_differ_before() -> None:
    async def main() -> None:
        async with Network.open(INSTANCE) as network:
            with namespace() as one, namespace() as two, namespace() as three:
                a = await network.attach("a", one.netns, one.rtnl)
                b = await network.attach("b", two.netns, two.rtnl)
                assert len({a.address, a.host_address, b.address, b.host_address}) == 4
                await network.detach("a")
                c = await network.attach("c", three.netns, three.rtnl)
                assert c.address == a.address
                assert set((await network.reconcile(["b", "c"])).kept) == {"b", "c"}

    on_host(main)


def test_network_attach_in_parallel() -> None:
    async def main() -> None:
        with ExitStack() as stack:
            spaces = [stack.enter_context(namespace()) for _ in range(12)]
            async with Network.open(INSTANCE) as network, asyncio.TaskGroup() as group:
                for at, inside in enumerate(spaces):
                    group.create_task(network.attach(f"c{at}", inside.netns, inside.rtnl))
            async with Network.open(INSTANCE) as network:
                made = await network.attachments()
                assert len({one.address for one in made.values()}) == 12
                result = await network.reconcile([])
                assert len(result.removed) == 12
                assert await link_names(network) == ["lo"]

    on_host(main)


def test_network_instances_that_share_a_block_do_not_share_a_pair() -> None:
    """Both plan from the same state, at once, in the same block: the kernel would let both have the address."""
    block = int(tag_of(INSTANCE.name), 16) % 256
    other = next(Instance(f"o{at}") for at in range(100_000) if int(tag_of(f"o{at}"), 16) % 256 == block)

    async def main() -> None:
        with ExitStack() as stack:
            spaces = [stack.enter_context(namespace()) for _ in range(16)]
            async with Network.open(INSTANCE) as mine, Network.open(other) as theirs:
                assert (await mine.plan("c")).address == (await theirs.plan("c")).address
                async with asyncio.TaskGroup() as group:
                    made = [
                        group.create_task((mine, theirs)[at % 2].attach(f"c{at}", inside.netns, inside.rtnl))
                        for at, inside in enumerate(spaces)
                    ]
                assert len({task.result().address for task in made}) == len(spaces)

    on_host(main)


def test_network_new_namespace_for_the_same_name_replaces_the_wire() -> None:
    async def main() -> None:
        async with Network.open(INSTANCE) as network:
            with namespace() as old, namespace() as new:
                first = await network.attach("web", old.netns, old.rtnl)
                second = await network.attach("web", new.netns, new.rtnl)
                assert await link_names(network) == ["lo", second.link]
                assert second.index != first.index
                assert await network.attachments() == {"web": second}

    on_host(main)


class Killed(Exception):
    """Stands for SIGKILL of the supervisor between two datagrams."""


@pytest.mark.parametrize("survives", range(8))
def test_network_killed_half_way_leaves_nothing_after_reconcile(survives: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor dies after the n-th datagram, for every n: a new one removes what is half made."""
    real = RouteSocket._send
    sent: list[bytes] = []

    def dies(self: RouteSocket, data: bytes) -> None:
        if len(sent) == survives:
            raise Killed
        sent.append(data)
        real(self, data)

    async def main() -> None:
        with namespace() as inside:
            async with Network.open(INSTANCE) as network:
                state = network._state()
                monkeypatch.setattr(network, "_state", lambda: state)
                monkeypatch.setattr(RouteSocket, "_send", dies)
                try:
                    await network.attach("web", inside.netns, inside.rtnl)
                    whole = True
                except Killed:
                    whole = False
                monkeypatch.undo()
            async with Network.open(INSTANCE) as network:
                result = await network.reconcile(["web"])
                assert bool(result.kept) == whole
                assert await link_names(network) == ["lo", *(one.link for one in result.kept.values())]
                made = await network.attach("web", inside.netns, inside.rtnl)
                assert await network.attachments() == {"web": made}

    on_host(main)


@pytest.mark.parametrize("survives", range(8))
def test_network_killed_half_way_is_mended_by_the_next_attach(survives: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = RouteSocket._send
    sent: list[bytes] = []

    def dies(self: RouteSocket, data: bytes) -> None:
        if len(sent) == survives:
            raise Killed
        sent.append(data)
        real(self, data)

    async def main() -> None:
        with namespace() as inside:
            async with Network.open(INSTANCE) as network:
                state = network._state()
                monkeypatch.setattr(network, "_state", lambda: state)
                monkeypatch.setattr(RouteSocket, "_send", dies)
                try:
                    await network.attach("web", inside.netns, inside.rtnl)
                except Killed:
                    pass
                monkeypatch.undo()
            async with Network.open(INSTANCE) as network:
                made = await network.attach("web", inside.netns, inside.rtnl)
                assert await link_names(network) == ["lo", made.link]

    on_host(main)


def test_network_a_refused_step_takes_back_what_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(name: str, index: int, gateway: IPv4Address) -> Request:
        return messages.Request(what="route nowhere", type=messages.RTM_NEWROUTE, flags=0, payload=b"\0" * 12)

    monkeypatch.setattr(messages, "add_default_route", wrong)

    async def main() -> None:
        with namespace() as inside:
            async with Network.open(INSTANCE) as network:
                with pytest.raises(NetlinkRefused, match="cannot route nowhere"):
                    await network.attach("web", inside.netns, inside.rtnl)
                assert await link_names(network) == ["lo"]

    on_host(main)


def test_network_cancelled_attach_leaves_nothing_after_reconcile() -> None:
    async def main() -> None:
        with namespace() as inside:
            async with Network.open(INSTANCE) as network:
                task = asyncio.ensure_future(network.attach("web", inside.netns, inside.rtnl))
                while not any(name.startswith("z") for name in await link_names(network)):
                    if task.done():
                        break
                    await asyncio.sleep(0)  # the loop's turn: looking at the links blocks it
                task.cancel()
                await asyncio.wait([task])
                await network.reconcile([])
                assert await link_names(network) == ["lo"]
                assert (await network.attach("web", inside.netns, inside.rtnl)).container == "web"

    on_host(main)


def test_network_addresses_and_routes_of_the_machine_are_avoided() -> None:
    async def main() -> None:
        async with Network.open(INSTANCE) as network:
            with RouteSocket.opened() as host:
                first = await network.plan("web")
                (found,) = host.apply([messages.get_link("lo")])
                lo = messages.read_link(found[0])
                assert lo is not None
                host.apply([messages.set_up("lo"), messages.add_address("lo", lo.index, first.address, 32)])
                second = await network.plan("web")
                assert second.host_address == first.host_address + 2
                host.apply([messages.add_address("lo", lo.index, first.address, 10)])
                third = await network.plan("web")
                assert str(third.address).startswith("198.1")
                host.apply([messages.add_address("lo", lo.index, third.address, 15)])
                with pytest.raises(PoolExhausted):
                    await network.plan("web")

    on_host(main)


def test_network_leaves_links_of_others_alone() -> None:
    async def main() -> None:
        async with Network.open(INSTANCE) as network, Network.open(Instance("t-other")) as other:
            with namespace() as inside, namespace() as foreign:
                with RouteSocket.opened() as host:
                    host.apply([messages.create_veth("mine", "theirs", foreign.netns)])
                made = await other.attach("web", inside.netns, inside.rtnl)
                assert (await network.reconcile([])).removed == ()
                assert await link_names(network) == ["lo", "mine", made.link]
                await network.detach("web")
                assert await other.attachments() == {"web": made}
                with RouteSocket.opened() as host:
                    host.apply([messages.create_veth("mine2", INSIDE_LINK, foreign.netns)])
                with pytest.raises(NetlinkRefused, match="not ours"):
                    await network.attach("web", foreign.netns, foreign.rtnl)

    on_host(main)


def test_network_stale_answers_in_a_kept_socket_are_dropped() -> None:
    """A supervisor was killed after sending: its answers lie in hold's socket, before those of its successor."""

    async def main() -> None:
        with namespace() as inside:
            with RouteSocket.over(inside.rtnl) as dead:
                ask = messages.dump_links()
                dead._send(pack_message(ask.type, ask.flags | messages.NLM_F_REQUEST, 99, ask.payload))
            with RouteSocket.over(inside.rtnl) as alive:
                links = alive.dump(messages.dump_links(), messages.read_link)
                assert [link.name for link in links] == ["lo"]

    on_host(main)


def test_network_refusals_carry_the_kernels_words() -> None:
    async def main() -> None:
        with RouteSocket.opened() as host:
            with pytest.raises(NetlinkRefused) as caught:
                host.apply([messages.add_address("x", 4711, IPv4Address("100.64.0.1"), 31)])
            assert caught.value.context["errno_name"] == "ENODEV"
            with pytest.raises(NetlinkRefused) as caught:
                host.apply([messages.get_link("absent")])
            assert caught.value.context["request"] == "find absent"
            assert host.apply([]) == []

    on_host(main)


def test_network_over_refuses_what_is_no_netlink_socket() -> None:
    async def main() -> None:
        with socket.socket() as tcp:
            with pytest.raises(NetlinkInvalid, match="no netlink socket"):
                with RouteSocket.over(tcp.fileno()):
                    pass

    on_host(main)


def forwarded() -> int:
    """Datagrams that the namespace of this thread passed on."""
    with open("/proc/thread-self/net/snmp") as file:
        names, values = (line.split()[1:] for line in file if line.startswith("Ip:"))
    return int(dict(zip(names, values, strict=True))["ForwDatagrams"])


@pytest.mark.parametrize("kept", [True, False])
def test_network_forwards_nothing_even_if_the_host_forwards(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers on a host that forwards (as docker leaves it): neither reaches the other.

    Without our step they would: the test sees that it is this step which does it.
    """
    if not kept:
        monkeypatch.setattr(messages, "keep_to_itself", messages.set_up)

    async def main() -> None:
        async with Network.open(INSTANCE) as network:
            with namespace() as one, namespace() as two, ExitStack() as stack:
                # The sysctl is of the writer's network namespace, which is this thread's own.
                assert os.readlink("/proc/thread-self/ns/net") != os.readlink("/proc/self/ns/net")
                with open("/proc/sys/net/ipv4/ip_forward", "w") as file:
                    file.write("1")
                a = await network.attach("a", one.netns, one.rtnl)
                b = await network.attach("b", two.netns, two.rtnl)
                sender, receiver = (
                    stack.enter_context(each.socket(socket.AF_INET, socket.SOCK_DGRAM)) for each in (one, two)
                )
                marks = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                receiver.bind((str(b.address), 0))
                marks.bind((str(a.host_address), 0))
                for each in (receiver, marks):
                    each.settimeout(10)
                sender.sendto(b"over", receiver.getsockname())
                sender.sendto(b"mark", marks.getsockname())
                assert marks.recv(16) == b"mark"  # so the host has seen the one before it
                assert forwarded() == (0 if kept else 1)
                if not kept:
                    assert receiver.recv(16) == b"over"

    on_host(main)


def test_network_tag_is_stable() -> None:
    """Links outlive the program that made them: another tag for the same instance would strand them."""
    assert tag_of("zos") == tag_of("zos")
    assert len(tag_of("zos")) == 8
