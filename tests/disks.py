"""Small file systems that a test fills, each in a directory that the test made."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class SmallDisk:
    """A file system of its own in a directory that the test made."""

    directory: Path

    def fill(self) -> None:
        """Leave not a byte."""
        with open(self.directory / "ballast", "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))

    def free(self, *, keep: int = 0) -> None:
        """Make room again, all of it or `keep` bytes."""
        ballast = self.directory / "ballast"
        if keep:
            os.truncate(ballast, ballast.stat().st_size - keep)
        else:
            ballast.unlink()

    def grow(self, size: str) -> None:
        """Give it another size."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self.directory], check=True)

    def files(self) -> dict[str, bytes]:
        """What lies there, but the ballast."""
        found = (path for path in self.directory.rglob("*") if path.is_file() and path.name != "ballast")
        return {str(path.relative_to(self.directory)): path.read_bytes() for path in found}


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[SmallDisk]:
    directory.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "zos-test", directory], check=True)
    try:
        yield SmallDisk(directory)
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@contextmanager
def disk_file(file: Path, directory: Path, *, size: int) -> Iterator[SmallDisk]:
    """An ext4 of its own, for what must not lie on a tmpfs."""
    with open(file, "wb") as disk:
        disk.truncate(size)
    program = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip("no mkfs.ext4: apt-get install e2fsprogs")
    subprocess.run([program, "-q", "-m", "0", "-O", "^has_journal", file], capture_output=True, check=True)
    directory.mkdir(parents=True)
    subprocess.run(["mount", "-o", "loop", file, directory], check=True)
    try:
        yield SmallDisk(directory)
    finally:
        subprocess.run(["umount", directory], check=True)
