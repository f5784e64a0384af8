"""The node's verbs: declarations only; their handlers are imported when one is called."""

from __future__ import annotations

from argparse import ArgumentTypeError

from native.errors import ZosError
from zos_core.base.verbs import Verb, argument

__all__ = ["DOCTOR", "DOWN", "EXEC", "INSPECT", "LOGS", "PS", "RM", "RUN", "STOP", "UP"]

# A shell's statuses, as podman has them: zos itself failed, cannot be executed, not found.
ZOS_FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
STATUS_BY_CODE = {
    "container.command-not-executable": NOT_EXECUTABLE,
    "container.command-not-found": NOT_FOUND,
}


def _lines(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)


def shell_status(error: ZosError) -> int:
    """Exit status of `zos run` and `zos exec` when it is not the container's own."""
    return STATUS_BY_CODE.get(error.code, ZOS_FAILED)


INSTANCE = argument(
    "--instance",
    default="zos",
    metavar="NAME",
    complete="",
    help="name of the node, where this machine has several (default: zos)",
)
OF_COMMAND = (
    "that of CMD, 128 + N if signal N ended it;\n"
    "  125 if zos itself failed, 126 if CMD cannot be executed, 127 if the container has no such program"
)
ENV_HELP = "set an environment variable; may be repeated"
WORKDIR_HELP = "directory of the container in which the command starts (default: /)"
GRACE_HELP = "seconds between SIGTERM and SIGKILL (default: 10)"
NAME = argument("name", metavar="NAME", complete="zos_core.commands:container_names", help="name of the container")

UP = Verb(
    summary="Start this machine's node, or show the one that runs",
    handler="zos_core.commands:up",
    arguments=(INSTANCE,),
    examples=(
        ("zos up", "start the node and show its processes"),
        ("zos up --instance test", "a second node beside the first; give the other verbs --instance test, too"),
    ),
    details=(
        "Needs root, and asks sudo for it. The node then answers root and the user who ran `zos up`,\n"
        "so run, ps, inspect, logs, exec, stop and rm need no root.\n"
        "A node that runs already is shown, and nothing is started. Where `zos` says that hold, the process that\n"
        "keeps all others, is gone, `zos up` takes everything back; the containers run on meanwhile."
    ),
)
DOWN = Verb(
    summary="Stop every container, then the node",
    handler="zos_core.commands:down",
    arguments=(
        INSTANCE,
        argument("--grace", type=float, default=10.0, metavar="S", help=GRACE_HELP),
        argument(
            "--purge",
            action="store_true",
            help="delete what the node keeps, too: the containers' files and output, fetched images",
        ),
    ),
    examples=(
        ("zos down", "stop; ended containers, their files and fetched images are there again after the next zos up"),
        ("zos down --purge", "leave nothing; your keys and your own store stay"),
    ),
    details="Needs root, and asks sudo for it. It is no error if no node runs.",
)
RUN = Verb(
    summary="Run a command in a new container, its image fetched while it runs",
    handler="zos_core.commands:run",
    arguments=(
        INSTANCE,
        argument("image", metavar="IMAGE", help="[hub/][publisher/]name[:tag][@digest], or a .flist file"),
        argument(
            "--store",
            metavar="DIR-or-URL",
            complete="dir",
            help="where the image is: a directory, or a hub such as http://127.0.0.1:7080 (default: your own store)",
        ),
        argument("--unsigned", action="store_true", help="accept a .flist file that nobody you trust has signed"),
        argument(
            "--name",
            metavar="NAME",
            complete="",
            help="name of the container (default: the image's, with six random hexadecimal digits)",
        ),
        argument("--rm", action="store_true", help="remove the container when it has ended"),
        argument(
            "-d",
            "--detach",
            action="store_true",
            help="run it in the background: print its name, and do not wait for its end",
        ),
        argument(
            "-p",
            "--publish",
            action="append",
            default=[],
            complete="",
            metavar="[ADDR:]HERE:INSIDE",
            help="TCP port HERE of this machine leads to port INSIDE of the container; HERE 0: any free one, "
            "which `zos ps` shows; ADDR: 0.0.0.0 opens it to the network (default: 127.0.0.1); may be repeated",
        ),
        argument("-e", "--env", action="append", default=[], complete="", metavar="K=V", help=ENV_HELP),
        argument("--workdir", default="/", complete="", metavar="DIR", help=WORKDIR_HELP),
        argument(
            "--memory",
            complete="",
            metavar="SIZE",
            help="memory limit in bytes, or with K, M, G, powers of 1024 (default: none)",
        ),
        argument("--cpus", complete="", metavar="N", help="limit of CPU time in CPUs, such as 0.5 (default: none)"),
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
        ("zos run --rm web -- python3 -V", "from your own store; remove the container afterwards"),
        (
            "zos run -d -e COLOUR=red --memory 256M --cpus 0.5 web -- python3 -m http.server",
            "in the background, within limits",
        ),
        ("zos run -d --name site -p 8080:80 --store http://127.0.0.1:7080 alice/web -- nginx", "from a hub"),
    ),
    details=(
        "Needs a node (`zos up`). CMD is a program of the image, which has no command of its own; it runs as the\n"
        "container's root, in the container's network, without terminal and standard input.\n"
        "Without -d its output is shown until it ends; Ctrl-C goes to it, a second one within 2 s kills it.\n"
        "An ended container stays in `zos ps` with its files and output until `zos rm`, unless --rm was given.\n"
        "A limit that this machine cannot enforce does not stop it: `zos inspect` says which is unenforced, and why.\n"
        "With --json, -d prints the container's state; without -d only errors are JSON, output comes as it is."
    ),
    statuses=f"{OF_COMMAND}\n  with -d 0 once it has started",
)
PS = Verb(
    summary="List the containers",
    handler="zos_core.commands:ps",
    arguments=(INSTANCE,),
    examples=(
        ("zos ps", "every container, running or ended"),
        ("zos ps --json", "all that `zos inspect` shows, one line for each container"),
    ),
    details="Those that have ended are listed until `zos rm`. PROVIDER is how the image is mounted (`zos run --help`).",
)
INSPECT = Verb(
    summary="Show everything about a container",
    handler="zos_core.commands:inspect",
    arguments=(INSTANCE, NAME),
    examples=(("zos inspect site", "image, how it is mounted and why, limits in force, network and what it lacks"),),
    details="Prints one JSON object: indented, or with --json in one line.",
)
LOGS = Verb(
    summary="Show the output of a container",
    handler="zos_core.commands:logs",
    arguments=(
        INSTANCE,
        argument("-f", "--follow", action="store_true", help="show what it prints from now on, too, until it ends"),
        argument("-n", "--tail", type=_lines, metavar="LINES", help="show only so many lines of what it has printed"),
        NAME,
    ),
    examples=(
        ("zos logs -f site", "what it printed, and what it prints from now on"),
        ("zos logs -n 20 site", "the last 20 lines, of stdout and stderr together"),
    ),
    details=(
        "Its stdout comes on stdout, its stderr on stderr, where it is said, too, if output was lost (a full disk) or\n"
        "is no longer kept (its files have a limit). An ended container has its output until `zos rm`.\n"
        "With --json only errors are JSON, output comes as it is."
    ),
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
    examples=(("zos exec site -- ls /srv", "show its output, end with its exit status"),),
    details=(
        "Without terminal and standard input. Ctrl-C ends `zos exec`, not the command: that goes on until it ends,\n"
        "or the container does. With --json only errors are JSON, output comes as it is."
    ),
    statuses=OF_COMMAND,
)
STOP = Verb(
    summary="Stop a container: SIGTERM, and SIGKILL if it does not end",
    handler="zos_core.commands:stop",
    arguments=(
        INSTANCE,
        argument("--grace", type=float, default=10.0, metavar="S", help=GRACE_HELP),
        NAME,
    ),
    examples=(
        ("zos stop site", "SIGTERM, and SIGKILL if it still runs after ten seconds"),
        ("zos stop --grace 60 site", "give it a minute to end by itself"),
    ),
    details="Waits for its end. It stays in `zos ps` with its files and output until `zos rm`.",
)
RM = Verb(
    summary="Remove an ended container, its files and its output",
    handler="zos_core.commands:rm",
    arguments=(INSTANCE, argument("-f", "--force", action="store_true", help="kill it first, if it runs"), NAME),
    examples=(("zos rm site", "an ended container"), ("zos rm -f site", "a running one too")),
)
DOCTOR = Verb(
    summary="Try whether this machine can run containers, and how well",
    handler="zos_core.doctor.verb:doctor",
    arguments=(
        argument(
            "--without",
            action="append",
            default=[],
            metavar="FEATURE",
            complete="",
            help="try as if this machine lacked it: fuse, erofs, erofs-file-backed, loop, detached-layers or "
            "overlay; may be repeated; needs root",
        ),
    ),
    examples=(
        ('sudo "$(command -v zos)" doctor', "try everything, a container included"),
        ("zos doctor --json", "the same for a program; without root, only what can be tried without"),
    ),
    details=(
        "Nothing is left of what was tried. Rows, of which 1 is the best, are those of docs/machines.md.\n"
        "If containers cannot run here, the last line is the command that would help."
    ),
    statuses="0 if containers can run here, 77 if they cannot (also where it was tried without root)",
)
