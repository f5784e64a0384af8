"""Names of images, the signed records that bind a name to a digest, and the way from a name to a verified manifest.

    [hub/]publisher/name[:tag][@digest]

Publisher and name are 1 to 64 of a-z, 0-9, '.', '_', '-' with a letter or digit at both ends; a tag is 1 to 64 of
A-Z, a-z, 0-9, '.', '_', '-' and begins with a letter or digit; a digest is 64 hexadecimal digits; a hub is HOST[:PORT].
A name record (docs/spec/store.md, NAME-2) lies at `name/<publisher>/<name>/<tag>` of a store:

    magic "ZOSFNAME" | u16 version 1 | u32 length | msgpack of NameRecord | key 32 | signature 64
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from msgspec import Meta

from flist.errors import ManifestInvalid
from flist.manifest import NAME_PATTERN, REVISION_MAX, Manifest, SignedManifest
from flist.sign import NAME_CONTEXT, SignatureInvalid, UntrustedPublisher, trust_hint, verify_manifest
from flist.store import ObjectMissing, Store
from native.errors import ZosError
from zos_core.base.document import Document, decode_canonical, encode_msgpack
from zos_core.base.errors import DocumentInvalid, UsageError
from zos_core.base.keyring import KEY_BYTES, PUBLISHER_PATTERN, SIGNATURE_BYTES, Key, is_signature, key_id

__all__ = [
    "TAG_DEFAULT",
    "TAG_PATTERN",
    "Floors",
    "ImageExpired",
    "ImageName",
    "NameInvalid",
    "NameRecord",
    "NameUnknown",
    "SignedRecord",
    "Trusted",
    "check_expiry",
    "fetch_manifest",
    "is_file",
    "parse_record",
    "read_record",
    "resolve",
    "sign_record",
    "store_of",
]

TAG_DEFAULT = "latest"
TEXT_MAX = 512
"""Of a whole name in characters: the longest parts together stay below."""
RECORD_MAX = 1024
"""Of the msgpack of a name record in bytes."""
HUB = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?(:[0-9]{1,5})?\Z")
TAG_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"

_MAGIC = b"ZOSFNAME"
_VERSION = 1
_HEADER = struct.Struct("<8sHI")

Trusted = Callable[[str], Sequence[bytes]]
"""Public keys that may sign for a publisher, such as `Keyring.trusted`."""


class NameInvalid(ZosError):
    """Text that cannot be the name of an image (NAME-1)."""

    code, http_status, exit_status = "flist.name-invalid", 400, 34


class NameUnknown(ZosError):
    """No store that was asked knows the name or digest."""

    code, http_status, exit_status = "flist.name-unknown", 404, 35


class ImageExpired(ZosError):
    """The manifest says that it must not be started any more."""

    code, http_status, exit_status = "flist.expired", 410, 43


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageName:
    """A name that has been checked: none of its parts can leave its directory in a store."""

    publisher: str
    name: str
    tag: str = TAG_DEFAULT
    digest: bytes | None = None
    hub: str | None = None

    @classmethod
    def parse(cls, text: str, *, publisher: str | None = None) -> ImageName:
        """A name as a person writes it; `publisher` is put before a name that has none.

        Raises:
            NameInvalid: anything else; the message says which part.
        """
        if len(text) > TEXT_MAX:
            raise NameInvalid(f"an image name of {len(text)} characters", hint=f"at most {TEXT_MAX}")
        rest, at, digest_text = text.partition("@")
        if at and not re.fullmatch(r"[0-9a-f]{64}", digest_text):
            raise _invalid(text, "what follows '@' is no digest (64 hexadecimal digits)")
        parts = rest.split("/")
        if len(parts) == 1 and publisher is not None:
            parts.insert(0, publisher)
        if len(parts) not in (2, 3):
            raise _invalid(text, "it is not [hub/]publisher/name[:tag][@digest]")
        name, colon, tag = parts[-1].partition(":")
        hub = parts[0] if len(parts) == 3 else None
        if hub is not None and not HUB.match(hub):
            raise _invalid(text, f"{hub[:80]!r} is no host")
        for what, part in (("publisher", parts[-2]), ("name", name)):
            if not re.match(PUBLISHER_PATTERN, part):
                raise _invalid(text, f"the {what} {part[:80]!r} is not 1 to 64 of a-z, 0-9, '.', '_' and '-'")
        if colon and not re.match(TAG_PATTERN, tag):
            raise _invalid(text, f"the tag {tag[:80]!r} is not 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'")
        return cls(
            publisher=parts[-2],
            name=name,
            tag=tag if colon else TAG_DEFAULT,
            digest=bytes.fromhex(digest_text) if at else None,
            hub=hub,
        )

    @property
    def repository(self) -> str:
        """`publisher/name`, as a manifest has it."""
        return f"{self.publisher}/{self.name}"

    @property
    def path(self) -> str:
        """Where a store keeps the record of this name."""
        return f"name/{self.publisher}/{self.name}/{self.tag}"

    def __str__(self) -> str:
        hub = f"{self.hub}/" if self.hub else ""
        digest = f"@{self.digest.hex()}" if self.digest else ""
        return f"{hub}{self.repository}:{self.tag}{digest}"


def _invalid(text: str, why: str) -> NameInvalid:
    shown = text if len(text) <= 80 else text[:80] + "..."
    return NameInvalid(f"{shown!r} cannot name an image: {why}", hint="such as jane/web, jane/web:1.2")


def is_file(text: str) -> bool:
    """Whether a person who writes `text` where an image is asked for means a .flist file, and not a name."""
    return text.endswith(".flist") or os.path.isfile(text)  # which is False, and no error, for what is no path at all


def store_of(image: str, store: str | None, *, publisher: str) -> str | None:
    """Where an image is looked for: in `store`, or at the hub that its name begins with; None is the own store.

    Raises:
        NameInvalid: it can name no image.
        UsageError: both are said, and are not the same.
    """
    hub = None if is_file(image) else ImageName.parse(image, publisher=publisher).hub
    if hub is None or store in (f"http://{hub}", f"https://{hub}"):
        return store
    if store is not None:
        raise UsageError(f"{image} names the hub {hub}, and --store {store}", hint="leave one of them out")
    return f"http://{hub}"


# --- Records -------------------------------------------------------------------------------------------------------


class NameRecord(Document, frozen=True, kw_only=True):
    """What a publisher says a name means. `revision` is that of the manifest and never goes back."""

    name: Annotated[str, Meta(pattern=NAME_PATTERN)]
    tag: Annotated[str, Meta(pattern=TAG_PATTERN)]
    digest: Annotated[bytes, Meta(min_length=32, max_length=32)]
    revision: Annotated[int, Meta(ge=1, le=REVISION_MAX)]


def sign_record(record: NameRecord, key: Key) -> bytes:
    """The bytes of a record, signed (NAME-2, NAME-3)."""
    body = encode_msgpack(record)
    if len(body) > RECORD_MAX:
        raise NameInvalid("a name record is too long", length=len(body))
    head = _HEADER.pack(_MAGIC, _VERSION, len(body)) + body
    return head + key.public + key.sign(NAME_CONTEXT, head)


def parse_record(data: bytes, *, trusted: Trusted) -> NameRecord:
    """A record whose signature is good and by a trusted key of its publisher (NAME-2, NAME-3).

    Raises:
        NameInvalid: not a record of version 1.
        SignatureInvalid, UntrustedPublisher: it proves nothing.
    """
    return read_record(data, trusted=trusted).record


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A record and the key that signed it."""

    record: NameRecord
    public: bytes


def read_record(data: bytes, *, trusted: Trusted | None) -> SignedRecord:
    """As `parse_record`, with the key; `trusted` None accepts any key, as a hub does that only keeps order.

    Raises:
        NameInvalid, SignatureInvalid, UntrustedPublisher: as `parse_record`.
    """
    if len(data) < _HEADER.size:
        raise NameInvalid("a name record is too short")
    magic, version, length = _HEADER.unpack_from(data)
    end = _HEADER.size + length
    if magic != _MAGIC or version != _VERSION or length > RECORD_MAX:
        raise NameInvalid("a name record has a wrong header")
    if len(data) != end + KEY_BYTES + SIGNATURE_BYTES:
        raise NameInvalid("a name record has a wrong length")
    try:
        record = decode_canonical(data[_HEADER.size : end], NameRecord, what="name record")
    except DocumentInvalid as error:
        raise NameInvalid(error.message) from error
    public, signature = data[end : end + KEY_BYTES], data[end + KEY_BYTES :]
    publisher = record.name.partition("/")[0]
    if trusted is not None and public not in trusted(publisher):
        raise UntrustedPublisher(
            f"{record.name}:{record.tag} is signed by {key_id(public)}, which is not trusted for {publisher}",
            hint=trust_hint(publisher, public),
            publisher=publisher,
        )
    if not is_signature(public, NAME_CONTEXT, data[:end], signature):
        raise SignatureInvalid(f"the signature of {record.name}:{record.tag} is wrong", publisher=publisher)
    return SignedRecord(record, public)


# --- From a name to a manifest -------------------------------------------------------------------------------------


class Floors(Protocol):
    """What keeps revisions from going back; `guard.RevisionGuard`."""

    async def learn(self, store: Store, name: ImageName, *, trusted: Trusted) -> None:
        """Before a record is read: find out how high a name has been."""

    async def check(self, store: Store, signed: SignedRecord, *, trusted: Trusted) -> None:
        """Refuse a record that is older."""

    async def remember(self, signed: SignedRecord) -> None:
        """Take note of a record whose image was verified."""


async def resolve(store: Store, name: ImageName, *, trusted: Trusted, now_s: int, floors: Floors) -> SignedManifest:
    """The manifest that a name means, verified: digest, name, revision, signature, expiry (NAME-4).

    The log is asked before the record, because a hub shows a revision in its log only when its name is in place.

    Args:
        store: where to look.
        name: with a digest, the record is not asked.
        trusted: keys that may sign for a publisher.
        now_s: the clock, in seconds since the epoch.
        floors: how high revisions have been; a name with a digest is not held to them.

    Raises:
        RevisionWentBack: a higher revision of the name was seen, here or in the hub's log.
        LogMissing, LogKeyChanged, LogWentBack, LogForked, CheckpointInvalid, ProofInvalid: the log is not believed.
        NameUnknown: the store has no such name or no such manifest.
        NameInvalid, ManifestInvalid, ObjectInvalid: the store holds something else there.
        StoreUnavailable: it cannot be read.
        SignatureInvalid, UntrustedPublisher: nobody who is trusted has signed it.
        ImageExpired: it must not be started any more.
    """
    seen: SignedRecord | None = None
    digest = name.digest
    if digest is None:
        await floors.learn(store, name, trusted=trusted)
        seen = read_record(await _get(store, name.path, str(name)), trusted=trusted)
        record = seen.record
        if (record.name, record.tag) != (name.repository, name.tag):
            raise NameInvalid(f"the store answered {name} with the record of {record.name}:{record.tag}")
        await floors.check(store, seen, trusted=trusted)
        digest = record.digest
    signed = await fetch_manifest(store, digest)
    manifest = signed.manifest
    if manifest.name != name.repository:
        raise ManifestInvalid(f"{digest.hex()} is {manifest.name}, not {name.repository}")
    if seen is not None and manifest.revision != seen.record.revision:
        raise ManifestInvalid(
            f"{name} is revision {seen.record.revision} by its name and {manifest.revision} by its manifest"
        )
    verify_manifest(signed, trusted=trusted)
    if seen is not None:
        await floors.remember(seen)
    check_expiry(manifest, now_s=now_s)
    return signed


def check_expiry(manifest: Manifest, *, now_s: int) -> None:
    """Refuse an image whose time is over.

    Raises:
        ImageExpired: it must not be started any more (FLIST-MAN-2, `expires_s`).
    """
    if manifest.expires_s is not None and now_s >= manifest.expires_s:
        raise ImageExpired(f"{manifest.name} has expired", hint="build it again", expires_s=manifest.expires_s)


async def fetch_manifest(store: Store, digest: bytes) -> SignedManifest:
    """The manifest of that digest; its signatures are not verified.

    Raises:
        NameUnknown: the store has none.
        ManifestInvalid: what it has is something else.
    """
    signed = SignedManifest.parse(await _get(store, f"manifest/{digest.hex()}", digest.hex()))
    if signed.digest != digest:
        raise ManifestInvalid(f"the store answered {digest.hex()} with the manifest {signed.digest.hex()}")
    return signed


async def _get(store: Store, path: str, what: str) -> bytes:
    try:
        return await store.get(path)
    except ObjectMissing as error:
        raise NameUnknown(
            f"{what} is not there", hint="`zos flist build --name` puts an image into a store; --store says which"
        ) from error
