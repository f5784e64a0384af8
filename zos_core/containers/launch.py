"""From a request to spawn's Launch: pure, no clock, no disk, no await."""

from __future__ import annotations

from zos_core.base.programs import Exec, Launch, Rlimit, User
from zos_core.containers.document import ExecRequest, RunRequest

__all__ = ["CAPABILITIES", "DEFAULT_PATH", "MASKED", "READONLY", "plan_exec", "plan_launch"]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# capabilities(7), podman's default set: moby's without MKNOD, NET_RAW and AUDIT_WRITE.
CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "SYS_CHROOT": 18,
    "SETFCAP": 31,
}

# moby's default masked and read-only paths: what proc and sysfs tell, or let one change, about the whole machine.
MASKED = [
    b"/proc/acpi",
    b"/proc/asound",
    b"/proc/interrupts",
    b"/proc/kcore",
    b"/proc/keys",
    b"/proc/latency_stats",
    b"/proc/sched_debug",
    b"/proc/scsi",
    b"/proc/timer_list",
    b"/proc/timer_stats",
    b"/sys/devices/virtual/powercap",
    b"/sys/firmware",
]
READONLY = [b"/proc/bus", b"/proc/fs", b"/proc/irq", b"/proc/sys", b"/proc/sysrq-trigger"]

# getrlimit(2). A container's own ceiling for descriptors; what the machine does not allow is reported by spawn.
RLIMIT_NOFILE = 7
RLIMIT_CORE = 4
NOFILE = 16_384
SHM_BYTES = 64 * 1024 * 1024


def environment(name: str, requested: list[str]) -> list[bytes]:
    """The container's environment: defaults first, each variable once, the request's value wins."""
    variables = {"PATH": DEFAULT_PATH, "HOME": "/root", "HOSTNAME": name}
    for entry in requested:
        key, _, value = entry.partition("=")
        variables[key] = value
    return [f"{key}={value}".encode(errors="surrogateescape") for key, value in variables.items()]


def plan_launch(
    request: RunRequest, *, generation: int, image: str, upper: str, work: str, netns: str, cgroup: str
) -> Launch:
    """Turn a request into the body of `launch` (spawn.md)."""
    return Launch(
        name=request.name,
        generation=generation,
        image=image,
        upper=upper,
        work=work,
        args=[argument.encode(errors="surrogateescape") for argument in request.args],
        env=environment(request.name, request.env),
        cwd=request.cwd.encode(errors="surrogateescape"),
        user=User(),
        hostname=request.name,
        netns=netns,
        cgroup=cgroup,
        readonly_root=False,
        rlimits=[
            Rlimit(resource=RLIMIT_NOFILE, soft=NOFILE, hard=NOFILE),
            Rlimit(resource=RLIMIT_CORE, soft=0, hard=0),
        ],
        capabilities=sorted(CAPABILITIES.values()),
        no_new_privileges=True,
        seccomp="default",
        masked=MASKED,
        readonly=READONLY,
        init=True,
        shm_bytes=SHM_BYTES,
        volatile=request.remove_on_exit,
    )


def plan_exec(container: RunRequest, request: ExecRequest, *, name: str, generation: int, cgroup: str) -> Exec:
    """Turn a request into the body of `exec` (spawn.md): the container's own environment, then the request's."""
    return Exec(
        name=name,
        generation=generation,
        target=container.name,
        args=[argument.encode(errors="surrogateescape") for argument in request.args],
        env=environment(container.name, container.env + request.env),
        cwd=request.cwd.encode(errors="surrogateescape"),
        user=User(),
        capabilities=sorted(CAPABILITIES.values()),
        cgroup=cgroup,
    )
