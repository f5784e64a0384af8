"""The node's verbs: declarations only; their handlers are imported when one is called."""

from __future__ import annotations

from native.errors import ZosError
from zos_core.base.verbs import Verb, argument

__all__ = ["DOCTOR", "DOWN", "EXEC", "INSPECT", "LOGS", "PS", "RM", "RUN", "STOP", "UP"]

# A shell's statuses, as podman has them: zos itself failed, cannot be executed, not found.
ZOS_FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
STATUS_BY_CODE = {
    "container.command-not-executable": NOT_EXECUTABLE,
    "container.command-not-found": NOT_FOUND,
}


def shell_status(error: ZosError) -> int:
    """Exit status of `zos run` and `zos exec` when it is not the container's own."""
    return STATUS_BY_CODE.get(error.code, ZOS_FAILED)


INSTANCE = argument(
    "--instance", default="zos", metavar="NAME", complete="", help="which node of this machine (default: zos)"
)
NAME = argument("name", metavar="NAME", complete="zos_core.commands:container_names", help="name of the container")

UP = Verb(
    summary="Start this machine's node, or find it running",
    handler="zos_core.commands:up",
    arguments=(INSTANCE,),
    examples=(("sudo zos up", "start the node and show its processes"),),
    details="Starting twice is no error: one call starts the node, the others wait and report the same node.",
)
DOWN = Verb(
    summary="Stop the containers with grace, then the node",
    handler="zos_core.commands:down",
    arguments=(
        INSTANCE,
        argument("--grace", type=float, default=10.0, metavar="S", help="seconds between SIGTERM and the kill"),
        argument("--purge", action="store_true", help="delete the node's state too: layers, logs, fetched images"),
    ),
    examples=(
        ("sudo zos down", "stop; state is kept for the next zos up"),
        ("sudo zos down --purge", "leave nothing"),
    ),
)
RUN = Verb(
    summary="Run a command in a new container, its image fetched while it runs",
    handler="zos_core.commands:run",
    arguments=(
        INSTANCE,
        argument("image", metavar="IMAGE|FILE", help="[publisher/]name[:tag][@digest] in the store, or a .flist file"),
        argument("--store", metavar="DIR-or-URL", help="where the image lies (default: your own store)"),
        argument("--unsigned", action="store_true", help="accept a FILE that nobody you trust has signed"),
        argument("--name", metavar="N", help="name of the container (default: made from the image's)"),
        argument("--rm", action="store_true", help="remove the container when it has ended"),
        argument("-d", "--detach", action="store_true", help="do not wait; print the name"),
        argument(
            "-p",
            "--publish",
            action="append",
            default=[],
            metavar="[ADDR:]PORT:PORT",
            help="publish a port of the container on the host (default address: 127.0.0.1)",
        ),
        argument("-e", "--env", action="append", default=[], metavar="K=V", help="set an environment variable"),
        argument("--workdir", default="/", metavar="DIR", help="directory in which the command starts"),
        argument("--memory", metavar="SIZE", help="memory limit, such as 256M"),
        argument("--cpus", metavar="N", help="CPU limit, such as 0.5"),
        argument(
            "--provider",
            choices=["file", "loop", "full", "extract"],
            help="how to mount the image (default: the best that works here)",
        ),
    ),
    command=True,
    exit_status_of=shell_status,
    examples=(
        ("zos run --rm web -- python3 -V", "run from your own store, remove afterwards"),
        ("zos run -d --name site -p 8080:80 --store http://127.0.0.1:7080 alice/web -- nginx", "from a hub"),
    ),
    details="The exit status is the container's; 125: zos failed, 126: cannot be executed, 127: not found. "
    "Ctrl-C goes to the container; a second one within 2 s kills it.",
)
PS = Verb(
    summary="List the containers",
    handler="zos_core.commands:ps",
    arguments=(INSTANCE,),
    examples=(("zos ps", "every container, running or ended"),),
)
INSPECT = Verb(
    summary="Show everything about a container",
    handler="zos_core.commands:inspect",
    arguments=(INSTANCE, NAME),
    examples=(("zos inspect site", "image, provider and why, limits in force, network and what it lacks"),),
)
LOGS = Verb(
    summary="Show the output of a container",
    handler="zos_core.commands:logs",
    arguments=(INSTANCE, argument("-f", "--follow", action="store_true", help="go on until it ends"), NAME),
    examples=(("zos logs -f site", "what it printed, and what it prints from now on"),),
)
EXEC = Verb(
    summary="Run one more command in a running container",
    handler="zos_core.commands:exec_",
    arguments=(
        INSTANCE,
        argument("-e", "--env", action="append", default=[], metavar="K=V", help="set an environment variable"),
        argument("--workdir", default="/", metavar="DIR", help="directory in which the command starts"),
        NAME,
    ),
    command=True,
    exit_status_of=shell_status,
    examples=(("zos exec site -- ls /srv", "its output and exit status are the command's"),),
)
STOP = Verb(
    summary="Stop a container: SIGTERM, grace, then the kill",
    handler="zos_core.commands:stop",
    arguments=(
        INSTANCE,
        argument("--grace", type=float, default=10.0, metavar="S", help="seconds between SIGTERM and the kill"),
        NAME,
    ),
    examples=(("zos stop site", "ended within ten seconds"),),
)
RM = Verb(
    summary="Remove a container, its writable layer and its output",
    handler="zos_core.commands:rm",
    arguments=(INSTANCE, argument("-f", "--force", action="store_true", help="kill it first if it runs"), NAME),
    examples=(("zos rm site", "an ended container"), ("zos rm -f site", "a running one too")),
)
DOCTOR = Verb(
    summary="Say what this machine can do, found by trying",
    handler="zos_core.doctor.verb:doctor",
    arguments=(
        argument(
            "--without",
            action="append",
            default=[],
            metavar="FEATURE",
            complete="",
            help="judge as if it were missing, such as erofs_file_backed",
        ),
    ),
    examples=(
        ("sudo zos doctor", "try everything, a container included"),
        ("zos doctor --json", "the same for a program; without root, what can be tried without"),
    ),
    details="The exit status is 0 if containers can run, 77 if not. Nothing is left of what was tried.",
)
