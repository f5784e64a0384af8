"""`zos flist mount` and `unmount`: an image on a directory of the host, without a supervisor.

Each such mount has a process tree of its own, hold with spawn and blockd alone, under an instance name made from the
directory; so the machinery, and what survives a crash of blockd, is that of a node.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shlex
import shutil
from pathlib import Path

from blake3 import blake3

from flist.manifest import SignedManifest
from flist.mount import ImageMounts, MountedImage, MountFailed, image_sources
from flist.providers import Provider
from native.errors import ZosError
from native.kernel import attach_mount
from native.kernel import unmount as kernel_unmount
from zos_core.base.paths import Instance
from zos_core.base.peer import Peer
from zos_core.base.programs import Dropped, Names, Nothing
from zos_core.base.tree import (
    Listener,
    Table,
    blockd_service,
    end_strays,
    end_tree,
    hold_channel,
    is_running,
    spawn_service,
    start_tree,
    up_lock,
)

__all__ = ["MountBusy", "NotMounted", "mount", "unmount"]

REQUEST_TIMEOUT_S = 30.0


class MountBusy(ZosError):
    """The directory carries an image already, or is still in use."""

    code, http_status, exit_status, retryable = "flist.mount-busy", 409, 48, True


class NotMounted(ZosError):
    """No image was mounted there by `zos flist mount`."""

    code, http_status, exit_status = "flist.not-mounted", 404, 49


def mount_instance(target: Path) -> Instance:
    """The instance that carries the mount of a directory."""
    return Instance(f"m-{blake3(os.fsencode(target.resolve())).hexdigest()[:12]}")


async def mount(image: SignedManifest, store: str, target: Path, *, provider: Provider | None) -> MountedImage:
    """Mount an image on the directory `target`, fetched from `store` (URL or directory) as it is read.

    Raises:
        MountBusy: an image is mounted there already.
        MountFailed: `target` is no directory, or a step failed; nothing of it is left.
        ProviderUnavailable: the provider that was asked for does not work here.
    """
    if not target.is_dir():
        raise MountFailed(f"{target} is not a directory", hint="make it first: mkdir", path=str(target))
    target = target.resolve()  # a link to a directory is that directory
    how_to_unmount = f"zos flist unmount {shlex.quote(str(target))}"
    instance = mount_instance(target)
    async with up_lock(instance):
        if is_running(instance):
            raise MountBusy(f"an image was mounted on {target} already", hint=how_to_unmount, path=str(target))
        if instance.state_dir.exists():
            raise MountBusy(
                f"{target} was not unmounted when its process tree was killed",
                hint=how_to_unmount,
                path=str(target),
            )
        instance.state_dir.mkdir(mode=0o700, parents=True)
        table = Table(
            instance=instance.name,
            run_dir=str(instance.run_dir),
            log_dir=str(instance.log_dir),
            listeners=[Listener(name=name, path=f"{name}.sock") for name in ("spawn", "blockd")],
            services=[spawn_service(instance.state_dir), blockd_service()],
        )
        try:
            await start_tree(instance, table)
            return await _attach(instance, image, store, target, provider)
        except BaseException:
            if is_running(instance):
                await asyncio.shield(end_tree(instance))
            _forget(instance)
            raise


async def _attach(
    instance: Instance, image: SignedManifest, store: str, target: Path, provider: Provider | None
) -> MountedImage:
    spawn, blockd = Peer(instance.socket("spawn")), Peer(instance.socket("blockd"))
    try:
        async with hold_channel(instance) as hold:
            images = ImageMounts(hold=hold, spawn=spawn, blockd=blockd, state_dir=instance.state_dir)
            mounted = await images.ensure(image, image_sources(store), forced=provider)
            _, descriptors = await hold.request(
                "get", Names(names=[f"mnt/{mounted.digest}"]), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S
            )
            try:
                attach_mount(descriptors[0], target)
            finally:
                os.close(descriptors[0])
            try:
                # A descriptor of what is attached would keep it busy for ever.
                await hold.request(
                    "drop", Names(names=[f"mnt/{mounted.digest}"]), reply=Dropped, timeout_s=REQUEST_TIMEOUT_S
                )
            except BaseException:
                kernel_unmount(target)
                raise
            return mounted
    finally:
        await spawn.aclose()
        await blockd.aclose()


async def unmount(target: Path) -> None:
    """Take the image off `target` and end its process tree.

    Raises:
        NotMounted: none was mounted there.
        MountBusy: a process has a file of it open; nothing was changed.
    """
    target = target.resolve()
    instance = mount_instance(target)
    async with up_lock(instance):
        running = is_running(instance)
        # Without a process tree, but with what it kept: it was killed, and its mount may still be there.
        if not running and not instance.state_dir.exists():
            raise NotMounted(f"no image is mounted on {target}", path=str(target))
        try:
            if _carries_image(target, instance):  # if not, somebody has taken it off already; its tree is ours to end
                kernel_unmount(target)
        except OSError as error:
            raise MountBusy(
                f"{target} cannot be unmounted: {error.strerror}",
                hint="a process works in it or has a file of it open" if error.errno == errno.EBUSY else None,
                path=str(target),
            ) from error
        if running:
            await end_tree(instance)
        else:
            await end_strays(instance)
        _forget(instance)


def _carries_image(target: Path, instance: Instance) -> bool:
    """Whether what is mounted on top of `target`, resolved, is EROFS or a tree of ours, by proc_pid_mountinfo(5)."""
    point = os.fsencode(target)
    top: list[bytes] = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        words = line.split(b" ")
        if _unescaped(words[4]) == point:
            top = words
    tree = f"/{instance.name}/images/".encode()
    return bool(top) and (top[top.index(b"-") + 1] == b"erofs" or tree in _unescaped(top[3]))


def _unescaped(word: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), word)


def _forget(instance: Instance) -> None:
    """Delete what the instance kept; its run directory goes with its start lock."""
    if instance.state_dir.exists():
        shutil.rmtree(instance.state_dir)
