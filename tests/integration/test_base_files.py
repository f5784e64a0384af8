"""Atomic files, limits, and the keyring on a real disk."""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from zos_core.base.atomic_file import make_directories, nearest_existing, read_limited, replacing, write_atomic
from zos_core.base.errors import DocumentInvalid, FileNotRegular, FileTooLarge, KeyInvalid, disk_full_at
from zos_core.base.keyring import Keyring, is_signature, key_id, parse_key_id

CONTEXT = b"zos/test/v1\0"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one", 0o600)
    write_atomic(path, b"two", 0o640)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise ValueError("now")

    with pytest.raises(ValueError, match="now"):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_exclusive_refuses_a_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        write_atomic(path, b"second", exclusive=True)
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_reading_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_limited(path, 5) == b"12345"
    with pytest.raises(FileTooLarge):
        read_limited(path, 4)


def test_the_hint_of_a_full_disk_can_be_pasted() -> None:
    told = disk_full_at("/srv/my store/pack/x", OSError(errno.ENOSPC, "No space left on device"))
    assert told.hint is not None
    assert "df '/srv/my store/pack' says" in told.hint


def test_the_nearest_of_what_exists(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert nearest_existing(tmp_path / "here") == tmp_path / "here"
    assert nearest_existing(tmp_path / "here" / "not" / "there") == tmp_path / "here"
    assert nearest_existing(Path("not/there")) == Path()


def waits_for_a_writer(fifo: Path, writer: int) -> bool:
    """Whether this process has the pipe open once more, and waits when it reads there."""
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            if int(entry.name) != writer and os.readlink(entry) == str(fifo):
                return os.get_blocking(int(entry.name))
    return False


def test_a_pipe_is_read_to_its_end_where_that_is_asked_for(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(FileNotRegular, match="no regular file"):
        read_limited(fifo, 5)
    with pytest.raises(FileNotRegular, match="nobody writes"):
        read_limited(fifo, 5, pipe=True)
    for limit, expected in ((5, b"12345"), (4, None)):
        found: list[bytes | Exception] = []

        def read(limit: int = limit, found: list[bytes | Exception] = found) -> None:
            try:
                found.append(read_limited(fifo, limit, pipe=True))
            except FileTooLarge as error:
                found.append(error)

        writer = os.open(fifo, os.O_RDWR)
        reader = threading.Thread(target=read)
        reader.start()
        while reader.is_alive() and not waits_for_a_writer(fifo, writer):
            os.sched_yield()
        os.write(writer, b"123")
        os.write(writer, b"45")
        os.close(writer)
        reader.join()
        assert found == [expected] if expected else isinstance(found[0], FileTooLarge)


@pytest.mark.root
def test_with_an_owner_nothing_is_roots(tmp_path: Path) -> None:
    make_directories(tmp_path / "a" / "b", owner=(4242, 4243))
    write_atomic(tmp_path / "a" / "b" / "file", b"", owner=(4242, 4243))
    for path in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "file"):
        assert (path.stat().st_uid, path.stat().st_gid) == (4242, 4243)


def test_the_own_key_is_made_once_and_trusted(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "zos", publisher="jane")
    assert keyring.publisher() == "jane"
    assert keyring.trusted("jane") == []
    key = keyring.own_key()
    assert keyring.own_key().public == key.public
    assert keyring.trusted("jane") == [key.public]
    assert keyring.publishers() == {"jane": [key.id]}
    assert stat.S_IMODE((tmp_path / "zos" / "key.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "zos").stat().st_mode) == 0o700
    assert Keyring(tmp_path / "zos", publisher="other").publisher() == "jane"


def test_signatures_are_of_one_context_and_key(tmp_path: Path) -> None:
    key = Keyring(tmp_path / "zos").own_key()
    signature = key.sign(CONTEXT, b"message")
    assert is_signature(key.public, CONTEXT, b"message", signature)
    assert not is_signature(key.public, b"zos/other/v1\0", b"message", signature)
    assert not is_signature(key.public, CONTEXT, b"massage", signature)
    assert not is_signature(bytes(32), CONTEXT, b"message", signature)
    assert not is_signature(key.public, CONTEXT, b"message", signature[:-1])
    assert not is_signature(key.public[:-1], CONTEXT, b"message", signature)
    with pytest.raises(ValueError, match="NUL"):
        key.sign(b"no end", b"message")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    keyring.own_key()
    (tmp_path / "key.json").chmod(0o644)
    with pytest.raises(KeyInvalid, match="read by others"):
        keyring.own_key()


@pytest.mark.parametrize("damage", [b"", b"{}", b"null", b'{"version":2}', b"\xff"])
def test_damaged_files_are_named(tmp_path: Path, damage: bytes) -> None:
    keyring = Keyring(tmp_path)
    keyring.own_key()
    write_atomic(tmp_path / "key.json", damage, 0o600)
    with pytest.raises(DocumentInvalid, match=r"key\.json"):
        keyring.own_key()
    write_atomic(tmp_path / "trusted.json", damage, 0o600)
    with pytest.raises(DocumentInvalid, match=r"trusted\.json"):
        keyring.trusted("self")


def test_two_first_uses_at_once_make_one_key(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(Keyring(tmp_path / "zos").own_key().public)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert found[0] in Keyring(tmp_path / "zos").trusted("self")


def test_publishers_and_keys_are_checked(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    keys = [bytes(SigningKey(bytes([number]) * 32).verify_key) for number in range(17)]
    for name in ("", "../x", "A", "a\n", "x" * 65):
        with pytest.raises(KeyInvalid):
            keyring.trust(name, keys[0])
    for key in keys[:16]:
        keyring.trust("jane", key)
    keyring.trust("jane", keys[0])
    with pytest.raises(KeyInvalid, match="16 keys"):
        keyring.trust("jane", keys[16])
    # No point, another form of a point, a point under which anybody signs, and no key at all (SIG-5).
    for wrong, why in ((2, "no point"), (2**255 - 16, "canonical"), (0, "small order"), (1, "small order")):
        with pytest.raises(KeyInvalid, match=why):
            keyring.trust("jane", wrong.to_bytes(32, "little"))
    with pytest.raises(KeyInvalid, match="31 bytes"):
        keyring.trust("jane", bytes(31))
    assert parse_key_id(key_id(bytes(range(32)))) == bytes(range(32))
    for text in (
        "",
        "ed25519:",
        "ed25519:" + "g" * 64,
        "ed25519:" + "A" * 64,
        "rsa:" + "0" * 64,
        "ed25519:" + "0" * 63,
    ):
        with pytest.raises(KeyInvalid):
            parse_key_id(text)
