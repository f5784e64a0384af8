"""Processes of containers: made by spawn, kept and told of by hold, each once whoever dies meanwhile."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from flist.manifest import SignedManifest
from flist.mount import READ_DEADLINE_MS, ImageMounts
from zos_core.base.frame import PeerGone, RemoteError
from zos_core.base.peer import Requester
from zos_core.base.programs import (
    After,
    Children,
    Empty,
    Exec,
    ExitRecord,
    Exits,
    Kill,
    Launch,
    Launched,
    Nothing,
    Probe,
)
from zos_core.containers.errors import CommandNotExecutable, CommandNotFound, DirectoryUnusable, LaunchFailed
from zos_core.supervisor.tasks import Tasks

__all__ = ["REQUEST_TIMEOUT_S", "Identity", "Launcher", "closing"]

# What a process is to hold: its name and generation.
Identity = tuple[str, int]

REQUEST_TIMEOUT_S = 30.0
# execve reads from the image, and each read waits for as long as blockd lets it (READ_DEADLINE_MS).
LAUNCH_TIMEOUT_S = 2 * READ_DEADLINE_MS / 1000 + 30.0
# A launch is asked of spawn again when spawn died before it had begun with it, this many times.
SPAWN_TRIES_MAX = 5
# execve(2): what is wrong with the command or with what was given to it, and not with this machine. EPERM is said of a
# file whose capabilities are more than a container may have.
COMMAND_ERRORS = (errno.E2BIG, errno.ENAMETOOLONG, errno.ELOOP, errno.EPERM)
LAUNCH_HINT = "this machine refused the step; spawn.log in the log directory of the instance may say more"


class Launcher:
    """Asks spawn and hold for processes."""

    def __init__(self, *, hold: Requester, spawn: Requester, images: ImageMounts, tasks: Tasks) -> None:
        self._hold = hold
        self._spawn = spawn
        self._images = images
        self._tasks = tasks

    async def start(
        self,
        operation: str,
        body: Launch | Exec,
        command: str,
        name: str,
        *,
        image: SignedManifest | None = None,
        read_error: Callable[[], str | None],
    ) -> int:
        """The pid of a new process of the container `name`; spawn's refusal as the error a user knows.

        Args:
            operation: `launch` or `exec`.
            body: what spawn is asked.
            command: the program as the user named it.
            name: of the container.
            image: is mounted anew where its mount has died with a spawn.
            read_error: why a read of the image has failed last, if one has.

        Raises:
            CommandNotFound, CommandNotExecutable, DirectoryUnusable: the request is at fault.
            LaunchFailed: the machine, or the image, is.
        """
        try:
            # A program that is being loaded waits for its image: killed, it does so no longer.
            kill = partial(self.kill, body.name, signal.SIGKILL)
            return await self._tasks.to_its_end(self._once(operation, body, image), hurry=kill)
        except RemoteError as error:
            if error.remote_code == "spawn.not-found":
                if error.hint is not None:  # there is such a file
                    raise CommandNotFound(f"{command!r} cannot be started: {error.hint}", name=name) from error
                raise CommandNotFound(
                    f"the image has no command {command!r}",
                    hint="give a command after -- that exists in the image",
                    name=name,
                ) from error
            if error.remote_code == "spawn.not-executable":
                raise CommandNotExecutable(
                    f"{command!r} cannot be executed: {error}", hint=error.hint, name=name
                ) from error
            if error.step == "chdir":
                raise DirectoryUnusable(
                    f"the working directory {os.fsdecode(body.cwd)!r} cannot be entered: {error}",
                    hint="it must be a directory in the image: --workdir DIR",
                    name=name,
                ) from error
            if (error.step or "").startswith("execve") and error.errno in COMMAND_ERRORS:
                raise CommandNotExecutable(f"{command[:80]!r} cannot be executed: {error}", name=name) from error
            raise LaunchFailed(
                f"{operation} of {name!r} failed: {error}",
                hint=error.hint or _hint(error, read_error()),
                name=name,
                step=error.step,
                errno=None if error.errno is None else errno.errorcode.get(error.errno, str(error.errno)),
            ) from error

    async def _once(self, operation: str, body: Launch | Exec, image: SignedManifest | None) -> int:
        """The pid of a new process; it is made once, though spawn may die while it is asked.

        A mount of `image` that a spawn took with it when it died is made anew.
        """
        for _ in range(SPAWN_TRIES_MAX):
            try:
                launched, descriptors = await self._spawn.request(
                    operation, body, reply=Launched, timeout_s=LAUNCH_TIMEOUT_S
                )
            except PeerGone:
                alive, ended = await self.made()
                pid = alive.get((body.name, body.generation), ended.get((body.name, body.generation)))
                if pid is not None:
                    return pid
            except RemoteError as error:
                if error.remote_code != "spawn.image-not-mounted" or image is None:
                    raise
                await self._images.mount_again(image)
            else:
                with closing(descriptors):
                    return launched.pid
        raise LaunchFailed(
            f"spawn died {SPAWN_TRIES_MAX} times while it was asked to {operation} {body.name!r}",
            hint="its log says why: spawn.log in the log directory of the instance",
            name=body.name,
        )

    async def made(self) -> tuple[dict[Identity, int], dict[Identity, int]]:
        """Pids of the processes that live, and of those whose end is not acknowledged, by name and generation.

        Nothing comes to them by what a dead supervisor, or a dead spawn, had under way: spawn begins nothing more for a
        connection that has ended (SPAWN-GONE), and hold has carried out what an ended service had sent (HOLD-RESTART),
        before a request after that is answered.
        """
        await self._spawn.request("probe", Empty(), reply=Probe, timeout_s=REQUEST_TIMEOUT_S)
        children, _ = await self._hold.request("children", Empty(), reply=Children, timeout_s=REQUEST_TIMEOUT_S)
        alive = {(child.name, child.generation): child.pid for child in children.children}
        ended = {(record.name, record.generation): record.pid for record in await self.exits()}
        return alive, ended

    async def exits(self) -> list[ExitRecord]:
        """Every exit that hold keeps, in order; it tells of so many at a time (hold.md, `exits`)."""
        kept: list[ExitRecord] = []
        while True:
            after = After(after=kept[-1].seq if kept else 0)
            more, _ = await self._hold.request("exits", after, reply=Exits, timeout_s=REQUEST_TIMEOUT_S)
            if not more.exits:
                return kept
            kept += more.exits

    async def kill(self, process: str, number: int) -> None:
        """Send a signal to a process by its name; one that has ended is no error."""
        try:
            await self._hold.request(
                "kill", Kill(name=process, signal=number), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S
            )
        except RemoteError as error:
            if error.remote_code != "hold.missing":
                raise


def _hint(error: RemoteError, read_error: str | None) -> str:
    if error.errno == errno.EIO and read_error is not None:
        return f"a read of the image failed: {read_error}"
    return LAUNCH_HINT


@contextmanager
def closing(descriptors: list[int]) -> Iterator[None]:
    """Close descriptors that came with a reply when the block ends."""
    try:
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
