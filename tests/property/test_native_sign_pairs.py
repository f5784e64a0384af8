"""Signatures: the compiled side and the twin give one verdict, and libsodium's is never the more lenient one."""

from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from native import _rust as rust
from native.errors import ZosError
from native.reference import sign as reference

SEEDS = st.integers(0, 4).map(lambda number: bytes([number]) * 32)


def verdict(verify: object, *arguments: bytes) -> bool:
    try:
        verify(*arguments)  # type: ignore[operator]
    except ZosError:
        return False
    return True


def sodium(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


@st.composite
def attempts(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """A signature, right or damaged at one bit of key, message or signature, or nothing but noise."""
    signing, message = SigningKey(draw(SEEDS)), draw(st.binary(max_size=150))
    parts = [bytearray(bytes(signing.verify_key)), bytearray(message), bytearray(signing.sign(message).signature)]
    which = draw(st.integers(-2, 2))
    if which == -2:
        parts[2] = bytearray(draw(st.binary(min_size=64, max_size=64)))
    elif which >= 0 and parts[which]:
        parts[which][draw(st.integers(0, len(parts[which]) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(parts[0]), bytes(parts[1]), bytes(parts[2])


@settings(max_examples=60)
@given(attempts())
def test_sign_verdicts_agree(attempt: tuple[bytes, bytes, bytes]) -> None:
    found = verdict(rust.sign_verify, *attempt)
    assert found == verdict(reference.verify, *attempt)
    # Honest keys and single flips make no points of small order: here the semantics agree.
    assert found == sodium(*attempt)


@settings(max_examples=100)
@given(st.lists(attempts(), max_size=40), st.integers(1, 3))
def test_sign_batches_agree_with_singles(batch: list[tuple[bytes, bytes, bytes]], threads: int) -> None:
    ends = array("Q", [0])
    for _, message, _ in batch:
        ends.append(ends[-1] + len(message))
    flat = [b"".join(attempt[part] for attempt in batch) for part in range(3)]
    singles = bytes(verdict(rust.sign_verify, *attempt) for attempt in batch)
    assert rust.sign_verdicts(flat[0], flat[2], flat[1], ends, threads=threads) == singles
    signers = array("I", range(len(batch)))
    assert rust.Keys(flat[0]).verdicts(signers, flat[2], flat[1], ends, threads=threads) == singles


@settings(max_examples=60)
@given(
    st.one_of(
        st.binary(min_size=32, max_size=32), st.integers(0, 40).map(lambda n: (2**255 - 20 + n).to_bytes(32, "little"))
    )
)
def test_sign_keys_are_refused_alike(key: bytes) -> None:
    def reason(check: object) -> object:
        try:
            check(key)  # type: ignore[operator]
        except ZosError as error:
            return error.context["reason"]
        return None

    assert reason(rust.sign_check_key) == reason(reference.check_key)
