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
    "--instance",
    default="zos",
    metavar="NAME",
    complete="",
    help="which of several nodes of this machine (default: zos)",
)
ENV_HELP = "set an environment variable; may be repeated"
WORKDIR_HELP = "directory in the image in which the command starts (default: /)"
NAME = argument("name", metavar="NAME", complete="zos_core.commands:container_names", help="name of the container")

UP = Verb(
    summary="Start this machine's node, or find it running",
    handler="zos_core.commands:up",
    arguments=(INSTANCE,),
    examples=(
        ("zos up", "start the node and show its processes"),
        ("zos up --instance test", "a second node beside the first; give the other verbs --instance test, too"),
    ),
    details=(
        "Needs root, and asks sudo for it; the other verbs are then for you, too.\n"
        "Starting twice is no error: one call starts the node, the others wait and report the same node."
    ),
)
DOWN = Verb(
    summary="Stop the containers with grace, then the node",
    handler="zos_core.commands:down",
    arguments=(
        INSTANCE,
        argument(
            "--grace", type=float, default=10.0, metavar="S", help="seconds between SIGTERM and the kill (default: 10)"
        ),
        argument("--purge", action="store_true", help="delete the node's state too: layers, logs, fetched images"),
    ),
    examples=(
        ("zos down", "stop; containers, their layers and fetched images are kept for the next zos up"),
        ("zos down --purge", "leave nothing; your keys and your own store stay"),
    ),
    details="Needs root, and asks sudo for it. That no node runs is no error.",
)
RUN = Verb(
    summary="Run a command in a new container, its image fetched while it runs",
    handler="zos_core.commands:run",
    arguments=(
        INSTANCE,
        argument("image", metavar="IMAGE|FILE", help="[publisher/]name[:tag][@digest] in the store, or a .flist file"),
        argument(
            "--store",
            metavar="DIR-or-URL",
            complete="dir",
            help="a directory, or a hub such as http://127.0.0.1:7080 (default: your own store)",
        ),
        argument("--unsigned", action="store_true", help="accept a FILE that nobody you trust has signed"),
        argument(
            "--name",
            metavar="N",
            complete="",
            help="name of the container (default: made from the image's, with a number)",
        ),
        argument("--rm", action="store_true", help="remove the container when it has ended"),
        argument("-d", "--detach", action="store_true", help="do not wait for its end; print its name"),
        argument(
            "-p",
            "--publish",
            action="append",
            default=[],
            complete="",
            metavar="[ADDR:]HERE:INSIDE",
            help="let TCP port HERE of this machine lead to port INSIDE of the container; HERE 0: any free one; "
            "ADDR: default 127.0.0.1, 0.0.0.0 opens it to the network; may be repeated",
        ),
        argument("-e", "--env", action="append", default=[], complete="", metavar="K=V", help=ENV_HELP),
        argument("--workdir", default="/", complete="", metavar="DIR", help=WORKDIR_HELP),
        argument(
            "--memory", complete="", metavar="SIZE", help="memory limit in bytes, or with K, M, G (default: none)"
        ),
        argument("--cpus", complete="", metavar="N", help="limit in CPUs, such as 0.5 (default: none)"),
        argument(
            "--provider",
            choices=["file", "loop", "full", "extract"],
            help="how the image is mounted (default: the best that works here): file, loop: fetched while it runs; "
            "full, extract: fetched before",
        ),
    ),
    command=True,
    exit_status_of=shell_status,
    examples=(
        ("zos run --rm web -- python3 -V", "run from your own store, remove afterwards"),
        ("zos run -d -e COLOUR=red --memory 256M --cpus 0.5 web -- CMD", "in the background, within limits"),
        ("zos run -d --name site -p 8080:80 --store http://127.0.0.1:7080 alice/web -- nginx", "from a hub"),
    ),
    details=(
        "The exit status is the command's; 125: zos failed, 126: cannot be executed, 127: not found.\n"
        "Ctrl-C goes to the container; a second one within 2 s kills it.\n"
        "A limit that this machine cannot enforce does not stop it: `zos inspect` says which is unenforced, and why."
    ),
)
PS = Verb(
    summary="List the containers",
    handler="zos_core.commands:ps",
    arguments=(INSTANCE,),
    examples=(
        ("zos ps", "every container, running or ended"),
        ("zos ps --json", "their whole states, one in a line"),
    ),
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
    arguments=(INSTANCE, argument("-f", "--follow", action="store_true", help="go on until the container ends"), NAME),
    examples=(("zos logs -f site", "what it printed, and what it prints from now on"),),
    details="Its stdout comes on stdout, its stderr on stderr. Ended containers have logs until they are removed.",
)
EXEC = Verb(
    summary="Run one more command in a running container",
    handler="zos_core.commands:exec_",
    arguments=(
        INSTANCE,
        argument("-e", "--env", action="append", default=[], complete="", metavar="K=V", help=ENV_HELP),
        argument("--workdir", default="/", complete="", metavar="DIR", help=WORKDIR_HELP),
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
        argument(
            "--grace", type=float, default=10.0, metavar="S", help="seconds between SIGTERM and the kill (default: 10)"
        ),
        NAME,
    ),
    examples=(
        ("zos stop site", "ended within ten seconds"),
        ("zos stop --grace 60 site", "give it a minute"),
    ),
    details="It stays in `zos ps` with its output, until `zos rm`.",
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
            help="judge as if it were missing: fuse, erofs, erofs_file_backed, loop_control, detached_layers or "
            "overlay; may be repeated",
        ),
    ),
    examples=(
        ("sudo zos doctor", "try everything, a container included"),
        ("zos doctor --json", "the same for a program; without root, what can be tried without"),
    ),
    details="The exit status is 0 if containers can run, 77 if not. Nothing is left of what was tried.",
)
