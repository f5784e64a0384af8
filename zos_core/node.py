"""The supervisor's composition root: `python -m zos_core.node`, started by hold with its channel as descriptor 3.

Everything is made here and handed down; nothing below reads the environment, the clock or a global. When hold's end of
the channel closes, or SIGTERM comes, the process ends and the containers run on.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from flist.guard import RevisionGuard
from flist.mount import ImageMounts
from zos_core.base.document import decode_msgpack
from zos_core.base.frame import Channel, PeerGone
from zos_core.base.paths import Instance
from zos_core.base.peer import Peer
from zos_core.base.programs import Empty, ErrorEvent, ExitRecord, Names, Nothing
from zos_core.host import CgroupTree
from zos_core.network import Network
from zos_core.supervisor.api import Api, serve_api
from zos_core.supervisor.images import resolve_image
from zos_core.supervisor.lifecycle import Lifecycle
from zos_core.supervisor.logs import LogStreams
from zos_core.supervisor.provision import Programs
from zos_core.supervisor.registry import Registry

__all__ = ["NodeConfig", "main", "run_node"]

log = logging.getLogger("zos.supervisor")

HOLD_DESCRIPTOR = 3
REQUEST_TIMEOUT_S = 20.0
RECONNECT_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What `zos up` tells the supervisor."""

    instance: Instance
    state_dir: Path
    owner_uid: int


async def run_node(config: NodeConfig, hold: Channel) -> None:
    """Reconcile, serve the API, follow hold's and blockd's events, until SIGTERM or until hold is gone."""
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    async with AsyncExitStack() as stack:
        peers = {name: Peer(config.instance.socket(name)) for name in ("spawn", "blockd", "logd", "forward")}
        for peer in peers.values():
            stack.push_async_callback(peer.aclose)
        network = await stack.enter_async_context(Network.open(config.instance))
        cgroups = await CgroupTree.open(config.instance, processes=(os.getppid(),))
        _, listeners = await hold.request(
            "get", Names(names=["listen/api"]), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S
        )
        listener = stack.enter_context(socket.socket(fileno=listeners[0]))
        images = ImageMounts(hold=hold, spawn=peers["spawn"], blockd=peers["blockd"], state_dir=config.state_dir)
        async with asyncio.TaskGroup() as group:
            lifecycle = Lifecycle(
                programs=Programs(hold=hold, spawn=peers["spawn"], logd=peers["logd"], forward=peers["forward"]),
                images=images,
                registry=Registry(config.state_dir / "documents"),
                network=network,
                cgroups=cgroups,
                resolve=functools.partial(
                    resolve_image,
                    now_s=lambda: time.time_ns() // 1_000_000_000,
                    floors=RevisionGuard(config.state_dir / "revisions"),
                ),
                state_dir=config.state_dir,
                clock_ns=time.time_ns,
                group=group,
            )
            services = [
                group.create_task(_follow_hold(hold, lifecycle, ending), name="hold events"),
                group.create_task(_follow_blockd(config.instance.socket("blockd"), lifecycle), name="blockd events"),
            ]
            await hold.request("subscribe", Empty(), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
            await lifecycle.reconcile()
            api = Api(
                lifecycle=lifecycle,
                images=images,
                logs=LogStreams(config.state_dir / "logs", config.instance.socket("logd")),
                hold=hold,
                cgroups=cgroups,
                instance=config.instance.name,
                state_dir=config.state_dir,
                owner_uid=config.owner_uid,
            )
            async with serve_api(api, listener):
                await hold.request("ready", Empty(), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
                await ending.wait()
            for task in services:
                task.cancel()
            lifecycle.abandon()


async def _follow_hold(hold: Channel, lifecycle: Lifecycle, ending: asyncio.Event) -> None:
    try:
        async for name, body in hold.events():
            if name == "exit":
                lifecycle.exited(decode_msgpack(body, ExitRecord, what="hold's exit event"))
    except PeerGone:
        log.warning("hold is gone; the containers run on")
    finally:
        ending.set()


async def _follow_blockd(path: Path, lifecycle: Lifecycle) -> None:
    """Take note of reads that failed; a blockd that died is dialled again."""
    while True:
        try:
            async with await Channel.connect(path) as channel:
                await channel.request("subscribe", Empty(), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
                async for name, body in channel.events():
                    if name == "unit_error":
                        lifecycle.image_error(decode_msgpack(body, ErrorEvent, what="blockd's unit_error event"))
        except PeerGone:
            await asyncio.sleep(RECONNECT_INTERVAL_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the supervisor; returns the exit status."""
    parser = argparse.ArgumentParser(prog="zos-supervisor", description=__doc__)
    parser.add_argument("--instance", required=True)
    parser.add_argument("--state", required=True, type=Path)
    parser.add_argument("--owner", required=True, type=int, metavar="UID")
    arguments = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = NodeConfig(instance=Instance(arguments.instance), state_dir=arguments.state, owner_uid=arguments.owner)

    async def run() -> None:
        sock = socket.socket(fileno=HOLD_DESCRIPTOR)
        os.set_inheritable(sock.fileno(), False)
        async with Channel.from_socket(sock, name="hold") as hold:
            await run_node(config, hold)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
