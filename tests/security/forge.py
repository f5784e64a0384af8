"""A publisher who means harm: images that `zos flist build` would never write, signed and in a store all the same."""

from __future__ import annotations

import asyncio
import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import zstandard
from blake3 import blake3

from flist.bundles import chunk_bits
from flist.erofs import HOLE, meta_image
from flist.erofs_reader import MetaImage
from flist.manifest import ObjectRef, SignedManifest, encode_manifest
from flist.reader import ImageReader
from flist.sign import sign_manifest
from flist.store import DirectoryStore
from flist.tree import Inode, Tree
from tests.erofs_reader import crc32c
from zos_core.base.keyring import Keyring

__all__ = ["Forge", "inode", "renamed"]

Change = Callable[[bytes], bytes]


def inode(mode: int, *, device: tuple[int, int] = (0, 0), target: bytes = b"", **more: object) -> Inode:
    """An inode of root's that holds no data; its path is never written."""
    made = Inode(path=b"", mode=mode, uid=0, gid=0, mtime_ns=0, device=device, target=target)
    return replace(made, **more)  # type: ignore[arg-type]


class Forge:
    """Makes further images from the one in a .flist file: the same data below another tree."""

    def __init__(self, store: Path, flist: Path) -> None:
        self.store = store
        self._signed = SignedManifest.parse(flist.read_bytes())
        self._revision = 1000
        self._image = asyncio.run(self._read())

    async def _read(self) -> MetaImage:
        async with DirectoryStore(self.store) as store:
            return await ImageReader(store, self._signed.manifest).tree()

    def image(
        self,
        added: Mapping[bytes, Inode] = {},
        *,
        at: bytes = b"",
        without: Sequence[bytes] = (),
        xattrs: Mapping[bytes, tuple[tuple[bytes, bytes], ...]] = {},
        modes: Mapping[bytes, int] = {},
        again: Mapping[bytes, bytes] = {},
        bend: Change = bytes,
    ) -> Path:
        """A .flist file of a tree with these entries more, and not those; the path of the file.

        Args:
            added: entries of the directory `at`; a regular file with a size is one hole.
            without: names in that directory that go, with what is below them.
            xattrs: by path, of inodes that are there.
            modes: by path, likewise.
            again: of regular files that are added, the path of the file whose data each of them repeats to its end.
            bend: changes the bytes of the metadata image at the end.
        """
        tree, chunks = self._tree(added, at, without, xattrs, modes)
        for name, source in again.items():
            self._repeat(tree, chunks, at, name, source)
        index = self._signed.manifest.index
        tag = index.root.hex().encode()
        return self.publish(bend(meta_image(tree, chunks, blob_blocks=index.blocks, tag=tag)))

    def publish(self, meta: bytes) -> Path:
        """Put a metadata image into the store, name it in a manifest, and sign that."""
        self._revision += 1
        reference = ObjectRef(blake3=blake3(meta).digest(), size=len(meta))
        manifest = msgspec.structs.replace(self._signed.manifest, meta=reference, revision=self._revision)
        signed = sign_manifest(SignedManifest(encode_manifest(manifest)), Keyring.of().own_key())
        objects = {
            f"meta/{reference.blake3.hex()}": zstandard.ZstdCompressor().compress(meta),
            f"manifest/{signed.digest.hex()}": signed.encode(),
        }

        async def put() -> None:
            async with DirectoryStore(self.store) as store:
                for path, data in objects.items():
                    await store.put(path, data)

        asyncio.run(put())
        file = self.store / f"forged-{self._revision}.flist"
        file.write_bytes(signed.encode())
        return file

    def _repeat(self, tree: Tree, chunks: dict[int, tuple[int, ...]], at: bytes, name: bytes, source: bytes) -> None:
        """Every chunk of an added file is the first chunk of another: so many bytes, and none of its own."""
        [number] = [child for each in tree.inodes if each.path == at for key, child in each.entries if key == name]
        [first] = [number for number, each in enumerate(tree.inodes) if each.path == source]
        chunks[number] = (chunks[first][0],) * len(chunks[number])

    def _tree(
        self,
        added: Mapping[bytes, Inode],
        at: bytes,
        without: Sequence[bytes],
        xattrs: Mapping[bytes, tuple[tuple[bytes, bytes], ...]],
        modes: Mapping[bytes, int],
    ) -> tuple[Tree, dict[int, tuple[int, ...]]]:
        """The tree in walk order, made anew: what is no directory before the directories."""
        old = self._image.tree.inodes
        made: list[Inode] = []
        numbers: dict[int, int] = {}
        chunks: dict[int, tuple[int, ...]] = {}

        def take(number: int) -> int:
            if number in numbers:
                return numbers[number]
            source = old[number]
            numbers[number] = len(made)
            made.append(
                replace(
                    source,
                    xattrs=xattrs.get(source.path, source.xattrs),
                    mode=modes.get(source.path, source.mode),
                )
            )
            if number in self._image.chunks:
                chunks[numbers[number]] = self._image.chunks[number].blocks
            return numbers[number]

        def directory(number: int) -> int:
            own = take(number)
            here = old[number].path == at
            more = added if here else {}
            gone = without if here else ()
            kept = [(name, child) for name, child in old[number].entries if name not in gone and name not in more]
            entries = [(name, take(child)) for name, child in kept if not stat.S_ISDIR(old[child].mode)]
            for name, new in sorted(more.items()):
                entries.append((name, len(made)))
                if new.size:
                    chunks[len(made)] = (HOLE,) * -(-new.size >> chunk_bits(new.size))
                made.append(new)
            entries += [(name, directory(child)) for name, child in kept if stat.S_ISDIR(old[child].mode)]
            made[own] = replace(made[own], entries=tuple(sorted(entries)))
            return own

        directory(0)
        return Tree(made), chunks


def renamed(before: bytes, after: bytes) -> Change:
    """A `bend` that gives an entry another name of the same length, which the writer would refuse."""

    def bend(image: bytes) -> bytes:
        assert len(before) == len(after)
        assert image.count(before) == 1
        bent = bytearray(image.replace(before, after))
        # The kernel compares the checksum of the first block, whose own field counts as zero.
        bent[1028:1032] = bytes(4)
        bent[1028:1032] = struct.pack("<I", crc32c(bytes(bent[1024:4096])))
        return bytes(bent)

    return bend
