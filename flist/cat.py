"""The contents of one file of an image: only the units that hold it are fetched."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections import deque
from typing import BinaryIO

from flist.commands import load_image
from flist.erofs_reader import MetaImage
from flist.names import store_of
from flist.places import places_of
from flist.reader import RUN_BYTES_MAX, ImageReader
from flist.store import open_store
from flist.tree import Tree
from native.errors import ZosError
from zos_core.base.errors import UsageError
from zos_core.base.keyring import Keyring
from zos_core.base.verbs import Console

__all__ = ["NotInImage", "cat", "find", "write_contents"]

LINKS_MAX = 40  # as path_resolution(7)
ZEROS = bytes(1 << 16)


class NotInImage(ZosError):
    """The image has no such file."""

    code, http_status, exit_status = "flist.not-in-image", 404, 29


async def cat(arguments: argparse.Namespace, console: Console) -> None:
    """Write a file's bytes to stdout."""
    if console.json:
        raise UsageError("zos flist cat writes a file's own bytes", hint="leave --json out")
    keyring = Keyring.of()
    async with open_store(store_of(arguments.image, arguments.store, publisher=keyring.publisher())) as store:
        signed = await load_image(arguments.image, store, keyring, unsigned=arguments.unsigned)
        async with ImageReader(store, signed.manifest) as reader:
            meta = await reader.tree()
            number = find(meta.tree, os.fsencode(arguments.path))
            await write_contents(reader, meta, number, sys.stdout.buffer)


def find(tree: Tree, path: bytes) -> int:
    """The number of the regular file at `path`; symbolic links are followed within the image.

    Raises:
        NotInImage: there is none.
    """
    shown = path.decode(errors="replace")
    where, links = [0], 0
    parts = deque(path.split(b"/"))
    while parts:
        part = parts.popleft()
        if part in (b"", b"."):
            continue
        if part == b"..":
            del where[max(1, len(where) - 1) :]  # the root is above itself
            continue
        number = dict(tree.inodes[where[-1]].entries).get(part)
        if number is None:
            raise NotInImage(
                f"the image has no {shown}",
                hint="`zos flist mount` or `zos flist extract` shows what it has",
                path=shown,
            )
        inode = tree.inodes[number]
        if not stat.S_ISLNK(inode.mode):
            where.append(number)
            continue
        links += 1
        if links > LINKS_MAX:
            raise NotInImage(f"{shown} goes through more than {LINKS_MAX} symbolic links", path=shown)
        if inode.target.startswith(b"/"):
            where = [0]
        parts.extendleft(reversed(inode.target.split(b"/")))
    if not stat.S_ISREG(tree.inodes[where[-1]].mode):
        raise NotInImage(f"{shown} is no regular file", path=shown)
    return where[-1]


async def write_contents(reader: ImageReader, meta: MetaImage, number: int, out: BinaryIO) -> None:
    """Write the contents of an inode, holes as zeros; errors as of `ImageReader.read`."""
    at = 0
    for place in places_of(meta, number, most=RUN_BYTES_MAX):
        _write_zeros(out, place.offset - at)
        out.write(await reader.read(place.address, place.length))
        at = place.offset + place.length
    _write_zeros(out, meta.tree.inodes[number].size - at)
    out.flush()


def _write_zeros(out: BinaryIO, count: int) -> None:
    while count:
        count -= out.write(ZEROS[: min(count, len(ZEROS))])
