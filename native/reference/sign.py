"""Ed25519 verification by ZIP-215 in plain Python: the twin of `native/crates/ed25519`, and its oracle.

Integers, the addition law as RFC 8032, section 5.1.4, has it, and the predicate as ZIP-215 has it; no sums over many
signatures, so what the batches of the Rust side say is held against single checks.
"""

from __future__ import annotations

from hashlib import sha512
from typing import TYPE_CHECKING, Final, TypeAlias, final

from native.errors import InputInvalid, ZosError
from native.reference.buffers import count_of, item, items, parts, view

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "KEY_BYTES",
    "SIGNATURE_BYTES",
    "THREADS_MAX",
    "KeyRefused",
    "Keys",
    "SignatureWrong",
    "backend",
    "check_key",
    "verdicts",
    "verify",
    "verify_many",
]

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
THREADS_MAX: Final = 64

_P: Final = 2**255 - 19
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ROOT_OF_MINUS_1: Final = pow(2, (_P - 1) // 4, _P)

_Point: TypeAlias = tuple[int, int, int, int]
"""x, y and z of extended coordinates, and x * y / z."""
_IDENTITY: Final = (0, 1, 1, 0)


class SignatureWrong(ZosError):
    """A signature is not that of the key over the message. `index`: which one of a batch."""

    code, http_status, exit_status = "sign.signature-wrong", 403, 98


class KeyRefused(ZosError):
    """A key that must not be registered (SIG-5). `reason`: no-point, non-canonical or small-order."""

    code, http_status, exit_status = "sign.key-refused", 400, 99


def backend() -> str:
    """What computes: "avx512ifma", "avx2" or "serial" on the Rust side."""
    return "python"


def check_key(key: Buffer) -> None:
    """Refuse a key that nobody may register (SIG-5): before it is trusted, not each time that it is used.

    Raises:
        KeyRefused: it is no point, another encoding of a point, or a point of small order.
    """
    encoding = item(key, KEY_BYTES, "key")
    point = _decompress(encoding)
    if point is None:
        raise KeyRefused("the key is no point of the curve", reason="no-point")
    x, y, _, _ = point
    if (y | (x & 1) << 255).to_bytes(32, "little") != encoding:
        raise KeyRefused("the key is not in its canonical form", reason="non-canonical")
    if _is_identity(_eightfold(point)):
        raise KeyRefused("the key is of small order: anybody could sign with it", reason="small-order")


def verify(key: Buffer, message: Buffer, signature: Buffer) -> None:
    """Verify one signature (SIG-2).

    Raises:
        SignatureWrong: it is not right.
    """
    Keys(item(key, KEY_BYTES, "key")).verify(0, message, signature)


def verdicts(keys: Buffer, signatures: Buffer, messages: Buffer, offsets: Buffer, *, threads: int = 1) -> bytes:
    """Say of each signature whether it is right: a byte 1 or 0. Number i is by key i over message i.

    Args:
        keys, signatures: n each.
        messages: end to end.
        offsets: n + 1 of u64, where each message begins and the last one ends.
        threads: that share the work, 1 to 64.
    """
    _check_threads(threads)
    listed = items(keys, KEY_BYTES, "keys")
    return _judge(listed, items(signatures, SIGNATURE_BYTES, "signatures"), parts(messages, offsets))


def verify_many(keys: Buffer, signatures: Buffer, messages: Buffer, offsets: Buffer, *, threads: int = 1) -> None:
    """Verify that all signatures are right; arguments are those of `verdicts`.

    Raises:
        SignatureWrong: of the first that is not, whose `index` it has.
    """
    _require(verdicts(keys, signatures, messages, offsets, threads=threads))


@final
class Keys:
    """Keys that many signatures are by, decompressed once. Under one that is no point every signature is wrong."""

    def __init__(self, keys: Buffer, /) -> None:
        self._keys = items(keys, KEY_BYTES, "keys")

    def __len__(self) -> int:
        return len(self._keys)

    def verify(self, signer: int, message: Buffer, signature: Buffer) -> None:
        """Verify one signature by the key of this number.

        Raises:
            SignatureWrong: it is not right.
        """
        text, wanted = bytes(view(message, "message")), item(signature, SIGNATURE_BYTES, "signature")
        if not _is_right(self._key(count_of(signer)), text, wanted):
            raise SignatureWrong("the signature is wrong")

    def verdicts(
        self, signers: Buffer, signatures: Buffer, messages: Buffer, offsets: Buffer, *, threads: int = 1
    ) -> bytes:
        """As the function `verdicts`; number i is by the key whose number `signers` has (u32) at i."""
        _check_threads(threads)
        wanted, texts = items(signatures, SIGNATURE_BYTES, "signatures"), parts(messages, offsets)
        numbers = [int.from_bytes(each, "little") for each in items(signers, 4, "signers")]
        return _judge([self._key(number) for number in numbers], wanted, texts)

    def verify_many(
        self, signers: Buffer, signatures: Buffer, messages: Buffer, offsets: Buffer, *, threads: int = 1
    ) -> None:
        """As the function `verify_many`."""
        _require(self.verdicts(signers, signatures, messages, offsets, threads=threads))

    def _key(self, number: int) -> bytes:
        if number >= len(self._keys):
            raise InputInvalid("a signer is none of the keys")
        return self._keys[number]


def _judge(keys: list[bytes], signatures: list[bytes], messages: list[memoryview]) -> bytes:
    if len(messages) != len(signatures):
        raise InputInvalid(f"{len(messages)} messages, {len(signatures)} signatures")
    if len(keys) != len(signatures):
        raise InputInvalid("signers and signatures differ in number")
    triples = zip(keys, messages, signatures, strict=True)
    return bytes(_is_right(key, bytes(message), signature) for key, message, signature in triples)


def _require(verdicts: bytes) -> None:
    index = verdicts.find(0)
    if index >= 0:
        raise SignatureWrong(f"signature {index} is wrong", index=index)


def _check_threads(threads: int) -> None:
    if not 1 <= count_of(threads) <= THREADS_MAX:
        raise InputInvalid(f"{threads} threads: 1 to {THREADS_MAX}")


def _is_right(key: bytes, message: bytes, signature: bytes) -> bool:
    """The predicate (SIG-2): 8 s B = 8 R + 8 k A."""
    a, r = _decompress(key), _decompress(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= _ORDER:
        return False
    k = int.from_bytes(sha512(signature[:32] + key + message).digest(), "little") % _ORDER
    difference = _add(_add(_times(s, _BASE), _negative(r)), _negative(_times(k, a)))
    return _is_identity(_eightfold(difference))


# --- The curve -----------------------------------------------------------------------------------------------------


def _decompress(encoding: bytes) -> _Point | None:
    """The point of an encoding, canonical or not (SIG-1); None when there is none."""
    number = int.from_bytes(encoding, "little")
    sign, y = number >> 255, number % (1 << 255) % _P
    # x^2 = u / v; the candidate (u / v)^((p + 3) / 8) is right up to a factor of a root of -1.
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P != u:
        x = x * _ROOT_OF_MINUS_1 % _P
    if v * x * x % _P != u:
        return None
    if x & 1 != sign:
        x = -x % _P  # of 0 it is 0: -0 is taken
    return x, y, 1, x * y % _P


def _add(one: _Point, other: _Point) -> _Point:
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = other
    a, b = (y1 - x1) * (y2 - x2), (y1 + x1) * (y2 + x2)
    c, d = 2 * t1 * t2 * _D, 2 * z1 * z2
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _negative(point: _Point) -> _Point:
    x, y, z, t = point
    return -x % _P, y, z, -t % _P


def _times(scalar: int, point: _Point) -> _Point:
    total = _IDENTITY
    for bit in bin(scalar)[2:]:
        total = _add(total, total)
        if bit == "1":
            total = _add(total, point)
    return total


def _eightfold(point: _Point) -> _Point:
    return _times(8, point)


def _is_identity(point: _Point) -> bool:
    x, y, z, _ = point
    return x % _P == 0 and (y - z) % _P == 0


def _base() -> _Point:
    point = _decompress((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))
    if point is None:  # pragma: no cover
        raise AssertionError("4/5 is the y of the base point")
    return point


_BASE: Final = _base()
