"""What can go wrong with a container."""

from __future__ import annotations

from native.errors import ZosError

__all__ = [
    "CommandNotExecutable",
    "CommandNotFound",
    "ContainerBusy",
    "ContainerExists",
    "ContainerNotRunning",
    "DirectoryUnusable",
    "ImageArchitecture",
    "LaunchFailed",
    "NoSuchContainer",
    "NoSuchExec",
    "PortUnavailable",
    "RequestChanged",
    "StartCalledOff",
]


class NoSuchContainer(ZosError):
    """No container of that name is known here."""

    code, http_status, exit_status = "container.no-such", 404, 50


class ContainerExists(ZosError):
    """The name is taken by another container."""

    code, http_status, exit_status = "container.exists", 409, 51


class RequestChanged(ZosError):
    """A request_id comes once more, with something else to start (API-AGAIN)."""

    code, http_status, exit_status = "container.request-changed", 409, 51


class ContainerNotRunning(ZosError):
    """The operation needs a running container."""

    code, http_status, exit_status = "container.not-running", 409, 52


class ContainerBusy(ZosError):
    """The operation needs a container that has ended."""

    code, http_status, exit_status = "container.running", 409, 53


class NoSuchExec(ZosError):
    """The container has no exec of that number."""

    code, http_status, exit_status = "container.no-such-exec", 404, 54


class LaunchFailed(ZosError):
    """A step of the launch failed; `step` and `errno` in the context say which and how."""

    code, http_status, exit_status = "container.launch-failed", 500, 55


class CommandNotFound(ZosError):
    """The command is not in the image (a shell's 127, see `zos run`)."""

    code, http_status, exit_status = "container.command-not-found", 400, 56


class CommandNotExecutable(ZosError):
    """The command is there but cannot be executed (a shell's 126, see `zos run`)."""

    code, http_status, exit_status = "container.command-not-executable", 400, 57


class DirectoryUnusable(ZosError):
    """The working directory that was asked for is none in the image, or leads out of it."""

    code, http_status, exit_status = "container.directory-unusable", 400, 58


class StartCalledOff(ZosError):
    """Whoever had asked for the container has called its start off; nothing is left of it."""

    code, http_status, exit_status = "container.start-called-off", 409, 62


class PortUnavailable(ZosError):
    """A port that was to be published is taken, or its address is none of this machine; context: `listen`."""

    code, http_status, exit_status = "container.port-unavailable", 409, 63


class ImageArchitecture(ZosError):
    """The programs of the image are for another machine."""

    code, http_status, exit_status = "container.image-architecture", 422, 59
