"""Start and end a process tree: hold with a table of services (docs/spec/hold.md).

`zos up` starts the whole tree, `zos flist mount` one of spawn and blockd alone; both through `start_tree`.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from native.errors import ZosError
from native.programs import program
from zos_core.base.document import Document, encode_msgpack
from zos_core.base.frame import Channel, PeerGone
from zos_core.base.paths import Instance
from zos_core.base.programs import Empty, Nothing

__all__ = [
    "Listener",
    "ServiceSpec",
    "Table",
    "TreeFailed",
    "blockd_service",
    "end_strays",
    "end_tree",
    "hold_channel",
    "is_kept",
    "is_running",
    "service_environment",
    "spawn_service",
    "start_tree",
    "up_lock",
    "wait_closed",
]

READY_TIMEOUT_S = 20.0
SHUTDOWN_TIMEOUT_S = 30.0
SERVICE_READY_MS = 10_000
SERVICE_STOP_MS = 5_000
RESTARTS_MAX = 20
RESTART_WINDOW_MS = 60_000
READY_LINE_MAX = 4096
LOCK_INTERVAL_S = 0.05
KEEPER_TIMEOUT_S = 5.0


class TreeFailed(ZosError):
    """hold could not start, or did not end in time."""

    code, http_status, exit_status = "base.tree-failed", 500, 19


class Listener(Document, frozen=True, kw_only=True):
    """A listening socket that hold makes and keeps as `listen/<name>`."""

    name: str
    path: str
    stream: bool = False


class ServiceSpec(Document, frozen=True, kw_only=True):
    """A service that hold starts and restarts."""

    name: str
    argv: list[str]
    env: dict[str, str]
    program: str = "exec"
    ready_timeout_ms: int = SERVICE_READY_MS
    stop_timeout_ms: int = SERVICE_STOP_MS
    restarts_max: int = RESTARTS_MAX
    restart_window_ms: int = RESTART_WINDOW_MS
    survives: bool = False
    fallback: list[str] | None = None


class Table(Document, frozen=True, kw_only=True):
    """hold's service table."""

    instance: str
    run_dir: str
    log_dir: str
    keeper: bool = False
    listeners: list[Listener]
    services: list[ServiceSpec]


def spawn_service(state_dir: Path) -> ServiceSpec:
    """The zygote, run from hold's sealed copy of zos-init."""
    return ServiceSpec(name="spawn", argv=["zos-spawn", "spawn", "--state", str(state_dir)], env={}, program="self")


def blockd_service(*, survives: bool = False) -> ServiceSpec:
    """The block provider; `refuse` takes its place when it cannot be kept alive."""
    io = str(program("zos-io"))
    return ServiceSpec(name="blockd", argv=[io, "block"], env={}, fallback=[io, "refuse"], survives=survives)


def service_environment(names: Sequence[str] = ()) -> Mapping[str, str]:
    """The environment that Python services need, and nothing else of the caller's."""
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **kept}


@asynccontextmanager
async def up_lock(instance: Instance) -> AsyncIterator[None]:
    """Hold the instance's start lock.

    Waits for the other starter, so that of two `zos up` one starts the node and the other finds it running. At the end
    the run directory goes with all that is in it, unless a node runs.
    """
    path = instance.run_dir / "up.lock"
    while True:
        instance.run_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the directory went with its last holder
            continue
        try:
            await _lock(descriptor)
            if not _is_at(descriptor, path):  # the last holder has removed it; another may be there by now
                continue
            try:
                yield
            finally:
                if not is_running(instance) and not is_kept(instance):
                    shutil.rmtree(instance.run_dir, ignore_errors=True)
            return
        finally:
            os.close(descriptor)


async def _lock(descriptor: int) -> None:
    """Wait for a lock, in steps: a thread that waits in flock(2) could not be called off."""
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(LOCK_INTERVAL_S)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def is_running(instance: Instance) -> bool:
    """Whether a hold lives: it keeps `run_dir/lock` locked for life (HOLD-TAKEOVER)."""
    try:
        descriptor = os.open(instance.run_dir / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def is_kept(instance: Instance) -> bool:
    """Whether a keeper has what a hold left that died: the next one takes it over (HOLD-TAKE).

    To be asked when no hold runs.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(KEEPER_TIMEOUT_S)
        try:
            client.connect(str(instance.run_dir / "keep.sock"))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


async def end_strays(instance: Instance) -> int:
    """End processes of services that neither a hold nor a keeper has any more; returns how many there were.

    They are known by the environment that hold gave them, which no container can have: they are root's, and in our own
    pid namespace. A pid is opened before it is looked at, so that what is killed is what was looked at.

    Raises:
        TreeFailed: one did not end in time.
    """
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) not in (1, os.getpid())]
    ended = 0
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except (ProcessLookupError, OSError):  # it has ended, or it is a thread's number
            continue
        try:
            if not _is_stray(pid, instance):
                continue
            await _kill(pidfd, f"process {pid} of instance {instance.name}")
            ended += 1
        finally:
            os.close(pidfd)
    return ended


def _is_stray(pid: int, instance: Instance) -> bool:
    process = Path(f"/proc/{pid}")
    try:
        if process.stat().st_uid != 0 or not os.path.samefile(process / "ns/pid", "/proc/self/ns/pid"):
            return False
        variables = (process / "environ").read_bytes().split(b"\0")
    except OSError:  # it has ended meanwhile
        return False
    named = any(variable.startswith(b"ZOS_SERVICE=") for variable in variables)
    return named and f"ZOS_INSTANCE={instance.name}".encode() in variables


async def _kill(pidfd: int, what: str) -> None:
    """SIGKILL, and wait for the end."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        async with asyncio.timeout(SHUTDOWN_TIMEOUT_S):
            await ended.wait()
    except ProcessLookupError:
        return
    except TimeoutError as error:
        raise TreeFailed(f"{what} did not end within {SHUTDOWN_TIMEOUT_S:.0f} s") from error
    finally:
        loop.remove_reader(pidfd)


async def start_tree(instance: Instance, table: Table) -> int:
    """Start hold with `table` in a session of its own and wait until every service was started; returns its pid.

    What a hold that died has left with its keeper is taken over.

    Raises:
        TreeFailed: hold said why it could not start, or said nothing in time.
    """
    Path(table.log_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = is_kept(instance)
    if not kept:
        await end_strays(instance)
    table_fd = os.memfd_create("zos-table", 0)
    os.write(table_fd, encode_msgpack(table))
    os.lseek(table_fd, 0, os.SEEK_SET)
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    log = os.open(Path(table.log_dir) / "hold.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for descriptor in (table_fd, ready_write):
            os.set_inheritable(descriptor, True)
        argv = [str(program("zos-init")), "hold", "--table", str(table_fd), "--ready", str(ready_write)]
        pid = os.posix_spawn(  # noqa: ASYNC221  returns when exec has happened
            argv[0],
            argv,
            {**service_environment(["ZOS_NATIVE"]), "ZOS_INSTANCE": instance.name},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
        )
        os.close(ready_write)
        ready_write = -1
        try:
            message = await _read_ready(ready_read)
        except BaseException:
            # One that takes over is killed, so that the keeper still has everything; any other is asked to end all.
            await asyncio.shield(_end_hold(pid, signal.SIGKILL if kept else signal.SIGTERM))
            raise
    finally:
        for descriptor in (table_fd, ready_read, log, null):
            os.close(descriptor)
        if ready_write >= 0:
            os.close(ready_write)
    if message != b"1":
        reaped, _ = os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222  does not wait
        reason = message.decode(errors="replace").removeprefix("E").strip() or "it ended without a word"
        raise TreeFailed(
            f"hold did not start: {reason}",
            hint=f"see {table.log_dir}/hold.log and the services' logs beside it",
            instance=instance.name,
            ended=bool(reaped),
        )
    return pid


async def _end_hold(pid: int, how: signal.Signals) -> None:
    """End a hold that is our child: SIGTERM is `shutdown` to it, at whatever point of its start it is."""
    pidfd = os.pidfd_open(pid)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        signal.pidfd_send_signal(pidfd, how)
        async with asyncio.timeout(SHUTDOWN_TIMEOUT_S):
            await ended.wait()
        os.waitpid(pid, 0)  # noqa: ASYNC222  it has ended
    except TimeoutError as error:
        raise TreeFailed(f"hold (pid {pid}) did not end within {SHUTDOWN_TIMEOUT_S:.0f} s") from error
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


async def _read_ready(descriptor: int) -> bytes:
    """Read hold's word on the ready pipe, at most `READY_LINE_MAX` bytes, until it closes the pipe."""
    os.set_blocking(descriptor, False)
    loop = asyncio.get_running_loop()
    chunks = bytearray()
    done: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        try:
            data = os.read(descriptor, READY_LINE_MAX)
        except BlockingIOError:
            return
        chunks.extend(data)
        if (not data or len(chunks) >= READY_LINE_MAX) and not done.done():
            done.set_result(None)

    loop.add_reader(descriptor, readable)
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await done
    except TimeoutError as error:
        raise TreeFailed(
            f"hold was not ready within {READY_TIMEOUT_S:.0f} s", hint="is the machine overloaded?"
        ) from error
    finally:
        loop.remove_reader(descriptor)
    return bytes(chunks)


@asynccontextmanager
async def hold_channel(instance: Instance) -> AsyncIterator[Channel]:
    """A connection to the instance's hold for tools (uid 0 only)."""
    channel = await Channel.connect(instance.run_dir / "hold.sock")
    try:
        yield channel
    finally:
        await channel.aclose()


async def end_tree(instance: Instance, ask: Callable[[], Awaitable[None]] | None = None) -> None:
    """Have hold end its services and itself, and wait until it has: its end of the connection then closes.

    Args:
        instance: whose tree.
        ask: makes a service ask hold for it, in good order; None asks hold directly, which kills what is registered.

    Raises:
        TreeFailed: it did not end within `SHUTDOWN_TIMEOUT_S` of having been asked.
    """
    async with hold_channel(instance) as channel:
        if ask is None:
            await channel.request("shutdown", Empty(), reply=Nothing, timeout_s=SHUTDOWN_TIMEOUT_S)
        else:
            await ask()
        try:
            async with asyncio.timeout(SHUTDOWN_TIMEOUT_S):
                await wait_closed(channel)
        except TimeoutError as error:
            raise TreeFailed(
                f"hold of instance {instance.name} did not end within {SHUTDOWN_TIMEOUT_S:.0f} s",
                instance=instance.name,
            ) from error


async def wait_closed(channel: Channel) -> None:
    """Wait until the peer has closed its end, reading past its events."""
    try:
        async for _event in channel.events():
            continue
    except PeerGone:
        return
