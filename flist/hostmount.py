"""`zos flist mount` and `unmount`: an image on a directory of the host, without a supervisor.

Each such mount has a process tree of its own, hold with spawn and blockd alone, under an instance name made from the
directory; so the machinery, and what survives a crash of blockd, is that of a node.
"""

from __future__ import annotations

import asyncio
import errno
import os
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
    instance = mount_instance(target)
    with up_lock(instance):
        if is_running(instance):
            raise MountBusy(f"an image is mounted on {target}", hint=f"zos flist unmount {target}", path=str(target))
        instance.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
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
            # A descriptor of what is attached would keep it busy for ever.
            await hold.request(
                "drop", Names(names=[f"mnt/{mounted.digest}"]), reply=Dropped, timeout_s=REQUEST_TIMEOUT_S
            )
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
    instance = mount_instance(target)
    with up_lock(instance):
        if not is_running(instance):
            _forget(instance)
            raise NotMounted(f"no image is mounted on {target}", path=str(target))
        try:
            kernel_unmount(target)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: somebody has taken it off already; its tree is ours to end
                raise MountBusy(
                    f"{target} cannot be unmounted: {error.strerror}",
                    hint="a process works in it or has a file of it open",
                    path=str(target),
                ) from error
        await end_tree(instance)
        _forget(instance)


def _forget(instance: Instance) -> None:
    """Delete what the instance kept; the caller has its start lock, whose file goes last."""
    for directory in (instance.state_dir, instance.run_dir):
        if directory.exists():
            shutil.rmtree(directory)
