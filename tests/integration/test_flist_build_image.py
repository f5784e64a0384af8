"""Trees become images that the kernel mounts and that are the trees; both packers, any number of threads."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import zstandard

import flist.build
import flist.packing
import flist.walk
from flist.build import BuildResult, build
from flist.erofs import meta_image
from flist.errors import ManifestInvalid, TreeUnreadable, TreeUnsupported
from flist.index import PageList, build_index
from flist.scratch import scratch_directory
from flist.tree import Inode, Tree
from native._rust import Packer as RustPacker
from native.errors import FileChanged, FileUnreadable
from native.pack import FILE, PART, UNIT
from native.reference.pack import Packer as ReferencePacker
from tests.compare import assert_same, describe, differences
from tests.images import FolderStore, mounted, nasty_tree, pattern, set_mtime, unpack_image
from zos_core.base.progress import SILENT, Task

PACKERS: dict[str, Any] = {"rust": RustPacker, "reference": ReferencePacker}


def run_build(tree: Path, store: FolderStore, **changes: Any) -> BuildResult:
    return asyncio.run(build(tree, store, **{"name": "zos/test", "revision": 1, "architecture": "x86_64", **changes}))


@pytest.fixture(params=PACKERS)
def packer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(flist.packing, "Packer", PACKERS[request.param])
    return str(request.param)


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nasty") / "tree"
    nasty_tree(root)
    return root


@pytest.fixture(scope="module")
def erofs() -> None:
    try:
        known = "erofs" in Path("/proc/filesystems").read_text()
    except OSError:
        known = False
    if not known:
        subprocess.run(["modprobe", "-q", "erofs"], check=False)
        if "erofs" not in Path("/proc/filesystems").read_text():
            pytest.skip("this kernel has no EROFS")


def small_tree(root: Path) -> Path:
    root.mkdir()
    (root / "small").write_bytes(b"hello")
    (root / "large").write_bytes(pattern(600_000, 1))
    (root / "folder").mkdir()
    (root / "folder" / "other").write_bytes(pattern(20_000, 2))
    return root


@pytest.mark.root
def test_a_nasty_tree_comes_back_through_the_kernel(nasty: Path, packer: str, tmp_path: Path, erofs: None) -> None:
    store = FolderStore(tmp_path / "store")
    result = run_build(nasty, store)
    unpack_image(store.folder, result.digest, tmp_path / "image")
    if shutil.which("fsck.erofs"):
        command = ["fsck.erofs", f"--device={tmp_path / 'image' / 'blob'}", str(tmp_path / "image" / "meta.erofs")]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    try:
        with mounted(tmp_path / "image", tmp_path / "mnt") as mount:
            paths = assert_same(nasty, mount)
            facts = os.statvfs(mount)
    except OSError as error:
        if error.errno in (errno.ENOTBLK, errno.EPERM):
            pytest.skip(f"EROFS cannot be mounted from a file here: {error}")
        raise
    assert paths > 5000
    assert facts.f_namemax == 255
    assert result.inodes == len({tuple(facts.get("links", [path])) for path, facts in describe(nasty).items()})


@pytest.mark.root
def test_the_same_tree_gives_the_same_image(nasty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, dict[str, bytes]] = {}
    for name, kind, threads in (("r1", "rust", 1), ("r2", "rust", 2), ("r7", "rust", 7), ("twin", "reference", 1)):
        monkeypatch.setattr(flist.packing, "Packer", PACKERS[kind])
        store = FolderStore(tmp_path / name)
        run_build(nasty, store, threads=threads)
        made[name] = store.objects()
    assert made["r1"] == made["r2"] == made["r7"]
    identity = [path for path in made["r1"] if path.split("/")[0] in ("index", "manifest", "meta")]
    assert [made["twin"].get(path) for path in identity] == [made["r1"][path] for path in identity]


@pytest.mark.root
def test_a_copy_of_the_tree_gives_the_same_image(tmp_path: Path) -> None:
    one = small_tree(tmp_path / "one")
    two = tmp_path / "two"
    shutil.copytree(one, two, symlinks=True)  # copy2: times too, but in another order of inodes
    digests = {run_build(tree, FolderStore(tmp_path / f"store-{tree.name}")).digest for tree in (one, two)}
    assert len(digests) == 1


def test_the_level_is_not_identity(tmp_path: Path, packer: str) -> None:
    tree = small_tree(tmp_path / "tree")
    digests = {run_build(tree, FolderStore(tmp_path / f"{level}"), level=level).digest for level in (1, 3, 9)}
    assert len(digests) == 1


def test_only_missing_objects_are_written(tmp_path: Path, packer: str) -> None:
    tree = small_tree(tmp_path / "tree")
    store = FolderStore(tmp_path / "store")
    first = run_build(tree, store)
    assert store.puts[-1] == f"manifest/{first.digest.hex()}"
    assert {path.split("/")[0] for path in store.puts} == {"pack", "locator", "index", "meta", "manifest"}
    store.puts.clear()
    again = run_build(tree, store, level=9)
    assert again.digest == first.digest
    assert {path.split("/")[0] for path in store.puts} <= {"manifest"}
    assert list((store.folder / "tmp").iterdir()) == []


def test_an_update_points_at_the_packs_it_has(tmp_path: Path, packer: str) -> None:
    tree = small_tree(tmp_path / "tree")
    store = FolderStore(tmp_path / "store")
    first = run_build(tree, store)
    packs = set(os.listdir(store.folder / "pack"))
    (tree / "folder" / "new").write_bytes(pattern(3000, 3))
    second = run_build(tree, store, revision=2, prev=first.digest)
    assert second.signed.manifest.prev == first.digest
    assert second.units_new < second.units
    assert second.stored_bytes < 30_000
    assert len(set(os.listdir(store.folder / "pack")) - packs) == 1
    unpack_image(store.folder, second.digest, tmp_path / "image")

    alone = FolderStore(tmp_path / "alone")
    same = run_build(tree, alone, revision=2, prev=first.digest)
    assert same.digest == second.digest, "what a store has is not identity"

    for pack in packs:
        (store.folder / "pack" / pack).unlink()
    third = run_build(tree, store, revision=3, prev=second.digest)
    assert third.units_new == third.units - second.units_new
    unpack_image(store.folder, third.digest, tmp_path / "repaired")


def test_a_tree_without_data_is_an_image(tmp_path: Path, packer: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "empty").touch()
    (tree / "zeros").write_bytes(bytes(300_000))
    store = FolderStore(tmp_path / "store")
    result = run_build(tree, store)
    assert (result.units, result.blob_bytes, result.stored_bytes) == (0, 0, 0)
    unpack_image(store.folder, result.digest, tmp_path / "image")
    assert not (store.folder / "pack").exists()


@pytest.mark.root
def test_an_image_without_data_can_be_mounted(tmp_path: Path, erofs: None) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "zeros").write_bytes(bytes(300_000))
    store = FolderStore(tmp_path / "store")
    result = run_build(tree, store)
    unpack_image(store.folder, result.digest, tmp_path / "image")
    try:
        with mounted(tmp_path / "image", tmp_path / "mnt") as mount:
            assert_same(tree, mount)
    except OSError as error:
        if error.errno in (errno.ENOTBLK, errno.EPERM):
            pytest.skip(f"EROFS cannot be mounted from a file here: {error}")
        raise


@pytest.mark.root
def test_xattrs_across_blocks_and_every_link_length_in_the_kernel(tmp_path: Path, erofs: None) -> None:
    """Layouts that ext4 cannot even hold, straight from the writer."""
    inodes: list[Inode] = []
    common: dict[str, Any] = {"path": b"", "uid": 0, "gid": 0, "mtime_ns": 5}
    large = tuple((b"trusted.%02d" % number, bytes([number + 1]) * (number * 97)) for number in range(40))
    wanted: dict[str, tuple[tuple[bytes, bytes], ...]] = {}
    entries: list[tuple[bytes, int]] = []
    for name, attributes in (("big", ((b"trusted.big", b"\x77" * 65_535),)), ("many", large)):
        wanted[name] = attributes
        inodes.append(Inode(mode=stat.S_IFIFO | 0o600, xattrs=attributes, **common))
        entries.append((name.encode(), len(inodes)))
    for length in (1, 59, 60, 3000, 4031, 4032, 4033, 4095):
        for shift in range(0, 4096, 1024):
            name = f"link-{length:04}-{shift:04}"
            wanted[name] = ((b"trusted.pad", b"p" * shift),) if shift else ()
            inodes.append(Inode(mode=stat.S_IFLNK | 0o777, target=b"x" * length, xattrs=wanted[name], **common))
            entries.append((name.encode(), len(inodes)))
    root = Inode(mode=stat.S_IFDIR | 0o755, entries=tuple(sorted(entries)), **common)
    (tmp_path / "image").mkdir()
    page_list, _ = build_index([])
    tag = page_list.root.hex().encode()
    (tmp_path / "image" / "meta.erofs").write_bytes(meta_image(Tree([root, *inodes]), {}, blob_blocks=0, tag=tag))
    (tmp_path / "image" / "blob").touch()
    try:
        with mounted(tmp_path / "image", tmp_path / "mnt") as mount:
            assert sorted(os.listdir(mount)) == sorted(wanted)
            for name, attributes in wanted.items():
                path = mount / name
                assert sorted(os.listxattr(path, follow_symlinks=False)) == [key.decode() for key, _ in attributes]
                for key, value in attributes:
                    assert os.getxattr(path, key, follow_symlinks=False) == value, (name, key)
                if name.startswith("link"):
                    assert len(os.readlink(path)) == int(name.split("-")[1])
    except OSError as error:
        if error.errno in (errno.ENOTBLK, errno.EPERM):
            pytest.skip(f"EROFS cannot be mounted from a file here: {error}")
        raise


def change(tree: Path, how: str) -> None:
    target = tree / "large"
    if how == "grown":
        with open(target, "ab") as stream:
            stream.write(b"x")
    elif how == "shrunk":
        os.truncate(target, 500_000)
    elif how == "touched":
        set_mtime(target, 1)
    else:
        target.unlink()
        if how == "fifo":
            os.mkfifo(target)
        elif how == "link":
            target.symlink_to("/etc/hostname")
        elif how == "folder":
            target.mkdir()


@pytest.mark.parametrize("how", ["grown", "shrunk", "touched", "gone", "fifo", "link", "folder"])
def test_a_file_that_changes_while_it_is_read_ends_the_build(
    how: str, packer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = small_tree(tmp_path / "tree")
    store = FolderStore(tmp_path / "store")
    walk = flist.walk.walk

    def walk_and_change(*args: Any, **kwargs: Any) -> Any:
        walked = walk(*args, **kwargs)
        change(tree, how)
        return walked

    monkeypatch.setattr(flist.build, "walk", walk_and_change)
    with pytest.raises(FileChanged, match="large") as caught:
        run_build(tree, store)
    assert caught.value.retryable
    assert caught.value.context["path"] == "large"
    assert store.objects() == {}
    assert list((store.folder / "tmp").iterdir()) == []


def test_a_folder_replaced_by_a_link_leads_nowhere(
    packer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = small_tree(tmp_path / "tree")
    outside = tmp_path / "outside"
    shutil.copytree(tree / "folder", outside)
    walk = flist.walk.walk

    def walk_and_change(*args: Any, **kwargs: Any) -> Any:
        walked = walk(*args, **kwargs)
        shutil.rmtree(tree / "folder")
        (tree / "folder").symlink_to(outside)
        return walked

    monkeypatch.setattr(flist.build, "walk", walk_and_change)
    with pytest.raises(FileChanged):
        run_build(tree, FolderStore(tmp_path / "store"))


def test_a_build_that_was_killed_leaves_nothing_to_see_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    store = tmp_path / "store"
    script = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "import flist.build\n"
        "from tests.images import FolderStore\n"
        "flist.build._finish = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(flist.build.build(Path(sys.argv[1]), FolderStore(Path(sys.argv[2])), name='a/b', revision=1))\n"
    )
    root = Path(flist.build.__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", script, str(tree), str(store)], cwd=root, check=False)
    assert done.returncode == -9
    left = list((store / "tmp").iterdir())
    assert len(left) == 1
    assert [path.name for path in store.iterdir()] == ["tmp"]
    result = run_build(tree, FolderStore(store))
    assert list((store / "tmp").iterdir()) == []
    unpack_image(store, result.digest, tmp_path / "image")


def test_a_cancelled_build_waits_for_its_threads_and_leaves_nothing(tmp_path: Path, packer: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(60):
        (tree / f"{number}").write_bytes(pattern(1_000_000, number))
    store = FolderStore(tmp_path / "store")
    before = threading.active_count()

    class Stop:
        """Cancels the build when packing begins."""

        def task(self, label: str, *, total: int | None = None, unit: Any = "items") -> AbstractContextManager[Task]:
            if label == "packing":
                running = asyncio.current_task()
                assert running is not None
                asyncio.get_running_loop().call_later(0.01, running.cancel)
            return SILENT.task(label, total=total, unit=unit)

    with pytest.raises(asyncio.CancelledError):
        run_build(tree, store, progress=Stop())
    assert store.objects() == {}
    assert list((store.folder / "tmp").iterdir()) == []
    assert threading.active_count() == before


def test_a_living_build_is_not_cleaned_away(tmp_path: Path) -> None:
    with scratch_directory(tmp_path) as mine, scratch_directory(tmp_path) as other:
        assert mine.is_dir()
        assert other.is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_mount_points_are_kept_empty_and_told(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    (tree / "folder" / "proc").mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "none", str(tree / "folder" / "proc")], check=False)
    if mount.returncode:
        pytest.skip("no mount here")
    try:
        (tree / "folder" / "proc" / "inside").write_bytes(b"x")
        skipped = run_build(tree, FolderStore(tmp_path / "one"))
        crossed = run_build(tree, FolderStore(tmp_path / "two"), cross_mounts=True)
    finally:
        subprocess.run(["umount", str(tree / "folder" / "proc")], check=True)
    assert skipped.mount_points == ("/folder/proc",)
    assert (crossed.mount_points, crossed.inodes) == ((), skipped.inodes + 1)


def test_what_cannot_be_built_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    store = FolderStore(tmp_path / "store")
    with pytest.raises(ManifestInvalid):
        run_build(tree, store, name="zos/../etc")
    with pytest.raises(ManifestInvalid):
        run_build(tree, store, revision=0)
    with pytest.raises(TreeUnreadable):
        run_build(tmp_path / "missing", store)
    with pytest.raises(TreeUnreadable):
        run_build(tree / "small", store)
    deep = tree
    for _ in range(260):
        deep = deep / "d"
        deep.mkdir()
    with pytest.raises(TreeUnsupported, match="deep"):
        run_build(tree, store)
    assert store.objects() == {}


def test_a_pack_that_cannot_be_written_is_an_error(packer: str, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    one = PACKERS[packer](os.fsencode(tmp_path / "gone"), level=3, threads=1, known=b"", pack_max=1 << 30)
    seconds, nanoseconds = divmod((tree / "small").stat().st_mtime_ns, 10**9)
    file = FILE.pack(5, seconds, nanoseconds, 5)
    with pytest.raises(FileNotFoundError):
        one.add(os.fsencode(tree), b"small", file, PART.pack(0, 5, 0), UNIT.pack(1, 0))
    with pytest.raises(ValueError, match="finished"):
        one.finish()


def test_mkfs_reads_the_same_tree(tmp_path: Path) -> None:
    """mkfs.erofs as an oracle: what fsck extracts from our image is what it extracts from theirs."""
    if not (shutil.which("mkfs.erofs") and shutil.which("fsck.erofs")):
        pytest.skip("erofs-utils is not installed")
    tree = small_tree(tmp_path / "tree")
    (tree / "link").symlink_to("small")
    store = FolderStore(tmp_path / "store")
    result = run_build(tree, store)
    unpack_image(store.folder, result.digest, tmp_path / "image")
    subprocess.run(
        ["mkfs.erofs", "--quiet", str(tmp_path / "theirs.erofs"), str(tree)], check=True, capture_output=True
    )
    for name, options, image in (
        ("ours", [f"--device={tmp_path / 'image' / 'blob'}"], tmp_path / "image" / "meta.erofs"),
        ("theirs", [], tmp_path / "theirs.erofs"),
    ):
        command = ["fsck.erofs", f"--extract={tmp_path / name}", *options, str(image)]
        subprocess.run(command, check=True, capture_output=True)
    ignore = frozenset({"mtime_ns"})
    assert differences(describe(tmp_path / "ours", ignore=ignore), describe(tmp_path / "theirs", ignore=ignore)) == []


def test_a_stored_metadata_image_is_one_frame(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    manifest = run_build(small_tree(tmp_path / "tree"), store).signed.manifest
    stored = (store.folder / "meta" / manifest.meta.blake3.hex()).read_bytes()
    assert zstandard.frame_content_size(stored) == manifest.meta.size
    assert (
        PageList.decode((store.folder / "index" / manifest.index.root.hex()).read_bytes(), manifest.index.root).units
        == 5
    )


def test_an_unreadable_file_is_named(packer: str, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    tree = small_tree(tmp_path / "tree")
    (tree / "large").chmod(0)
    with pytest.raises(FileUnreadable, match="large"):
        run_build(tree, FolderStore(tmp_path / "store"))
