"""The verbs of `zos hub`."""

from __future__ import annotations

import argparse
import asyncio
import errno
import signal
from contextlib import ExitStack
from pathlib import Path

from flist.hub.publishing import Publishing
from flist.hub.server import serve_hub
from flist.store import DirectoryStore, StoreReadOnly, StoreUnavailable
from zos_core.base.document import Record
from zos_core.base.paths import default_store
from zos_core.base.server import listen_tcp
from zos_core.base.verbs import Console

__all__ = ["HubReady", "serve"]


class HubReady(Record, frozen=True, kw_only=True):
    """The hub serves."""

    url: str
    store: str


async def serve(arguments: argparse.Namespace, console: Console) -> None:
    """Serve a store until SIGTERM (status 0) or Ctrl-C.

    Raises:
        AddressInUse, UsageError: it cannot listen there.
        StoreUnavailable: there is no such directory.
        HubBusy: another hub publishes into it.
        LogDamaged: the log is not what was signed.
    """
    root = Path(arguments.store).absolute() if arguments.store else default_store()
    if not root.is_dir():
        raise StoreUnavailable(f"there is no store in {root}", hint="`zos flist build` makes one")
    with ExitStack() as stack:
        publishing: Publishing | None = None
        sock = stack.enter_context(listen_tcp(arguments.listen))
        if not arguments.read_only:
            allowed = Path(arguments.publishers) if arguments.publishers else None
            publishing = _publishing(root, allowed)
            stack.callback(publishing.close)
        host, port = sock.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with serve_hub(DirectoryStore(root), sock, publishing=publishing, names=arguments.name):
            loop.add_signal_handler(signal.SIGTERM, stop.set)
            console.emit(HubReady(url=url, store=str(root)), f"zos hub: serving {root} at {url}")
            await stop.wait()


def _publishing(root: Path, allowed: Path | None) -> Publishing:
    try:
        return Publishing(root, allowed=allowed)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise StoreReadOnly(
            f"{error.filename}: {error.strerror}",
            hint="run the hub as the user whose store it is, or say --read-only",
        ) from error
