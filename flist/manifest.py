"""The manifest of an image, its digest, and the .flist file: exactly one encoding of each. Pure.

manifest   magic "ZOSFLIST" | u16 version 1 | u32 length | msgpack map of `Manifest` in the order of its fields
digest     BLAKE3 of all these bytes
.flist     manifest | u8 count | count x (key 32, signature 64), keys ascending
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from blake3 import blake3
from msgspec import Meta

from flist.bundles import BLOCK, UNIT_MAX
from flist.errors import ManifestInvalid
from flist.index import BLOCKS_MAX, PAGE_UNITS, UNITS_MAX
from zos_core.base.document import Document, decode_canonical, encode_msgpack
from zos_core.base.errors import DocumentInvalid

__all__ = [
    "MANIFEST_MAX",
    "META_MAX",
    "NAME_PATTERN",
    "REVISION_MAX",
    "SIGNATURES_MAX",
    "SIGNATURE_CONTEXT",
    "Architecture",
    "IndexRef",
    "Manifest",
    "ObjectRef",
    "Signature",
    "SignedManifest",
    "decode_manifest",
    "encode_manifest",
    "signing_input",
]

MAGIC = b"ZOSFLIST"
VERSION = 1
MANIFEST_MAX = 65_536
"""Of the msgpack in bytes: fields are few and short; a document this long is an attack."""
META_MAX = 1 << 32
"""Plain bytes of a metadata image: some 50 million inodes."""
OBJECT_MAX = 16 << 20
"""Bytes of a trace or an OCI configuration."""
SIGNATURES_MAX = 16
REVISION_MAX = 2**63 - 1
UNIT_BLOCKS = UNIT_MAX // BLOCK
FILE_MAX = 14 + MANIFEST_MAX + 1 + 96 * SIGNATURES_MAX
"""Of an .flist file: no reader needs to take in more."""
SIGNATURE_CONTEXT = b"zos/flist/manifest/v1\0"
NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?/[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?\Z"

_HEADER = struct.Struct("<8sHI")
_SIGNATURE = struct.Struct("<32s64s")

Architecture = Literal["x86_64", "aarch64"]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]


class ObjectRef(Document, frozen=True, kw_only=True):
    """An object by the hash and size of its plain bytes."""

    blake3: Hash
    size: Annotated[int, Meta(ge=1, le=META_MAX)]


class IndexRef(Document, frozen=True, kw_only=True):
    """The index: hash of the page list, and how much it covers."""

    root: Hash
    pages: Annotated[int, Meta(ge=0, le=UNITS_MAX // PAGE_UNITS)]
    units: Annotated[int, Meta(ge=0, le=UNITS_MAX)]
    blocks: Annotated[int, Meta(ge=0, le=BLOCKS_MAX)]


class Manifest(Document, frozen=True, kw_only=True):
    """What an image is. No clock, no compressed size, no pack: those are not identity.

    Attributes:
        name: `publisher/name`.
        architecture: of the programs inside, as `uname -m` says it.
        revision: never goes back for a name.
        expires_s: seconds since the epoch after which the image must not be started, if any.
        prev: digest of the manifest that this one replaces, if any.
        meta: the EROFS metadata image, plain.
        index: the units of the blob.
        trace: units in the order of their first use at a recorded start, if any.
        oci: the OCI image configuration, if any.
    """

    name: Annotated[str, Meta(pattern=NAME_PATTERN)]
    architecture: Architecture
    revision: Annotated[int, Meta(ge=1, le=REVISION_MAX)]
    expires_s: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    prev: Hash | None = None
    meta: ObjectRef
    index: IndexRef
    trace: ObjectRef | None = None
    oci: ObjectRef | None = None


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes whose BLAKE3 is the image's digest (FLIST-MAN-1).

    Raises:
        ManifestInvalid: a field is out of its limits.
    """
    body = encode_msgpack(manifest)
    data = _HEADER.pack(MAGIC, VERSION, len(body)) + body
    decode_manifest(data)  # what would not be accepted is not written
    return data


def decode_manifest(data: bytes) -> Manifest:
    """A manifest from exactly its bytes, header included.

    Raises:
        ManifestInvalid: another magic, version, length or encoding, or a field out of its limits.
    """
    manifest, rest = _split(data)
    if rest:
        raise ManifestInvalid("bytes follow the manifest", trailing_bytes=len(rest))
    return _decode_body(manifest)


def signing_input(digest: bytes) -> bytes:
    """What a publisher signs (FLIST-SIG-1)."""
    if len(digest) != 32:
        raise ValueError("a digest has 32 bytes")
    return SIGNATURE_CONTEXT + digest


@dataclass(frozen=True, slots=True, order=True)
class Signature:
    """One Ed25519 signature over `signing_input(digest)`; not verified by being here."""

    key: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest's exact bytes and its signature block: what an .flist file and `manifest/<digest>` hold."""

    manifest_bytes: bytes
    signatures: tuple[Signature, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a block that would not be accepted when read."""
        if len(self.signatures) > SIGNATURES_MAX:
            raise ManifestInvalid("too many signatures", signatures=len(self.signatures))
        if any(len(each.key) != 32 or len(each.signature) != 64 for each in self.signatures):
            raise ManifestInvalid("a signature block has keys of 32 and signatures of 64 bytes")
        keys = [each.key for each in self.signatures]
        if any(before >= after for before, after in pairwise(keys)):
            raise ManifestInvalid("the keys of a signature block must ascend")

    @property
    def manifest(self) -> Manifest:
        """The document."""
        return decode_manifest(self.manifest_bytes)

    @property
    def digest(self) -> bytes:
        """The identity of the image (FLIST-MAN-4)."""
        return blake3(self.manifest_bytes).digest()

    def with_signature(self, signature: Signature) -> SignedManifest:
        """The same with one more signature; an older one by the same key is replaced."""
        others = [each for each in self.signatures if each.key != signature.key]
        return SignedManifest(self.manifest_bytes, tuple(sorted([*others, signature])))

    def encode(self) -> bytes:
        """The bytes of an .flist file (FLIST-FILE-1)."""
        decode_manifest(self.manifest_bytes)
        block = b"".join(_SIGNATURE.pack(each.key, each.signature) for each in self.signatures)
        return self.manifest_bytes + bytes([len(self.signatures)]) + block

    @classmethod
    def parse(cls, data: bytes) -> SignedManifest:
        """An .flist file. Signatures are not verified here.

        Raises:
            ManifestInvalid: not an .flist file of version 1; trailing bytes are refused.
        """
        body, rest = _split(data)
        _decode_body(body)
        if not rest:
            raise ManifestInvalid("the signature block is missing")
        count = rest[0]
        if len(rest) != 1 + _SIGNATURE.size * count:
            raise ManifestInvalid("the signature block has a wrong length, or bytes follow it", signatures=count)
        signatures = tuple(Signature(key, signature) for key, signature in _SIGNATURE.iter_unpack(rest[1:]))
        return cls(data[: len(data) - len(rest)], signatures)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """The msgpack of the manifest, and what follows it."""
    if len(data) < _HEADER.size:
        raise ManifestInvalid("this is not an flist: it is too short")
    magic, version, length = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ManifestInvalid("this is not an flist: the magic is missing")
    if version != VERSION:
        raise ManifestInvalid(f"an flist of version {version}", hint="a newer zos may read it", version=version)
    if length > MANIFEST_MAX:
        raise ManifestInvalid("the manifest is too long", length=length)
    if len(data) < _HEADER.size + length:
        raise ManifestInvalid("the flist is cut off", length=len(data))
    return data[_HEADER.size : _HEADER.size + length], data[_HEADER.size + length :]


def _decode_body(body: bytes) -> Manifest:
    try:
        manifest = decode_canonical(body, Manifest, what="manifest")
    except DocumentInvalid as error:
        raise ManifestInvalid(error.message) from error
    for ref in (manifest.trace, manifest.oci):
        if ref is not None and ref.size > OBJECT_MAX:
            raise ManifestInvalid("a trace or OCI configuration is too large", size=ref.size)
    index = manifest.index
    if index.pages != -(-index.units // PAGE_UNITS) or not index.units <= index.blocks <= UNIT_BLOCKS * index.units:
        raise ManifestInvalid("the numbers of pages, units and blocks contradict each other")
    return manifest
