"""The careless engine: mounts by path and masks by the image's own node. What our engine is compared with.

To be called in `in_own_mount_namespace`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.mounts import MS_BIND, mount

__all__ = ["mask_by_path", "mount_by_path", "overlaid"]


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
