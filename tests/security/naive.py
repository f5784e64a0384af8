"""The careless engine: mounts and writes by path, changes the root and no more, masks by the image's own
node, joins names. What our engine is compared with.

To be called in `in_own_mount_namespace`, and what writes outside of its directory below a root of the test's own.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.erofs_reader import Node
from tests.mounts import MS_BIND, mount

__all__ = ["extract_by_joining", "in_jail", "mask_by_path", "mount_by_path", "overlaid", "write_by_path"]


def mount_by_path(at: Path) -> list[str]:
    """Mount something at a path in an image; where it came to lie, which is what the kernel says."""
    before = _mount_points()
    mount("tmpfs", at)
    return [point for point in _mount_points() if point not in before]


def _mount_points() -> list[str]:
    return [line.split()[4] for line in Path("/proc/thread-self/mountinfo").read_text().splitlines()]


def mask_by_path(root: Path, masked: Sequence[str]) -> list[Path]:
    """Mount proc, and the image's /dev/null over files in it; where these are."""
    (root / "proc").mkdir(exist_ok=True)
    mount("proc", root / "proc")
    files = [root / path.lstrip("/") for path in masked]
    for file in files:
        mount("", file, source=root / "dev/null", flags=MS_BIND)
    return files


def overlaid(lower: Sequence[Path], at: Path, options: str) -> Path:
    """An overlay of several images, as engines make it of the layers of one."""
    at.mkdir()
    mount("overlay", at, options=f"lowerdir={':'.join(map(str, lower))},{options}")
    return at


def extract_by_joining(node: Node, at: bytes) -> None:
    """The directories and files of a tree, each at the path that its name makes when it is joined to what is above."""
    os.makedirs(at, exist_ok=True)
    for name, child in node.children.items():
        path = os.path.join(at, name)
        if stat.S_ISDIR(child.mode):
            extract_by_joining(child, path)
        elif stat.S_ISREG(child.mode):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb"):
                pass


def in_jail(root: Path, *command: str, pass_fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    """A program of the tree's below chroot alone, with the host's processes, and whatever descriptors there are."""
    mount("proc", root / "proc")
    run = ["chroot", str(root), f"/bin/{command[0]}", *command[1:]]
    return subprocess.run(run, capture_output=True, text=True, timeout=60, pass_fds=pass_fds)


def write_by_path(pid: int, path: str, text: str) -> None:
    """Join the mounts of a container, and write to a file by the name that it has there."""
    script = ["/bin/sh", "-c", f"printf '{text}' > {path}"]
    subprocess.run(["nsenter", "--target", str(pid), "--mount", *script], check=True, timeout=60)
