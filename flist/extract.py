"""An image becomes a directory tree: content and all metadata, whoever made the image (docs/spec/store.md, EXTRACT).

The target is ours alone (0700) until it is finished. Every name was checked by `erofs_reader`: no two are alike in a
directory, so nothing that is made can be a link on the way of a later path; every open refuses links all the same.

    1. directories, empty files, links, devices, in walk order      2. data, as units arrive, in any order
    3. owner, xattrs, mode, time of everything, directories last (what is made inside changes their time)
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flist.erofs_reader import HOLE, MetaImage
from flist.manifest import SignedManifest
from flist.places import Place, places_of
from flist.reader import RUN_BYTES_MAX, ImageReader
from flist.store import Addressed, addresses_of
from flist.tree import Inode
from native.errors import ZosError
from zos_core.base.atomic_file import nearest_existing
from zos_core.base.document import Record
from zos_core.base.errors import DiskFull, disk_full_at, is_disk_full, telling_disk_full
from zos_core.base.programs import Source
from zos_core.base.progress import SILENT, Progress
from zos_core.base.threads import in_thread

__all__ = ["BYTES_ALWAYS", "RATIO_MAX", "ExtractFailed", "ExtractResult", "ExtractTooLarge", "extract", "extract_image"]

BYTES_ALWAYS = 4 << 30
"""What any image may write, however little of it there is to fetch: the same content many times is no attack yet."""
RATIO_MAX = 16
"""Beyond that, an image may write so many times the size of its blob, which is signed and has to be fetched."""
BLOCK_BYTES = 4096

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
NOT_ALLOWED = (errno.EPERM, errno.EACCES)


class ExtractFailed(ZosError):
    """The target cannot take the tree: not empty, full, or without a feature that the image needs."""

    code, http_status, exit_status = "flist.extract-failed", 500, 44


class ExtractTooLarge(ZosError):
    """Many files of the image are the same bytes of its blob, and together more than may be written (EXTRACT-5)."""

    code, http_status, exit_status = "flist.extract-too-large", 422, 44


class ExtractResult(Record, frozen=True, kw_only=True):
    """What was made. What an ordinary user cannot make is counted, never silently left out.

    Attributes:
        inodes: of the image.
        bytes_written: data, without holes.
        owners_kept: whether owners are the image's; False for an ordinary user.
        devices_skipped: device nodes that were not made.
        xattrs_skipped: extended attributes that were not set.
    """

    inodes: int
    bytes_written: int
    owners_kept: bool
    devices_skipped: int
    xattrs_skipped: int


async def extract_image(
    image: SignedManifest, sources: Sequence[Source], directory: Path, *, progress: Progress = SILENT
) -> ExtractResult:
    """`extract` from the sources of a plan."""
    return await extract(addresses_of(sources), image, directory, progress=progress)


async def extract(
    store: Addressed,
    image: SignedManifest,
    directory: Path,
    *,
    bytes_max: int | None = None,
    progress: Progress = SILENT,
) -> ExtractResult:
    """Make the tree of a verified manifest in `directory`, which is made, or is there and empty.

    Args:
        store: has the image.
        image: its manifest.
        directory: the target.
        bytes_max: data that may be written; by default BYTES_ALWAYS or RATIO_MAX times the blob, whichever is more.
        progress: where progress is shown.

    Raises:
        ExtractTooLarge: the image is more than that. Nothing was written.
        DiskFull: there is no room for it, which is mostly known before anything is written.
        ExtractFailed: the target cannot take it.
        MetaInvalid, IndexInvalid, LocatorInvalid, UnitInvalid: the store holds wrong bytes.
        ObjectMissing, StoreUnavailable: it lacks some, or cannot be read.

    After an error the target is as it was before.
    """
    async with ImageReader(store, image.manifest) as reader:
        blob_bytes = image.manifest.index.blocks * BLOCK_BYTES
        most = max(BYTES_ALWAYS, RATIO_MAX * blob_bytes) if bytes_max is None else bytes_max
        return await _extract(reader, directory, most, blob_bytes, progress)


def _data_bytes(meta: MetaImage) -> int:
    """Data of all files, without holes: from sizes and chunks alone, since a list of places may be long."""
    total = 0
    for number, chunks in meta.chunks.items():
        size = meta.tree.inodes[number].size
        full, rest = divmod(size, chunks.size)
        held = sum(block != HOLE for block in chunks.blocks[:full])
        last = rest if len(chunks.blocks) > full and chunks.blocks[full] != HOLE else 0
        total += held * chunks.size + last
    return total


def _check_size(data_bytes: int, most: int, blob_bytes: int, directory: Path) -> None:
    """Refuse before anything is written what is too much, by the limit or for the disk (EXTRACT-5)."""
    if data_bytes > most:
        raise ExtractTooLarge(
            f"the files of the image are {data_bytes} bytes, from a blob of {blob_bytes}; at most {most} are written",
            hint=f"if that is what you expect, zos flist extract --max-size {data_bytes} writes them; "
            "mounted, an image takes no more room than its blob",
            data_bytes=data_bytes,
            blob_bytes=blob_bytes,
            bytes_max=most,
        )
    existing = nearest_existing(directory)
    here = os.statvfs(existing)
    room = here.f_bavail * here.f_frsize if os.geteuid() else here.f_bfree * here.f_frsize
    if data_bytes > room:
        raise DiskFull(
            f"{directory} cannot take the image: its files are {data_bytes} bytes, and {room} are free there",
            hint=f"make room (df {shlex.quote(str(existing))} says of what disk) and ask again; nothing was changed",
            path=str(directory),
            data_bytes=data_bytes,
            room_bytes=room,
        )


async def _extract(
    reader: ImageReader, directory: Path, most: int, blob_bytes: int, progress: Progress
) -> ExtractResult:
    meta = await reader.tree()
    _check_size(_data_bytes(meta), most, blob_bytes, directory)
    places = [place for number in meta.chunks for place in places_of(meta, number, most=RUN_BYTES_MAX)]
    places.sort(key=lambda place: place.address)
    bytes_written = sum(place.length for place in places)
    target = _Target(directory, meta)
    try:
        target.open()
        with progress.task("making files", total=len(meta.tree.inodes)) as task:
            await in_thread(target.make)
            task.advance(len(meta.tree.inodes))
        with progress.task("extracting", total=bytes_written, unit="bytes") as task:

            def sink(number: int, plain: memoryview) -> None:
                with telling_disk_full(directory):
                    target.write(places[number], plain)
                task.advance(len(plain))

            await reader.read_many([(place.address, place.length) for place in places], sink)
        await in_thread(target.finish)
    except BaseException as error:
        target.undo()
        if isinstance(error, OSError):
            if is_disk_full(error):
                raise disk_full_at(directory, error) from error
            raise ExtractFailed(
                f"{directory}: {error.strerror or error}", path=str(directory), errno=error.errno
            ) from error
        raise
    finally:
        target.close()
    return ExtractResult(
        inodes=len(meta.tree.inodes),
        bytes_written=bytes_written,
        owners_kept=target.as_root,
        devices_skipped=target.devices_skipped,
        xattrs_skipped=target.xattrs_skipped,
    )


# --- The target ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Target:
    """The directory under way."""

    directory: Path
    meta: MetaImage
    root: int = -1
    mode_before: int | None = None
    as_root: bool = field(default_factory=lambda: os.geteuid() == 0)
    devices_skipped: int = 0
    xattrs_skipped: int = 0
    skipped: set[bytes] = field(default_factory=set)

    def open(self) -> None:
        try:
            self.directory.mkdir(mode=0o700)
            was_there = False
        except FileExistsError:
            was_there = True
        root = os.open(self.directory, DIRECTORY_FLAGS)
        try:
            if was_there:
                if os.listdir(root):
                    raise ExtractFailed(f"{self.directory} is not empty", hint="name a new or an empty directory")
                self.mode_before = stat.S_IMODE(os.fstat(root).st_mode)
            os.fchmod(root, 0o700)
        except BaseException:
            os.close(root)
            raise
        self.root = root

    def close(self) -> None:
        if self.root >= 0:
            os.close(self.root)

    def undo(self) -> None:
        """Take away what was made; the directory itself stays if it was there."""
        if self.root < 0:
            return
        for name in os.listdir(self.root):
            status = os.stat(name, dir_fd=self.root, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(name, dir_fd=self.root, ignore_errors=True)
            else:
                os.unlink(name, dir_fd=self.root)
        if self.mode_before is None:
            self.directory.rmdir()
        else:
            os.fchmod(self.root, self.mode_before)

    def make(self) -> None:
        inodes = self.meta.tree.inodes
        made: set[int] = set()
        for folder in self.meta.tree.directories():
            if folder.path:
                os.mkdir(folder.path, 0o700, dir_fd=self.root)
            for name, number in folder.entries:
                inode = inodes[number]
                if stat.S_ISDIR(inode.mode):
                    continue
                path = folder.path + b"/" + name if folder.path else name
                if number in made:
                    if inode.path not in self.skipped:
                        os.link(inode.path, path, src_dir_fd=self.root, dst_dir_fd=self.root, follow_symlinks=False)
                else:
                    made.add(number)
                    self.make_one(inode)

    def make_one(self, inode: Inode) -> None:
        kind = stat.S_IFMT(inode.mode)
        if kind == stat.S_IFREG:
            flags = FILE_FLAGS | os.O_CREAT | os.O_EXCL
            descriptor = os.open(inode.path, flags, 0o600, dir_fd=self.root)
            try:
                os.ftruncate(descriptor, inode.size)
            finally:
                os.close(descriptor)
        elif kind == stat.S_IFLNK:
            os.symlink(inode.target, inode.path, dir_fd=self.root)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK) and not self.as_root:
            self.devices_skipped += 1
            self.skipped.add(inode.path)
        else:
            os.mknod(inode.path, kind | 0o600, os.makedev(*inode.device), dir_fd=self.root)

    def write(self, place: Place, plain: memoryview) -> None:
        descriptor = os.open(place.path, FILE_FLAGS, dir_fd=self.root)
        try:
            offset = place.offset
            while plain:
                written = os.pwrite(descriptor, plain, offset)
                plain, offset = plain[written:], offset + written
        finally:
            os.close(descriptor)

    def finish(self) -> None:
        """Owner, mode and time of everything; a directory comes after all that is in it."""
        inodes = self.meta.tree.inodes
        for inode in inodes:
            if not stat.S_ISDIR(inode.mode) and inode.path not in self.skipped:
                self.dress(inode)
        for inode in reversed([each for each in inodes if stat.S_ISDIR(each.mode)]):
            self.dress(inode)

    def dress(self, inode: Inode) -> None:
        """Owner first: it clears setuid bits and capabilities."""
        path = inode.path or b"."
        if self.as_root:
            os.chown(path, inode.uid, inode.gid, dir_fd=self.root, follow_symlinks=False)
        for name, value in inode.xattrs:
            # Only a path reaches the xattrs of links and devices; through the descriptor it cannot be redirected.
            where = b"/proc/self/fd/%d/%s" % (self.root, path)
            try:
                os.setxattr(where, name, value, follow_symlinks=False)
            except OSError as error:
                if self.as_root or error.errno not in NOT_ALLOWED:
                    shown = name.decode(errors="replace")
                    raise ExtractFailed(
                        f"{self.directory}: the extended attribute {shown} cannot be set: {error.strerror}",
                        hint="choose a directory on ext4, xfs or btrfs",
                        path="/" + inode.path.decode(errors="replace"),
                    ) from error
                self.xattrs_skipped += 1
        if not stat.S_ISLNK(inode.mode):
            mode = stat.S_IMODE(inode.mode)
            # Without the image's owner a setuid program would be one of the caller's.
            os.chmod(path, mode if self.as_root else mode & ~0o6000, dir_fd=self.root)
        os.utime(path, ns=(inode.mtime_ns, inode.mtime_ns), dir_fd=self.root, follow_symlinks=False)
