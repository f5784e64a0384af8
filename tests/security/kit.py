"""Attack programs, a host that is compared before and after, and images that carry what nobody should run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.machine import SYSCTLS
from tests.e2e.node_tool import Node, zos
from tests.integration.spawn_kit import Tree, make_tree, program

__all__ = [
    "ALL_CAPABILITIES",
    "PROGRAMS",
    "attack_node",
    "build_programs",
    "disk",
    "host_state",
    "put_programs",
    "verdicts",
]

PROGRAMS = Path(__file__).parent / "programs"
ALL_CAPABILITIES = list(range(41))
# What a program in a container would change if it got out: kernel knobs that start programs of its choice, files that
# programs of the host read, and nodes that it shares with the host.
KNOBS = (
    *(f"/proc/sys/{name}" for name in SYSCTLS),
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/vm/overcommit_memory",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/profiling",
)
FILES = ("/etc/passwd", "/etc/shadow", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/bin/sh")
NODES = ("null", "zero", "full", "random", "urandom", "tty")
LISTED = ("/", "/etc", "/tmp", "/dev", "/sys/fs/cgroup", "/proc/sys/fs/binfmt_misc", "/run")
MARK = "zos-attack"


def host_state() -> dict[str, str]:
    """What has to be the same after an attack as before it."""
    state = {}
    for path in KNOBS:
        state[path] = _text(Path(path))
    for path in (*FILES, str(program())):
        state[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).exists() else "-"
    for name in NODES:
        found = os.stat(f"/dev/{name}", follow_symlinks=False)
        state[f"/dev/{name}"] = f"{found.st_mode:o} {found.st_uid} {found.st_gid} {found.st_rdev}"
    # Others make and remove files of the machine as well: here count those that our attacks would make.
    for path in LISTED:
        names = os.listdir(path) if os.path.isdir(path) else []
        state[f"{path}/{MARK}*"] = " ".join(sorted(name for name in names if MARK in name))
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    state["mounts"] = "\n".join(line for line in mounts if MARK in line or " /proc/sys" in line)
    return state


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        return f"errno {error.errno}"


def build_programs(directory: Path) -> Path:
    """Compile every attack program, static, so that it runs in any container."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    directory.mkdir(exist_ok=True)
    for source in sorted(PROGRAMS.glob("*.c")):
        command = [compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-o", str(directory / source.stem)]
        subprocess.run([*command, str(source)], check=True, capture_output=True, text=True)
    return directory


def put_programs(programs: Path, tree: Path) -> None:
    """Into /bin of an image."""
    for path in programs.iterdir():
        shutil.copy2(path, tree / "bin" / path.name)


def disk() -> str:
    """`major:minor` of a block device of this machine."""
    for path in sorted(Path("/sys/block").iterdir()):
        if not path.name.startswith(("loop", "ram", "zram")):
            return (path / "dev").read_text().strip()
    pytest.skip("this machine has no disk to attack")


def verdicts(output: str) -> dict[str, str]:
    """Lines `<name> <verdict>` of an attack program."""
    return dict(line.rsplit(" ", 1) for line in output.splitlines())


def run_outside(programs: Path, *arguments: str, pass_fds: tuple[int, ...] = (), user: int | None = None) -> str:
    """An attack program on the host itself: what it prints where nothing holds it."""
    done = subprocess.run(
        [str(programs / arguments[0]), *arguments[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        pass_fds=pass_fds,
        user=user,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_inside(tree: Tree, *arguments: str, **changes: object) -> str:
    """An attack program in a container, launched by spawn's own protocol; what it prints."""
    status, out, err = tree.run(f"/bin/{arguments[0]}", *arguments[1:], **changes)
    assert (status, err) == (0, ""), (status, out, err)
    return out


def build_image(tree: Path, store: Path, name: str) -> None:
    """`zos flist build`, as a publisher does it."""
    done = zos("flist", "build", str(tree), "--name", name, "--store", str(store), "-o", str(store / f"{name}.flist"))
    assert done.status == 0, done.err


@contextmanager
def attack_node(directory: Path, programs: Path) -> Iterator[Node]:
    """A real node and a store with the image `attack`: busybox and the attack programs."""
    tree, store = directory / "tree", directory / "store"
    make_tree(tree)
    put_programs(programs, tree)
    (tree / "dev").mkdir()
    (tree / "etc/mark").write_text("mark\n")
    store.mkdir()
    build_image(tree, store, "attack")
    node = Node(store=store, config=store)
    node.up()
    try:
        yield node
    finally:
        node.down()
