"""What an image can carry, on a real node: links where the runtime mounts, devices, rights, whiteouts, lies."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from flist.erofs_reader import read_meta
from flist.manifest import SignedManifest
from flist.tree import Inode
from tests.disks import small_disk
from tests.e2e.node_tool import Done, Node, problem, zos
from tests.erofs_reader import read_image
from tests.images import mounted
from tests.integration.spawn_kit import Tree
from tests.mounts import in_own_mount_namespace
from tests.security.forge import Forge, inode, renamed
from tests.security.kit import disk, run_inside, run_outside
from tests.security.naive import extract_by_joining, mask_by_path, mount_by_path, overlaid
from zos_core.containers.launch import CAPABILITIES, MASKED

pytestmark = pytest.mark.root

CAP_NET_RAW, CAP_SYS_ADMIN = 13, 21


@pytest.fixture(scope="module")
def forge(attacked: Node) -> Forge:
    return Forge(attacked.store, attacked.store / "attack.flist")


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that links of an image point at; it stays as it is."""
    directory = tmp_path / "precious"
    directory.mkdir()
    (directory / "kept").write_text("kept")
    before = directory.stat()
    yield directory
    assert [path.name for path in directory.iterdir()] == ["kept"]
    assert (directory / "kept").read_text() == "kept"
    after = directory.stat()
    assert (before.st_mode, before.st_uid, before.st_mtime_ns) == (after.st_mode, after.st_uid, after.st_mtime_ns)


def run(node: Node, image: Path, *command: str, provider: str | None = None) -> Done:
    chosen = ["--provider", provider] if provider else []
    return node.run("--rm", *chosen, str(image), command=list(command))


def link(target: str | Path) -> Inode:
    return inode(stat.S_IFLNK | 0o777, target=os.fsencode(target))


def extract(image: Path, store: Path, target: Path, *more: str) -> Done:
    return zos("flist", "extract", "--json", "--store", str(store), *more, str(image), str(target))


def extracted(image: Path, store: Path, target: Path) -> Path:
    """The tree of an image, for what a careless engine does with it."""
    done = extract(image, store, target)
    assert done.status == 0, done.err
    return target


def meta_of(image: Path, store: Path) -> Path:
    """The file in the store that is the metadata of an image, compressed."""
    return store / "meta" / SignedManifest.parse(image.read_bytes()).manifest.meta.blake3.hex()


def unpacked(path: Path) -> bytes:
    """An object of a store, with no limit and no look at its hash."""
    return zstandard.ZstdDecompressor().decompress(path.read_bytes())


# --- 6 and 7: links where the runtime mounts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dev", "absolute"),
        ("dev", "relative"),
        ("dev", "file"),
        ("proc", "absolute"),
        ("sys", "relative"),
        ("etc", "absolute"),
    ],
)
def test_mount_points_that_lead_elsewhere_are_refused(
    attacked: Node, forge: Forge, precious: Path, tmp_path: Path, name: str, kind: str
) -> None:
    """CVE-2019-19921, CVE-2023-27561, CVE-2026-41579, CVE-2026-47766."""
    made = {
        "absolute": link(precious),
        "relative": link("../" * 20 + str(precious).lstrip("/")),
        "file": inode(stat.S_IFREG | 0o644),
    }[kind]
    image = forge.image({name.encode(): made}, without=[name.encode()])
    done = attacked.zos("run", "--json", "--rm", "--store", str(attacked.store), str(image), "--", "true")
    assert done.status > 1, done
    said = problem(done)
    assert f"/{name} of the image is no directory" in said["message"], said
    assert attacked.names() == []
    # The control: what mounts by path follows the link, out of the root. On a file the kernel mounts no directory.
    root = extracted(image, attacked.store, tmp_path / "root")
    if kind == "file":
        with pytest.raises(NotADirectoryError):
            in_own_mount_namespace(lambda: mount_by_path(root / name))
    else:
        assert in_own_mount_namespace(lambda: mount_by_path(root / name)) == [str(precious)]


# --- 4: CVE-2025-31133 -----------------------------------------------------------------------------------------------


def test_an_images_own_dev_null_is_never_used(attacked: Node, forge: Forge, tmp_path: Path) -> None:
    target = Path("/proc/sys/kernel/core_pattern")
    image = forge.image({b"null": link(target)}, at=b"dev")
    there = [path.decode() for path in MASKED if Path(path.decode()).is_file()]
    done = run(attacked, image, "stat", "-c", "%t,%T %F", "/dev/null", *there)
    assert done.out.splitlines() == ["1,3 character special file"] * (1 + len(there)), done.err
    # The control: masks that are the image's own node are what its link leads to, a knob of the host.
    root = extracted(image, attacked.store, tmp_path / "root")
    masked = [path for path in there if path.startswith("/proc/")]
    assert masked

    def masked_with_the_target() -> list[bool]:
        return [file.samefile(target) for file in mask_by_path(root, masked)]

    assert in_own_mount_namespace(masked_with_the_target) == [True] * len(masked)


# --- 24: what an flist can carry -------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", [None, "extract"])
def test_device_nodes_of_an_image_lead_nowhere(
    attacked: Node, forge: Forge, programs: Path, provider: str | None
) -> None:
    """Attack 19 by way of the image: the disk of the machine, its memory, and a null device where it is not listed."""
    major, minor = map(int, disk().split(":"))
    nodes = {
        b"disk": inode(stat.S_IFBLK | 0o666, device=(major, minor)),
        b"mem": inode(stat.S_IFCHR | 0o666, device=(1, 1)),
        b"null2": inode(stat.S_IFCHR | 0o666, device=(1, 3)),
    }
    image = forge.image(nodes)
    done = run(
        attacked, image, "sh", "-c", "stat -c %F /disk /mem /null2; entry open /disk /mem /null2", provider=provider
    )
    assert done.out.splitlines() == [
        "block special file",
        "character special file",
        "character special file",
        "/disk EACCES",
        "/mem EACCES",
        "/null2 EACCES",
    ], done.err
    # The control: outside, a node that was just made is opened. A null device, since the disk may be forbidden by the
    # device group of the machine that runs this test.
    with tempfile.TemporaryDirectory(dir="/dev") as directory:  # /tmp may be nodev
        outside = Path(directory) / "null2"
        os.mknod(outside, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        assert run_outside(programs, "entry", "open", str(outside)) == f"{outside} ok\n"


def marked(forge: Forge) -> Path:
    """What overlay reads as its own orders, in an image: a whiteout, redirect, opaque, metacopy."""
    marks = {
        b"bin": ((b"trusted.overlay.redirect", b"/etc"),),
        b"etc/mark": ((b"trusted.overlay.metacopy", b""), (b"trusted.overlay.redirect", b"/etc/secret")),
        b"work": ((b"trusted.overlay.opaque", b"y"),),
        b"": ((b"trusted.overlay.opaque", b"y"),),
    }
    gone = inode(stat.S_IFCHR | 0o000, device=(0, 0))
    return forge.image({b"opt": gone, b".wh.etc": inode(stat.S_IFREG | 0o644)}, without=[b"opt"], xattrs=marks)


def test_whiteouts_and_overlay_marks_of_an_image_hide_nothing_of_ours(attacked: Node, forge: Forge) -> None:
    """Nor do they select another file than the one that has the mark."""
    image = marked(forge)
    script = "ls -a / /bin /bin/sh; head -n 1 /etc/passwd; mkdir /opt && echo new > /opt/file && ls /opt; cat /etc/mark"
    done = run(attacked, image, "sh", "-c", script)
    lines = done.out.splitlines()
    assert "/bin/sh" in lines
    assert "root:x:0:0:root:/root:/bin/sh" in lines
    assert "passwd" not in lines, "/bin does not lead to /etc"
    assert ".wh.etc" in lines, "AUFS whiteouts of OCI mean nothing in an flist"
    # What is marked as having its data elsewhere is its own data, or an error: never another file.
    assert lines[-2:] == ["file", "mark"] or (lines[-1] == "file" and "/etc/mark" in done.err), (done.out, done.err)


@pytest.mark.parametrize("metacopy", ["on", "off"])
def test_overlay_marks_select_other_files_where_there_is_a_second_layer(
    attacked: Node, forge: Forge, tmp_path: Path, metacopy: str
) -> None:
    """The control of the test above: the same image over the layer of somebody else, with secrets in it."""
    image = extracted(marked(forge), attacked.store, tmp_path / "image")
    other = tmp_path / "other"
    for name in ("etc/secret", "opt/hidden", "work/hidden"):
        (other / name).parent.mkdir(parents=True)
        (other / name).write_text("secret\n")

    def look() -> None:
        root = overlaid([image, other], tmp_path / "root", f"redirect_dir=on,metacopy={metacopy}")
        assert not (root / "opt").exists(), "the whiteout hides it"
        assert list((root / "work").iterdir()) == [], "the opaque directory hides it"
        assert (root / "bin/secret").read_text() == "secret\n", "the redirect leads from /bin to /etc of the other"
        if metacopy == "on":
            assert (root / "etc/mark").read_text() == "secret\n"
        else:
            with pytest.raises(PermissionError):
                (root / "etc/mark").read_text()

    in_own_mount_namespace(look)


def capable(permitted: int, inheritable: int) -> tuple[tuple[bytes, bytes], ...]:
    """security.capability, revision 2, with the effective flag (linux/capability.h)."""
    return ((b"security.capability", struct.pack("<IIIII", 0x02000001, permitted, inheritable, 0, 0)),)


def test_file_capabilities_gain_nothing(attacked: Node, forge: Forge, programs: Path, tmp_path: Path) -> None:
    """Attack 13: CVE-2022-24769, 27650, 29162."""
    bits = 1 << CAP_NET_RAW | 1 << CAP_SYS_ADMIN
    refused = run(attacked, forge.image(xattrs={b"bin/entry": capable(bits, bits)}), "entry", "caps")
    assert refused.status != 0, "more than the bounding set is no program at all (execve EPERM)"
    assert refused.out == ""
    image = forge.image(xattrs={b"bin/entry": capable(0, bits)})
    done = run(attacked, image, "sh", "-c", "entry caps; cat /proc/self/status")
    status = dict(line.split(":\t", 1) for line in done.out.splitlines() if ":\t" in line)
    default = sum(1 << number for number in CAPABILITIES.values())
    assert int(done.out.split()[1], 16) == default
    assert (int(status["CapInh"], 16), int(status["CapAmb"], 16), status["NoNewPrivs"]) == (0, 0, "1")
    attacked.run("-d", "--name", "box", "attack", command=["sleep", "1000"])
    inside = attacked.zos("exec", "box", "--", "cat", "/proc/self/status").out
    assert attacked.zos("rm", "-f", "box").status == 0
    status = dict(line.split(":\t", 1) for line in inside.splitlines() if ":\t" in line)
    found = [int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
    assert found == [0, default, default, default, 0]
    # The control: outside, such a file gives an ordinary user these very capabilities.
    file = reachable(tmp_path) / "entry"
    file.write_bytes((programs / "entry").read_bytes())
    file.chmod(0o755)
    os.setxattr(file, *capable(bits, 0)[0])
    out = subprocess.run([file, "caps"], capture_output=True, text=True, user=65534, check=True).stdout
    assert int(out.split()[-1], 16) & bits == bits


def reachable(directory: Path) -> Path:
    """The directory, to which any user finds a way."""
    for path in (directory, *directory.parents):
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    return directory


def test_setuid_programs_gain_nothing(tree: Tree) -> None:
    """With no_new_privileges, which every container has; without it they do."""
    program = tree.state / "tree/bin/entry-setuid"
    program.write_bytes((tree.state / "tree/bin/entry").read_bytes())
    program.chmod(0o4755)
    user = {"uid": 1000, "gid": 1000}
    assert run_inside(tree, "entry-setuid", "caps", user=user).split()[1] == "0" * 16
    control = run_inside(tree, "entry-setuid", "caps", user=user, no_new_privileges=False, seccomp="unconfined")
    assert int(control.split()[1], 16) != 0


# Placeholders that sort where the name sorts, so that it is the name alone for which an image is refused.
NAMES_LEADING_OUT = [(b"..-out", b"../out"), (b".out", b"/out"), (b"a-..-..-out", b"a/../../out")]
EVIL_NAMES = [
    *NAMES_LEADING_OUT,
    (b"a0b", b"a\0b"),
    (b"bio", b"bin"),
    (b".0x", b"..\0"),
]


@pytest.mark.parametrize(("before", "after"), EVIL_NAMES)
@pytest.mark.parametrize("provider", ["extract", None])
def test_names_that_lead_out_of_the_tree(
    attacked: Node, forge: Forge, before: bytes, after: bytes, provider: str | None
) -> None:
    """ "..", absolute names, slashes, a name twice: extract refuses them, and mounted they lead nowhere."""
    state = Path(f"/var/lib/zos/{attacked.instance}")
    image = forge.image({before: inode(stat.S_IFREG | 0o644)}, bend=renamed(before, after))
    chosen = ["--provider", provider] if provider else []
    arguments = ["--json", "--rm", "--store", str(attacked.store), *chosen, str(image), "--", "ls", "-a", "/"]
    done = attacked.zos("run", *arguments)
    if provider == "extract":
        assert done.status != 0
        assert problem(done)["code"] == "flist.meta-invalid", done.out
    outside = [Path("/out"), state / "out", state / "images/out", state / "images" / digest_of(image) / "out"]
    assert not any(path.exists() for path in outside)
    assert attacked.names() == []


def test_a_placeholder_alone_is_no_reason_to_refuse(attacked: Node, forge: Forge) -> None:
    """The control of the test above."""
    image = forge.image({before: inode(stat.S_IFREG | 0o644) for before, _ in EVIL_NAMES})
    done = run(attacked, image, "ls", "-a", "/", provider="extract")
    assert {before.decode() for before, _ in EVIL_NAMES} <= set(done.out.split())


@pytest.mark.parametrize(("before", "after"), NAMES_LEADING_OUT)
def test_names_that_are_joined_lead_out_of_the_tree(
    attacked: Node, forge: Forge, tmp_path: Path, before: bytes, after: bytes
) -> None:
    """The other control: below a root of the test's own, who believes such a name writes outside of his directory."""
    image = forge.image({before: inode(stat.S_IFREG | 0o644)}, bend=renamed(before, after))
    tree = read_image(unpacked(meta_of(image, attacked.store))).root
    assert after in tree.children

    def believe() -> list[str]:
        os.chroot(tmp_path)
        extract_by_joining(tree, b"/target")
        return sorted(os.listdir("/"))

    assert in_own_mount_namespace(believe) == ["out", "target"]
    assert not Path("/out").exists()


def digest_of(image: Path) -> str:
    return SignedManifest.parse(image.read_bytes()).digest.hex()


@pytest.mark.parametrize("provider", ["extract", None])
def test_a_file_of_a_tebibyte_of_nothing_takes_no_room(attacked: Node, forge: Forge, provider: str | None) -> None:
    image = forge.image({b"bomb": inode(stat.S_IFREG | 0o644, size=1 << 40)})
    done = run(
        attacked, image, "sh", "-c", "stat -c %s /bomb; od -A n -t x1 -N 4 -j 1099511627000 /bomb", provider=provider
    )
    assert done.out.split() == [str(1 << 40), "00", "00", "00", "00"], done.err
    held = Path(f"/var/lib/zos/{attacked.instance}/images") / digest_of(image)
    assert held.is_dir()
    assert sum(path.lstat().st_blocks * 512 for path in held.rglob("*")) < 64 << 20


def test_a_file_of_nothing_fills_the_disk_of_who_writes_it_out(attacked: Node, forge: Forge, tmp_path: Path) -> None:
    """The control of the test above."""
    image = forge.image({b"bomb": inode(stat.S_IFREG | 0o644, size=1 << 40)})
    bomb = extracted(image, attacked.store, tmp_path / "tree") / "bomb"

    def write_out() -> None:
        with small_disk(tmp_path / "small", "4m") as disk_, pytest.raises(OSError, match="No space"):
            shutil.copyfile(bomb, disk_.directory / "bomb")

    in_own_mount_namespace(write_out)


BOMB_BYTES = 256 << 20


def lie_about(image: Path, store: Path, lie: str) -> Path:
    """Put other metadata in the place of an image's, in which there is a file `lie`; the file in the store."""
    path = meta_of(image, store)
    good = unpacked(path)
    plain = {"bomb": bytes(BOMB_BYTES), "other": renamed(b"lie", b"lye")(good), "cut": good[:-4096]}[lie]
    path.write_bytes(zstandard.ZstdCompressor().compress(plain))
    return path


@pytest.mark.parametrize("provider", ["extract", None])
@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("bomb", "more bytes than there may be"),
        ("other", "not the bytes that its name says"),
        ("cut", "bytes of"),
    ],
)
def test_metadata_that_is_not_what_was_signed(
    attacked: Node, forge: Forge, provider: str | None, lie: str, reason: str
) -> None:
    """CVE-2021-41190 and its kin: another content, and a frame that unpacks to far more than was promised."""
    image = forge.image({b"lie": inode(stat.S_IFREG | 0o644, mtime_ns=sum(map(ord, lie + (provider or ""))))})
    lie_about(image, attacked.store, lie)
    chosen = ["--provider", provider] if provider else []
    arguments = ["--json", "--rm", "--store", str(attacked.store), *chosen, str(image), "--", "true"]
    done = attacked.zos("run", *arguments)
    assert done.status not in (0, 1), done
    assert problem(done)["code"] in ("flist.meta-invalid", "flist.mount-failed"), done.out
    assert reason in problem(done)["message"]
    assert attacked.names() == []


def test_metadata_that_nobody_compares_is_believed(attacked: Node, forge: Forge, tmp_path: Path) -> None:
    """The control of the test above: our own reader and the kernel take the other metadata, and a bomb unpacks."""
    image = forge.image({b"lie": inode(stat.S_IFREG | 0o644)})
    other = unpacked(lie_about(image, attacked.store, "other"))
    assert b"lye" in dict(read_meta(other).tree.inodes[0].entries)
    image = forge.image({b"lie": inode(stat.S_IFREG | 0o644, mtime_ns=1)})
    bomb = lie_about(image, attacked.store, "bomb")
    assert bomb.stat().st_size < 64 << 10
    assert len(unpacked(bomb)) == BOMB_BYTES
    (tmp_path / "meta.erofs").write_bytes(other)
    (tmp_path / "blob").touch()

    def look() -> list[str]:
        with mounted(tmp_path, tmp_path / "root") as root:
            return os.listdir(root)

    try:
        assert "lye" in in_own_mount_namespace(look)
    except OSError as error:
        if error.errno not in (errno.ENOTBLK, errno.ENODEV):
            raise
        pytest.skip(f"our reader believes it; EROFS cannot be mounted from a file here: {error}")


def repeated(forge: Forge, size: int) -> Path:
    """An image with a file of this size, every 256 KiB of which are the same bytes of its blob."""
    return forge.image({b"again": inode(stat.S_IFREG | 0o644, size=size)}, again={b"again": b"bin/busybox"})


def test_many_chunks_of_the_same_bytes_do_not_fill_the_disk(attacked: Node, forge: Forge, tmp_path: Path) -> None:
    """Amplification: some 2 MB to fetch, and as much to write as the metadata says."""
    image, target = repeated(forge, 5 << 30), tmp_path / "target"
    before = os.statvfs(tmp_path).f_bfree
    refused = extract(image, attacked.store, target)
    assert problem(refused)["code"] == "flist.extract-too-large"
    assert problem(refused)["context"]["data_bytes"] > 5 << 30
    assert "--max-size" in problem(refused)["hint"]
    done = attacked.run("--rm", "--json", "--provider", "extract", str(image), command=["true"])
    assert (done.status, problem(done)["code"]) == (125, "flist.extract-too-large")
    with small_disk(tmp_path / "small", "4m") as disk_:
        full = extract(image, attacked.store, disk_.directory / "target", "--max-size", "6G")
        assert problem(full)["code"] == "disk.full"
        assert str(disk_.directory) in problem(full)["message"]
        assert disk_.files() == {}
        assert not (disk_.directory / "target").exists()
    assert not target.exists()
    assert before - os.statvfs(tmp_path).f_bfree < (1 << 30) // os.statvfs(tmp_path).f_bsize
    # The control: nobody else minds.
    mounted = attacked.run("--rm", str(image), command=["stat", "-c", "%s", "/again"])
    assert mounted.out == f"{5 << 30}\n"


def test_the_same_content_many_times_is_extracted(attacked: Node, forge: Forge, tmp_path: Path) -> None:
    """Honest images repeat themselves too; what is written is right, and the limit is the user's to set."""
    image, target = repeated(forge, 64 << 20), tmp_path / "target"
    refused = extract(image, attacked.store, target, "--max-size", "1M")
    assert problem(refused)["code"] == "flist.extract-too-large"
    assert extract(image, attacked.store, target, "--max-size", "1 M").status == 2
    assert not target.exists()
    done = extract(image, attacked.store, target)
    assert done.status == 0, done.err
    chunk = (target / "bin/busybox").read_bytes()[: 256 << 10]
    with open(target / "again", "rb") as file:
        assert all(file.read(len(chunk)) == chunk for _ in range((64 << 20) // len(chunk)))
        assert file.read() == b""
