"""Keys of a person or a system, and whom they trust. Files in one directory:

    key.json       {"version": 1, "kind": "ed25519", "seed": base64, "publisher": "name"}, 0600, made on first use
    trusted.json   {"version": 1, "publishers": {"name": ["ed25519:<64 hex digits>", ...]}}

The own key is trusted from the moment it is made or imported, under the login name as the publisher. With sudo all of
it is the calling user's (`paths.account`) and belongs to that user. An exported key is the very key.json.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from nacl.signing import SigningKey

from native import sign
from zos_core.base.atomic_file import Owner, locked_directory, read_limited, write_atomic
from zos_core.base.document import Document, decode_json, encode_json
from zos_core.base.errors import KeyExists, KeyInvalid, KeyNotTrusted
from zos_core.base.paths import Account, account

__all__ = [
    "KEY_BYTES",
    "KEY_FILE_BYTES_MAX",
    "PUBLISHER_PATTERN",
    "SIGNATURE_BYTES",
    "Key",
    "Keyring",
    "check_registered",
    "is_bare_signature",
    "is_signature",
    "key_id",
    "parse_key_id",
    "read_publishers",
    "registered_key",
]

KEY_BYTES = 32
SIGNATURE_BYTES = 64
KEY_FILE_BYTES_MAX = 4096
TRUSTED_FILE_BYTES_MAX = 1 << 20
KEYS_PER_PUBLISHER_MAX = 16
PUBLISHERS_MAX = 4096

PUBLISHER_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?\Z"
Publisher = Annotated[str, msgspec.Meta(pattern=PUBLISHER_PATTERN)]
KeyId = Annotated[str, msgspec.Meta(pattern=r"^ed25519:[0-9a-f]{64}\Z")]


class _KeyFile(Document, frozen=True, kw_only=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    kind: Annotated[str, msgspec.Meta(pattern=r"^ed25519\Z")]
    seed: Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
    publisher: Publisher


class _TrustedFile(Document, frozen=True, kw_only=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    publishers: Annotated[
        dict[Publisher, Annotated[list[KeyId], msgspec.Meta(max_length=KEYS_PER_PUBLISHER_MAX)]],
        msgspec.Meta(max_length=PUBLISHERS_MAX),
    ]


@dataclass(frozen=True, slots=True)
class Key:
    """An Ed25519 key that can sign, and the publisher in whose name it does."""

    publisher: str
    _signing: SigningKey

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return bytes(self._signing.verify_key)

    @property
    def id(self) -> str:
        """The public key as "ed25519:<hex>"."""
        return key_id(self.public)

    def sign(self, context: bytes, message: bytes) -> bytes:
        """64 bytes over `context | message`; `context` ends with NUL and is of one purpose only."""
        return self._signing.sign(_contextual(context, message)).signature

    def sign_bare(self, message: bytes) -> bytes:
        """64 bytes over `message` alone, for formats of others that bring their own separation.

        They are RFC 9421 (a base begins with a quotation mark) and C2SP signed-note (text without NUL): neither can be
        what `sign` signs, where a NUL ends the context.
        """
        if b"\0" in message:
            raise ValueError("what holds a NUL could be taken for something that `sign` signs")
        return self._signing.sign(message).signature


def is_bare_signature(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `public` over `message` alone; malformed input is no signature."""
    if b"\0" in message:
        return False
    return _verifies(public, message, signature)


def is_signature(public: bytes, context: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `public` over `context | message` (SIG-2). Malformed input is no signature."""
    return _verifies(public, _contextual(context, message), signature)


def _verifies(public: bytes, message: bytes, signature: bytes) -> bool:
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        sign.verify(public, message, signature)
    except sign.SignatureWrong:
        return False
    return True


def _contextual(context: bytes, message: bytes) -> bytes:
    if not context.endswith(b"\0") or b"\0" in context[:-1]:
        raise ValueError("a context ends with its only NUL, so that no two can be confused")
    return context + message


def key_id(public: bytes) -> str:
    """The name of a public key."""
    return f"ed25519:{public.hex()}"


def parse_key_id(text: str) -> bytes:
    """The public key in its name.

    Raises:
        KeyInvalid: not "ed25519:" and 64 lower-case hexadecimal digits.
    """
    if not re.fullmatch(r"ed25519:[0-9a-f]{64}", text):
        raise KeyInvalid(f"{text[:80]!r} is no key", hint="ed25519: and 64 hexadecimal digits")
    return bytes.fromhex(text.removeprefix("ed25519:"))


def registered_key(text: str) -> bytes:
    """The public key in a name that somebody wrote into a file of trusted keys (SIG-5).

    Raises:
        KeyInvalid: no key's name, or a key that nobody may register.
    """
    public = parse_key_id(text)
    check_registered(public)
    return public


def check_registered(public: bytes) -> None:
    """Refuse a key that nobody may register (SIG-5).

    Raises:
        KeyInvalid: it is no point, or one under which anybody signs.
    """
    try:
        sign.check_key(public)
    except (sign.KeyRefused, sign.InputInvalid) as error:
        raise KeyInvalid(f"{key_id(public)[:80]} cannot be trusted: {error.message}") from error


class Keyring:
    """The keys in one directory. Reads the disk at every call: other commands may have changed it."""

    def __init__(self, directory: Path, *, publisher: str = "self", owner: Owner | None = None) -> None:
        """`publisher`: the name for an own key that is yet to be made; `owner`: uid and gid of new files."""
        self._directory = directory
        self._publisher = publisher
        self._owner = owner

    @classmethod
    def of(cls, user: Account | None = None) -> Keyring:
        """The keyring of the calling user, also under sudo."""
        user = user or account()
        return cls(user.config_dir, publisher=_publisher_from(user.name), owner=user.owner)

    def own_key(self) -> Key:
        """The own key; made, and trusted, on first use.

        Raises:
            KeyInvalid: the file is damaged, or can be read by others.
        """
        if not self.path.exists():
            with locked_directory(self._directory, owner=self._owner):
                if not self.path.exists():
                    self._make_key(self.path)
        return _key_in(self._own_file())

    @property
    def path(self) -> Path:
        """The file of the own key, which may not be there yet."""
        return self._directory / "key.json"

    def export(self) -> bytes:
        """The own key as a file for `import_key`: whoever has these bytes signs in its name.

        Raises:
            KeyInvalid: there is no own key yet, or its file is damaged or can be read by others.
        """
        if not self.path.exists():
            raise KeyInvalid(f"there is no key in {self._directory}", hint="`zos key show` makes one")
        return encode_json(self._own_file()) + b"\n"

    def import_key(self, data: bytes, *, replace: bool = False) -> Key:
        """Make the key in an exported file the own one, and trust it. The same key again is no change.

        Raises:
            KeyExists: there is another own key, and `replace` was not said; what only that key can sign is lost then.
            DocumentInvalid: these bytes are no exported key.
            KeyInvalid: as `trust`.
        """
        if len(data) > KEY_FILE_BYTES_MAX:
            raise KeyInvalid("this is no exported key: it is too long", hint="`zos key export FILE` makes one")
        document = decode_json(data, _KeyFile, what="exported key")
        key = _key_in(document)
        with locked_directory(self._directory, owner=self._owner):
            if self.path.exists() and not replace and self.own_key() != key:
                raise KeyExists(
                    f"{self.path} is another key, {self.own_key().id}",
                    hint="`zos key export FILE` keeps that one; then say --replace",
                )
            self._trust(key.publisher, key.public)
            write_atomic(self.path, encode_json(document) + b"\n", 0o600, owner=self._owner)
        return key

    def _own_file(self) -> _KeyFile:
        if self.path.stat().st_mode & 0o077:
            raise KeyInvalid(f"{self.path} can be read by others", hint=f"chmod 600 {shlex.quote(str(self.path))}")
        return decode_json(read_limited(self.path, KEY_FILE_BYTES_MAX), _KeyFile, what=str(self.path))

    def publisher(self) -> str:
        """The name under which the own key publishes, or will when it is made."""
        return self.own_key().publisher if self.path.exists() else self._publisher

    def trusted(self, publisher: str) -> list[bytes]:
        """Public keys that may sign for `publisher`; empty for one that is not known.

        Raises:
            KeyInvalid: the file has a key that nobody may register.
        """
        return [registered_key(text) for text in self._read_trusted().publishers.get(publisher, [])]

    def publishers(self) -> dict[str, Sequence[str]]:
        """All trusted publishers and the names of their keys."""
        return dict(self._read_trusted().publishers)

    def trust(self, publisher: str, public: bytes) -> None:
        """Add a key to a publisher.

        Raises:
            KeyInvalid: no publisher's name, too many keys, or a key that nobody may register (SIG-5).
        """
        check_registered(public)
        if not re.match(PUBLISHER_PATTERN, publisher):
            raise KeyInvalid(f"{publisher!r} cannot name a publisher", hint="1 to 64 of a-z, 0-9, '.', '_' and '-'")
        with locked_directory(self._directory, owner=self._owner):
            self._trust(publisher, public)

    def distrust(self, publisher: str, public: bytes | None = None) -> list[bytes]:
        """Take one key, or all keys, from a publisher; the keys that were taken.

        Raises:
            KeyNotTrusted: there is none such.
            KeyInvalid: it is the own key, which is always trusted.
        """
        with locked_directory(self._directory, owner=self._owner):
            stored = self._read_trusted().publishers
            keys = stored.get(publisher, [])
            gone = [each for each in keys if public is None or each == key_id(public)]
            if not gone:
                what = publisher if public is None else f"{key_id(public)} for {publisher}"
                raise KeyNotTrusted(f"{what} is not trusted", hint="`zos trust list` shows who is")
            if self.path.exists() and (own := self.own_key()).publisher == publisher and own.id in gone:
                raise KeyInvalid(f"{own.id} is your own key", hint="`zos key import --replace` takes another one first")
            left = {**stored, publisher: [each for each in keys if each not in gone]}
            self._write_trusted({name: kept for name, kept in left.items() if kept})
        return [parse_key_id(each) for each in gone]

    def _trust(self, publisher: str, public: bytes) -> None:
        stored = self._read_trusted().publishers
        keys = stored.get(publisher, [])
        if key_id(public) in keys:
            return
        if len(keys) >= KEYS_PER_PUBLISHER_MAX or len(stored) >= PUBLISHERS_MAX:
            raise KeyInvalid(f"{publisher} has {len(keys)} keys already")
        self._write_trusted({**stored, publisher: [*keys, key_id(public)]})

    def _write_trusted(self, publishers: dict[str, list[str]]) -> None:
        document = _TrustedFile(version=1, publishers=publishers)
        write_atomic(self._directory / "trusted.json", encode_json(document) + b"\n", 0o600, owner=self._owner)

    def _read_trusted(self) -> _TrustedFile:
        try:
            return _trusted_in(self._directory / "trusted.json")
        except FileNotFoundError:
            return _TrustedFile(version=1, publishers={})

    def _make_key(self, path: Path) -> None:
        signing = SigningKey.generate()
        document = _KeyFile(version=1, kind="ed25519", seed=bytes(signing), publisher=self._publisher)
        # Trust first: a key that is there and not trusted would be a puzzle after a crash, the reverse is harmless.
        self._trust(self._publisher, bytes(signing.verify_key))
        write_atomic(path, encode_json(document) + b"\n", 0o600, owner=self._owner, exclusive=True)


def read_publishers(path: Path) -> dict[str, list[bytes]]:
    """Publishers and their keys in a file like trusted.json, such as a hub's operator writes.

    Raises:
        DocumentInvalid, FileTooLarge: it is no such file.
        KeyInvalid: it has a key that nobody may register.
        OSError: it cannot be read.
    """
    return {name: [registered_key(each) for each in keys] for name, keys in _trusted_in(path).publishers.items()}


def _trusted_in(path: Path) -> _TrustedFile:
    return decode_json(read_limited(path, TRUSTED_FILE_BYTES_MAX), _TrustedFile, what=str(path))


def _key_in(document: _KeyFile) -> Key:
    return Key(document.publisher, SigningKey(document.seed))


def _publisher_from(login: str) -> str:
    name = re.sub(r"[^a-z0-9._-]", "-", login.lower())[:64].strip("._-")
    return name or "self"
