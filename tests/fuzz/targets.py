"""What is fuzzed in Python. A new parser of bytes from outside gets its line in `targets`."""

from __future__ import annotations

import json
import struct
import tempfile
from functools import partial
from itertools import islice
from pathlib import Path

from blake3 import blake3
from nacl.signing import SigningKey

from flist.bundles import chunk_bits
from flist.erofs import meta_image
from flist.erofs_reader import read_meta
from flist.hub.checkpoint import open_checkpoint, sign_checkpoint
from flist.index import Page, PageList, PageRef
from flist.locator import Locator
from flist.manifest import SignedManifest, decode_manifest
from flist.names import ImageName, NameRecord, parse_record, sign_record
from flist.places import places_of
from flist.tree import Inode, Tree
from native.reference.pipeline import Pipeline
from tests.erofs_reader import crc32c
from tests.fuzz.harness import Target
from zos_core.base.keyring import Key
from zos_core.base.request_signature import Message, parse_input, verify
from zos_core.containers.logfile import LogReader

__all__ = ["targets"]

VECTORS = Path(__file__).resolve().parents[1] / "vectors"


def vector(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


def page(data: bytes) -> Page:
    """A page that the page list names: what is behind the hash, from a publisher who means harm."""
    block = struct.unpack_from("<I", data, 8)[0] if len(data) >= 12 else 0
    return Page.decode(data, PageRef(blake3(data).digest(), block))


def page_list(data: bytes) -> None:
    assert PageList.decode(data, blake3(data).digest()).encode() == data


def locator(data: bytes) -> Locator:
    lengths = [length for name in ("page-0.bin", "page-1.bin") for length in page(vector(f"flist/{name}")).lengths]
    return Locator.decode(data, lengths)


def summed(image: bytes) -> bytes:
    """With a checksum that fits, and whole blocks: so that what lies behind those checks is reached."""
    data = bytearray(image[: len(image) // 4096 * 4096])
    if len(data) >= 4096:
        data[1028:1032] = bytes(4)
        data[1028:1032] = struct.pack("<I", crc32c(bytes(data[1024:4096])))
    return bytes(data)


def metadata(image: bytes) -> int:
    """As far as an extraction goes before it makes a file."""
    found = read_meta(image)
    pieces = 0
    for number in found.chunks:
        for place in islice(places_of(found, number, most=1 << 31), 1000):
            pieces += 1
            assert 0 <= place.address < place.address + place.length <= (found.blob_blocks + 1) * 4096
    return pieces


def tree_image() -> bytes:
    """A small tree with everything in it that an image can hold."""
    root = [
        (b"dir", 3),
        (b"file", 1),
        (b"link", 2),
    ]
    inodes = [
        Inode(path=b"", mode=0o40755, uid=0, gid=0, mtime_ns=1, entries=tuple(root), xattrs=((b"user.a", b"b"),)),
        Inode(path=b"file", mode=0o100644, uid=1, gid=2, mtime_ns=-1, size=300_000),
        Inode(path=b"link", mode=0o120777, uid=0, gid=0, mtime_ns=0, target=b"file"),
        Inode(path=b"dir", mode=0o40700, uid=0, gid=0, mtime_ns=0, entries=((b"file2", 1), (b"null", 4))),
        Inode(path=b"dir/null", mode=0o20666, uid=0, gid=0, mtime_ns=0, device=(1, 3)),
    ]
    count = -(-300_000 >> chunk_bits(300_000))
    return meta_image(Tree(inodes), {1: list(range(count))}, blob_blocks=100, tag=b"f" * 64)


def log(data: bytes, *, directory: Path) -> None:
    """A log file that logd, or a failing disk, has left behind."""
    (directory / "1.log").write_bytes(data)
    with LogReader(directory) as reader:
        while reader.read(bytes_max=65_536):
            pass


FIELDS = ("method", "authority", "path", "query", "Content-Digest", "Signature-Input", "Signature")
CREATED_S = 1_790_000_000
SEALED = Pipeline(chunk_bytes=1000, level=3, cipher="aes-256-gcm", key=bytes(32), k=2, m=1)
SEALED_PLAIN = b"a text that is sealed, " * 40


def signed_requests() -> list[bytes]:
    """The golden requests, a line for each part of the head."""
    requests = json.loads(vector("request_signature.json"))
    return ["\n".join(str(request[field]) for field in FIELDS).encode() for request in requests]


def signed_request(data: bytes) -> object:
    """What a stranger sends to a hub: the head of a request that says it is signed."""
    lines = data.decode("latin-1").split("\n", len(FIELDS) - 1)
    method, authority, path, query, *values = lines + [""] * (len(FIELDS) - len(lines))
    fields = {name.lower(): value for name, value in zip(FIELDS[4:], values, strict=True) if value}
    message = Message(method=method, authority=authority, path=path, query=query, fields=fields)
    parse_input(fields.get("signature-input", ""))
    return verify(message, known=lambda _: True, audiences=[authority], now_s=CREATED_S + 1)


def sealed_chunk() -> bytes:
    """A chunk with all that a chunk can have, in front of it the bytes of a shard."""
    slot, length = bytearray(SEALED.slot_bytes), bytearray(4)
    SEALED.seal_into(SEALED_PLAIN, slot, length)
    return bytes(length + slot)


def open_chunk(data: bytes) -> None:
    """The twin on a slot that somebody else wrote: right or refused, and never something else (PIPELINE-OPEN-4)."""
    out = bytearray(len(SEALED_PLAIN))
    SEALED.open_into(data[4:][: SEALED.slot_bytes].ljust(SEALED.slot_bytes, b"\0"), data[:4].ljust(4, b"\0"), out)
    assert out == SEALED_PLAIN


def targets() -> list[Target]:
    """All of them."""
    key = Key("jane", SigningKey(bytes(range(32))))
    record = NameRecord(name="jane/web", tag="latest", digest=bytes(32), revision=3)
    scratch = Path(tempfile.mkdtemp(prefix="zos-fuzz-"))
    return [
        Target("manifest", [vector("flist/manifest.bin")], decode_manifest),
        Target("flist-file", [vector("flist/golden.flist")], SignedManifest.parse),
        Target("page-list", [vector("flist/page-list.bin")], page_list),
        Target("index-page", [vector("flist/page-0.bin"), vector("flist/page-1.bin")], page),
        Target("locator", [vector("flist/locator.bin")], locator),
        Target(
            "name-record", [sign_record(record, key)], lambda data: parse_record(data, trusted=lambda _: [key.public])
        ),
        Target(
            "image-name",
            [b"jane/web:1.2", b"hub.example:80/jane/web@" + b"0f" * 32],
            lambda data: ImageName.parse(data.decode(errors="replace"), publisher="jane"),
        ),
        Target(
            "checkpoint",
            [sign_checkpoint(key, 3, bytes(32)).encode()],
            lambda data: open_checkpoint(data.decode(errors="replace")),
        ),
        Target("request-signature", signed_requests(), signed_request),
        Target("erofs-metadata", [vector("flist/meta.erofs"), tree_image()], metadata, summed),
        Target("sealed-chunk", [sealed_chunk()], open_chunk),
        Target("log-file", [vector("log/1.log")], partial(log, directory=scratch)),
    ]
