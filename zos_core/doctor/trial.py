"""A node in small, for a moment: hold and spawn of an instance of their own, one container, and nothing left.

What spawn's `probe` finds, the control groups that a node would get, a link, and in the end a container of one static
program, launched exactly as `zos run` launches one. Each step that fails is a finding; those after it are tried all
the same, as long as they do not stand on it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from native.errors import ZosError
from native.programs import program
from zos_core.base.document import decode_msgpack
from zos_core.base.errors import zos_error_in
from zos_core.base.frame import Channel, RemoteError
from zos_core.base.paths import Instance
from zos_core.base.peer import Peer
from zos_core.base.programs import Empty, ExitRecord, Launched, Mount, Mounted, Named, Nothing, Probe, Service
from zos_core.base.threads import in_thread
from zos_core.base.tree import Listener, ServiceSpec, Table, end_tree, hold_channel, spawn_service, start_tree, up_lock
from zos_core.containers.document import ImageRequest, RunRequest
from zos_core.containers.launch import plan_launch
from zos_core.doctor.machine import privileged
from zos_core.doctor.report import Finding, not_tried
from zos_core.host import CgroupTree, Limits
from zos_core.host.visit import visiting
from zos_core.network import Network

__all__ = ["TRIAL_FEATURES", "trial", "trial_not_tried"]

REQUEST_TIMEOUT_S: Final = 30.0
EXIT_TIMEOUT_S: Final = 20.0
NAME: Final = "trial"
IMAGE: Final = "00" * 32
PROGRAM: Final = "/bin/zos-init"

# Name, field of `Probe`, what was tried, what it means, and the kernel's module.
TRIAL_FEATURES: Final = (
    ("fuse", "fuse", "open /dev/fuse, mount a one-file FUSE, detached", "images are fetched while they run", "fuse"),
    ("erofs", "erofs", "fsopen(2) of erofs", "an image's names and modes come from its metadata alone", "erofs"),
    (
        "erofs-file-backed",
        "erofs_file_backed",
        "mount an EROFS image that is a file, without a loop device",
        "no loop devices are needed",
        None,
    ),
    ("loop", "loop_control", "open /dev/loop-control", "EROFS works also where it cannot mount a file", "loop"),
    (
        "detached-layers",
        "detached_layers",
        "mount an overlay whose lower layer is a detached mount",
        "an image's mount is a descriptor, so that cleaning up is closing",
        None,
    ),
    (
        "overlay",
        "overlay",
        "mount an overlay with its upper layer in the state directory",
        "each container may write",
        "overlay",
    ),
)
_LIMITS = ("limits", "memory, CPU time and the number of processes are limited; without it they are only counted")
_GROUPS = ("cgroups", "a container's processes are ended together, and counted")
_NETWORK = ("network", "a container reaches its host, and its ports can be published")
_CONTAINER = ("container", "containers can run")


def trial_not_tried(why: str) -> list[Finding]:
    """The findings of a trial that was not made."""
    named = [(name, means) for name, _, _, means, _ in TRIAL_FEATURES]
    return [not_tried(name, means, why) for name, means in [*named, _GROUPS, _LIMITS, _NETWORK, _CONTAINER]]


async def trial(*, without: Sequence[str] = ()) -> tuple[list[Finding], Probe | None]:
    """Make the trial; needs root. `without` names fields of `Probe` that count as missing (spawn.md)."""
    instance = Instance(f"doctor-{secrets.token_hex(4)}")
    findings: list[Finding] = []
    parents = [path for path in (instance.run_dir.parent, instance.state_dir.parent) if not path.exists()]
    try:
        return findings, await _trial(instance, without, findings)
    finally:
        for parent in parents:
            _remove_empty(parent)


def _remove_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError as error:
        # A node was started meanwhile, or nothing was made.
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise


async def _trial(instance: Instance, without: Sequence[str], findings: list[Finding]) -> Probe | None:
    try:
        async with up_lock(instance):
            try:
                async with visiting(instance), _tree(instance, without) as hold_pid:
                    return await _tried(instance, hold_pid, findings)
            finally:
                if instance.state_dir.exists():
                    await in_thread(shutil.rmtree, instance.state_dir)
    except (ZosError, OSError) as error:
        # hold or spawn did not start, did not answer, or did not end.
        findings.append(
            Finding(
                name="tree",
                works=False,
                tried="start hold and spawn, and end them",
                found=_words(error),
                means="they are the node",
                command=_for(_words(error), None),
            )
        )
        done = {finding.name for finding in findings}
        findings += [each for each in trial_not_tried("hold and spawn do not work") if each.name not in done]
        return None


@asynccontextmanager
async def _tree(instance: Instance, without: Sequence[str]) -> AsyncIterator[int]:
    """hold with spawn alone; gives hold's pid."""
    instance.state_dir.mkdir(mode=0o700, parents=True)
    spawn = spawn_service(instance.state_dir)
    if without:
        spawn = ServiceSpec(
            name=spawn.name, argv=[*spawn.argv, "--without", ",".join(without)], env=spawn.env, program=spawn.program
        )
    table = Table(
        instance=instance.name,
        run_dir=str(instance.run_dir),
        log_dir=str(instance.log_dir),
        listeners=[Listener(name="spawn", path="spawn.sock")],
        services=[spawn],
    )
    pid = await start_tree(instance, table)
    try:
        yield pid
    finally:
        await asyncio.shield(end_tree(instance))


async def _tried(instance: Instance, hold_pid: int, findings: list[Finding]) -> Probe | None:
    tree: CgroupTree | None = None
    async with AsyncExitStack() as stack:
        hold = await stack.enter_async_context(hold_channel(instance))
        spawn = Peer(instance.socket("spawn"))
        stack.push_async_callback(spawn.aclose)
        probe = await _probe(instance, spawn)
        findings += _of_probe(probe)

        async def groups() -> str:
            nonlocal tree  # hold and spawn go into a leaf of it, as a node's do
            tree = await CgroupTree.open(instance, processes=(hold_pid,))
            return f"{tree.layout}"

        async def limits() -> str:
            assert tree is not None
            asked = Limits(memory_bytes=64 << 20, cpu_milli=1000, pids=64)
            states = (await tree.create(NAME, asked)).limits
            lacking = [f"{state.name}: {state.reason}" for state in states if state.enforced is None]
            if lacking:
                raise _Lacking("; ".join(lacking))
            return ", ".join(f"{state.name} {state.enforced}" for state in states)

        async def network() -> str:
            _, descriptors = await spawn.request("netns", Named(name=NAME), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
            try:
                async with Network.open(instance) as wires:
                    attachment = await wires.attach(NAME, descriptors[0], descriptors[1])
                    await wires.detach(NAME)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            return f"a link with {attachment.address} inside"

        async def container() -> str:
            assert tree is not None
            return await _container(instance, tree, hold, spawn)

        mount_it = "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
        findings.append(await _attempt(_GROUPS, "make this node's control group", groups, mount_it))
        if tree is None:
            why = "there is no control group for it"
            findings += [each for each in trial_not_tried(why) if each.name in (_LIMITS[0], _CONTAINER[0])]
            return probe
        findings.append(await _attempt(_LIMITS, "set a limit of each kind and read it back", limits, None))
        findings.append(await _attempt(_NETWORK, "make a network namespace and a link to it", network, "modprobe veth"))
        findings.append(
            await _attempt(_CONTAINER, f"start a container of {PROGRAM} alone, wait for its end", container, None)
        )
        return probe


async def _probe(instance: Instance, spawn: Peer) -> Probe:
    """Ask spawn, unless it does not live long enough to be asked."""
    async with hold_channel(instance) as watched:
        await watched.request("subscribe", Empty(), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_spawn_ends(instance, watched), name="end of spawn")
                probe, _ = await spawn.request("probe", Empty(), reply=Probe, timeout_s=REQUEST_TIMEOUT_S)
                watch.cancel()
        except BaseExceptionGroup as several:
            error = zos_error_in(several)
            if error is None:
                raise
            raise error from several
    return probe


async def _spawn_ends(instance: Instance, hold: Channel) -> None:
    async for event, body in hold.events():
        if event == "service":
            service = decode_msgpack(body, Service, what="hold's service event")
            if (service.name, service.state) == ("spawn", "ended"):
                said = (instance.log_dir / "spawn.log").read_text(errors="replace").splitlines()
                raise _Lacking(f"spawn ended: {said[-1] if said else 'without a word'}")


class _Lacking(ZosError):
    """Some of what was tried works, some does not."""

    code, http_status, exit_status = "doctor.lacking", 501, 61


def _for_module(found: str, module: str) -> str:
    """A module that is not loaded, or a device or a right that whoever confined us has kept back."""
    return _for(found, f"modprobe {module}") or privileged()


def _for(found: str, command: str | None) -> str | None:
    refused = any(os.strerror(number) in found for number in (errno.EPERM, errno.EACCES, errno.ENOSYS))
    return privileged() if refused else command


def _words(error: ZosError | OSError) -> str:
    return error.message if isinstance(error, ZosError) else str(error)


def _of_probe(probe: Probe) -> list[Finding]:
    findings = []
    for name, field, tried, means, module in TRIAL_FEATURES:
        works: bool = getattr(probe, field)
        found = "works" if works else probe.reasons.get(field, "no reason given")
        command = None if works or module is None else _for_module(found, module)
        findings.append(Finding(name=name, works=works, tried=tried, found=found, means=means, command=command))
    return findings


async def _attempt(
    what: tuple[str, str], tried: str, attempt: Callable[[], Awaitable[str]], command: str | None
) -> Finding:
    name, means = what
    try:
        found = await attempt()
    except (ZosError, OSError, TimeoutError) as error:
        words = "it did not end in time" if isinstance(error, TimeoutError) and not error.args else _words(error)
        return Finding(name=name, works=False, tried=tried, found=words, means=means, command=_for(words, command))
    return Finding(name=name, works=True, tried=tried, found=found, means=means)


async def _container(instance: Instance, tree: CgroupTree, hold: Channel, spawn: Peer) -> str:
    """Launch a container of one static program as `zos run` would, and wait for its end."""
    state = instance.state_dir
    await in_thread(_make_root, state / "tree")
    (state / "containers" / NAME).mkdir(parents=True)
    await hold.request("subscribe", Empty(), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
    mount = Mount(image=IMAGE, provider="extract", tree="tree")
    _, mounted = await spawn.request("mount_image", mount, reply=Mounted, timeout_s=REQUEST_TIMEOUT_S)
    for descriptor in mounted:
        os.close(descriptor)
    request = RunRequest(
        request_id=secrets.token_hex(16),
        name=NAME,
        image=ImageRequest(store="/", reference=NAME),
        args=[PROGRAM, "--version"],
    )
    launch = plan_launch(
        request,
        generation=1,
        image=IMAGE,
        upper=f"containers/{NAME}/upper",
        work=f"containers/{NAME}/work",
        netns=NAME,
        cgroup=str(tree.group(NAME).path),
    )
    await tree.create(NAME, Limits(pids=64))
    await spawn.request("netns", Named(name=NAME), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
    began = time.perf_counter()
    try:
        _, pidfds = await spawn.request("launch", launch, reply=Launched, timeout_s=REQUEST_TIMEOUT_S)
    except RemoteError as error:
        raise _Lacking(f"the launch failed: {error}") from error
    for descriptor in pidfds:
        os.close(descriptor)
    async with asyncio.timeout(EXIT_TIMEOUT_S):
        async for event, body in hold.events():
            if event == "exit":
                record = decode_msgpack(body, ExitRecord, what="hold's exit event")
                if record.name == NAME:
                    break
    if record.code != 0:
        raise _Lacking(f"its program ended with code {record.code}, signal {record.signal}")
    return f"it ended as it should after {(time.perf_counter() - began) * 1000:.0f} ms"


def _make_root(tree: Path) -> None:
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (tree / name).mkdir(parents=True)
    target = tree / PROGRAM.lstrip("/")
    shutil.copyfile(program("zos-init"), target)
    target.chmod(0o755)
