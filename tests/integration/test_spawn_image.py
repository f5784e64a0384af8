"""Images by every provider: EROFS over a one-file FUSE, over loop devices, over the complete blob (docs/spec/spawn.md).

What serves the FUSE file here is thirty lines of Python in a thread, so that nothing but spawn is under test.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from native.kernel import attach_mount, unmount
from tests.integration.spawn_kit import Refused, Tree, make_tree, running

pytestmark = pytest.mark.root

ROOT = 1
FUSE_GETATTR, FUSE_OPEN, FUSE_READ, FUSE_STATFS, FUSE_RELEASE, FUSE_FLUSH, FUSE_INIT = 3, 14, 15, 17, 18, 25, 26
EIO, ENODEV, ENOSYS = 5, 19, 38
SYS_MOVE_MOUNT, MOVE_MOUNT_F_EMPTY_PATH = 429, 4


class OneFile:
    """Answers the requests of a /dev/fuse from a local file; stops when the device says that it is unmounted."""

    def __init__(self, device: int, blob: Path) -> None:
        self.device = device
        self.blob = os.open(blob, os.O_RDONLY)
        self.size = blob.stat().st_size
        self.reads = 0
        self.failing = False
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def attributes(self) -> bytes:
        blocks = (self.size + 511) // 512
        return struct.pack("<6Q10I", ROOT, self.size, blocks, 0, 0, 0, 0, 0, 0, 0o100400, 1, 0, 0, 0, 4096, 0)

    def answer(self, opcode: int, body: bytes) -> bytes | int:
        if opcode == FUSE_INIT:
            major, minor, readahead, _ = struct.unpack_from("<4I", body)
            return struct.pack("<4IHHII", major, min(minor, 31), readahead, 0, 16, 12, 4096, 1) + bytes(32)
        if opcode == FUSE_GETATTR:
            return struct.pack("<QII", 3600, 0, 0) + self.attributes()
        if opcode == FUSE_OPEN:
            return struct.pack("<QII", 0, 2, 0)
        if opcode == FUSE_READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            self.reads += 1
            return EIO if self.failing else os.pread(self.blob, size, offset)
        return 0 if opcode in (FUSE_RELEASE, FUSE_FLUSH) else ENOSYS

    def serve(self) -> None:
        while True:
            try:
                request = os.read(self.device, 135_168)
            except OSError as error:
                if error.errno == ENODEV:
                    break
                continue
            _, opcode, unique = struct.unpack_from("<IIQ", request)
            answer = self.answer(opcode, request[40:])
            failure, body = (answer, b"") if isinstance(answer, int) else (0, answer)
            try:
                os.write(self.device, struct.pack("<IiQ", 16 + len(body), -failure, unique) + body)
            except OSError:
                continue
        os.close(self.device)
        os.close(self.blob)


# Other tests may use loop devices on this machine at the same time: ours are known by the names of these files.
META, BLOB = f"meta-{os.getpid()}", f"blob-{os.getpid()}"


def loops() -> list[Path]:
    """Directories in /sys/block of the loop devices over our files."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            text = path.read_text()
        except OSError:
            continue
        if text.strip().endswith((META, BLOB)):
            found.append(path.parent.parent)
    return found


@pytest.fixture(scope="module")
def erofs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `meta` and `blob`, made by mkfs.erofs, and the tree that they were made of."""
    if shutil.which("mkfs.erofs") is None:
        pytest.skip("no mkfs.erofs (apt install erofs-utils)")
    directory = tmp_path_factory.mktemp("erofs")
    make_tree(directory / "tree")
    (directory / "tree/big").write_bytes(random.Random(1).randbytes(8 << 20))
    (directory / "blob").touch()  # erofs-utils 1.8 (Debian 13) makes none
    command = ["mkfs.erofs", "--quiet", "--chunksize=4096", f"--blobdev={directory / 'blob'}"]
    subprocess.run([*command, directory / "meta", directory / "tree"], check=True, stdout=subprocess.DEVNULL)
    # The blob's last block may be short; a device has whole ones.
    os.truncate(directory / "blob", (directory / "blob").stat().st_size + 4095 & ~4095)
    return directory


@pytest.fixture(scope="module", params=["detached", "attached"])
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, erofs: Path) -> Iterator[Tree]:
    more = () if request.param == "detached" else ("--without", "detached_layers")
    with running(tmp_path_factory.mktemp("spawn"), *more) as tree:
        copy_image(erofs, tree)
        yield tree
    assert loops() == []


def copy_image(erofs: Path, tree: Tree) -> None:
    for name, copy in (("meta", META), ("blob", BLOB)):
        shutil.copy2(erofs / name, tree.state / copy)


@contextmanager
def serving(tree: Tree, image: str, blob: Path) -> Iterator[OneFile]:
    """A FUSE file with the blob, until the image is forgotten."""
    tree.spawn.do("fuse_open", image=image)
    _, [device] = tree.hold.ask("get", names=[f"fuse/{image}"])
    server = OneFile(device, blob)
    with ExitStack() as stack:
        stack.callback(server.thread.join)
        stack.callback(tree.spawn.do, "forget_image", image=image)
        yield server


def check(tree: Tree, image: str, erofs: Path) -> None:
    code, out, err = tree.run("cat /big | wc -c; cat /bin/no-header; od -An -tx1 -N4 -j1048576 /big", image=image)
    lines = out.split("\n")
    assert (code, err, lines[:2]) == (0, "", [str((erofs / "tree/big").stat().st_size), "echo no"])
    assert bytes.fromhex(lines[2]) == (erofs / "tree/big").read_bytes()[1_048_576:1_048_580]


def require(tree: Tree, *names: str) -> None:
    probe = tree.spawn.do("probe")
    for name in names:
        if not probe[name]:
            pytest.skip(f"no {name}: {probe['reasons'][name]}")


def test_slots_are_as_the_page_says(tree: Tree) -> None:
    image = "01" * 32
    require(tree, "fuse")
    tree.spawn.do("fuse_open", image=image)
    # Asking the FUSE file anything would wait for its server.
    names = [f"{kind}/{image}" for kind in ("fuse", "slots")]
    assert tree.hold.do("list", prefix="fusemnt/")["names"] == [f"fusemnt/{image}"]
    _, first = tree.hold.ask("get", names=names)
    tree.spawn.do("fuse_open", image=image)
    _, second = tree.hold.ask("get", names=names)
    assert [os.fstat(fd).st_ino for fd in first] == [os.fstat(fd).st_ino for fd in second]
    slots = first[1]
    assert os.fstat(slots).st_size == 4096 + 32 * 16_384
    assert os.pread(slots, 16, 0) == b"ZOSSLOT1" + struct.pack("<II", 32, 16_384)
    assert os.pread(slots, 4096, 16).count(0) == 4096
    with pytest.raises(PermissionError):
        os.ftruncate(slots, 0)
    for fd in [*first, *second]:
        os.close(fd)
    tree.spawn.do("forget_image", image=image)
    assert tree.hold.do("list", prefix="fuse")["names"] == []
    tree.spawn.do("forget_image", image=image)


def test_file(tree: Tree, erofs: Path) -> None:
    require(tree, "fuse", "erofs_file_backed")
    image = "02" * 32
    with serving(tree, image, erofs / "blob") as server:
        reply = tree.spawn.do("mount_image", image=image, provider="file", meta=META)
        assert reply["provider"] == "file"
        check(tree, image, erofs)
        assert server.reads > 0


def test_loop(tree: Tree, erofs: Path) -> None:
    require(tree, "fuse", "erofs", "loop_control")
    image = "03" * 32
    with serving(tree, image, erofs / "blob") as server:
        tree.spawn.do("mount_image", image=image, provider="loop", meta=META)
        [device] = loops()
        assert (device / "ro").read_text() == "1\n"
        assert (device / "loop/autoclear").read_text() == "1\n"
        check(tree, image, erofs)
        assert server.reads > 0
    # One mount held both devices.
    assert loops() == []


def test_full(tree: Tree, erofs: Path) -> None:
    require(tree, "erofs", "erofs_file_backed")
    image = "04" * 32
    tree.spawn.do("mount_image", image=image, provider="full", meta=META, blob=BLOB)
    check(tree, image, erofs)
    tree.spawn.do("forget_image", image=image)


def test_from_partial_to_full(tree: Tree, erofs: Path) -> None:
    require(tree, "fuse", "erofs_file_backed")
    image = "05" * 32
    with serving(tree, image, erofs / "blob") as server:
        tree.spawn.do("mount_image", image=image, provider="file", meta=META)
        tree.launch("stays", "/bin/sh", "-c", "while :; do cat /big > /dev/null; usleep 1000; done", image=image)
        tree.spawn.do("mount_image", image=image, provider="full", meta=META, blob=BLOB)
        reads = server.reads
        check(tree, image, erofs)
        assert tree.hold.do("list", prefix="mnt/")["names"] == [f"mnt/{image}"]
        tree.hold.do("kill", name="stays", signal=9)
        tree.wait_exit("stays")
        assert server.reads >= reads


def test_a_container_keeps_an_image_that_is_forgotten(tree: Tree, erofs: Path) -> None:
    require(tree, "erofs_file_backed")
    image = "06" * 32
    tree.spawn.do("mount_image", image=image, provider="full", meta=META, blob=BLOB)
    tree.launch("keeps", "/bin/sh", "-c", "read x < /dev/null; sleep 1000", image=image)
    tree.spawn.do("forget_image", image=image)
    name = tree.exec("keeps", 1, "/bin/sh", "-c", "cat /big | wc -c")
    assert int(tree.output(name)) == (erofs / "tree/big").stat().st_size
    tree.wait_exit(name)
    tree.hold.do("kill", name="keeps", signal=9)
    tree.wait_exit("keeps")


def test_what_hold_kept_may_be_attached_and_taken_off_again(tree: Tree, tmp_path: Path) -> None:
    """Below 6.15 the very mount is attached, so a descriptor that spawn kept would make it busy for ever."""
    image = "0b" * 32
    make_tree(tree.state / "attachable")
    reply, fds = tree.spawn.ask("mount_image", image=image, provider="extract", tree="attachable")
    _, kept = tree.hold.ask("get", names=[f"mnt/{image}"])
    if reply["detached"]:
        attach_mount(kept[0], tmp_path)  # which copies it
    else:
        move_mount(kept[0], tmp_path)
    try:
        for fd in [*fds, *kept]:
            os.close(fd)
        tree.hold.do("drop", names=[f"mnt/{image}"])
        assert (tmp_path / "bin/busybox").exists()
        # The helper that made the mount may still be on its way out.
        deadline_s = time.monotonic() + 10
        while busy(tmp_path):
            assert time.monotonic() < deadline_s, "somebody keeps the mount"
            tree.spawn.do("probe")
        assert list(tmp_path.iterdir()) == []
    finally:
        with contextlib.suppress(OSError):
            unmount(tmp_path, lazy=True)
    # It is the same mount when it is asked for again, and hold has it again.
    tree.spawn.do("mount_image", image=image, provider="extract", tree="attachable")
    assert f"mnt/{image}" in tree.hold.do("list", prefix="mnt/")["names"]
    assert tree.run("cat /bin/no-header", image=image)[1] == "echo no\n"
    tree.spawn.do("forget_image", image=image)


def busy(target: Path) -> bool:
    """Unmount it, unless it is busy."""
    try:
        unmount(target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return True
    return False


def move_mount(mount: int, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(SYS_MOVE_MOUNT, mount, b"", -100, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH) != 0:
        raise OSError(ctypes.get_errno(), "move_mount")


def test_a_failing_server_is_an_error_and_not_zeros(tree: Tree, erofs: Path) -> None:
    require(tree, "fuse", "erofs_file_backed")
    image = "07" * 32
    with serving(tree, image, erofs / "blob") as server:
        tree.spawn.do("mount_image", image=image, provider="file", meta=META)
        # The program itself has to be there already, or it ends by SIGBUS.
        assert tree.run("cat /bin/busybox | wc -c", image=image)[0] == 0
        server.failing = True
        code, out, err = tree.run("cat /big | wc -c", image=image)
        assert (out, "Input/output error" in err) == ("0\n", True), (code, out, err)
        server.failing = False
        check(tree, image, erofs)


def test_an_image_whose_server_never_comes_can_be_forgotten(tree: Tree, erofs: Path) -> None:
    """The mount waits for blockd; forgetting ends it, and other work goes on meanwhile."""
    require(tree, "fuse", "erofs_file_backed")
    image = "08" * 32
    tree.spawn.do("fuse_open", image=image)
    waits = tree.spawn.send("mount_image", {"image": image, "provider": "file", "meta": META})
    tree.spawn.do("probe")
    assert waits not in tree.spawn.answers
    tree.spawn.do("forget_image", image=image)
    with pytest.raises(Refused) as caught:
        tree.spawn.answer(waits)
    assert caught.value.code == "spawn.step"


def test_mounts_that_cannot_be(tree: Tree, erofs: Path) -> None:
    image = "09" * 32
    (tree.state / "link").symlink_to(META)
    (tree.state / "not-erofs").write_bytes(bytes(8192))
    for body, code, step in [
        ({"provider": "file", "meta": META}, "spawn.image-not-mounted", None),
        ({"provider": "file"}, "frame.bad-body", None),
        ({"provider": "full", "meta": META}, "frame.bad-body", None),
        ({"provider": "full", "meta": "nothing", "blob": BLOB}, "spawn.step", "open-meta"),
        ({"provider": "full", "meta": "link", "blob": BLOB}, "spawn.step", "open-meta"),
        ({"provider": "full", "meta": "not-erofs", "blob": BLOB}, "spawn.step", "erofs"),
        ({"provider": "full", "meta": META, "blob": "../x"}, "spawn.bad-path", None),
        ({"provider": "extract", "tree": META}, "spawn.step", "open-tree"),
        ({"provider": "other"}, "frame.bad-body", None),
    ]:
        with pytest.raises(Refused) as caught:
            tree.spawn.do("mount_image", image=image, **body)
        assert (caught.value.code, caught.value.step) == (code, step), body
    assert tree.hold.do("list", prefix="mnt/")["names"] == []


def test_full_by_loop_where_files_cannot_be_mounted(erofs: Path, tmp_path: Path) -> None:
    """Kernels below 6.12."""
    with running(tmp_path, "--without", "detached_layers,erofs_file_backed") as tree:
        require(tree, "erofs", "loop_control")
        copy_image(erofs, tree)
        image = "0a" * 32
        tree.spawn.do("mount_image", image=image, provider="full", meta=META, blob=BLOB)
        assert len(loops()) == 2
        check(tree, image, erofs)
    assert loops() == []
