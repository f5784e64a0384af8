"""Signatures, compiled and twin: published vectors, refusals, and batches with one wrong among many."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nacl.signing import SigningKey

import native.sign
from native import _rust as rust
from native.errors import InputInvalid
from native.reference import sign as reference
from native.sign import KeyRefused, SignatureWrong

VECTORS = Path(__file__).parents[1] / "vectors/ed25519"
ZIP215 = json.loads((VECTORS / "zip215.json").read_text())
SPECCHECK = json.loads((VECTORS / "speccheck.json").read_text())["cases"]
NAMES = ["backend", "check_key", "verdicts", "verify", "verify_many"]
COMPILED = SimpleNamespace(Keys=rust.Keys, **{name: getattr(rust, f"sign_{name}") for name in NAMES})
ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.fixture(params=[COMPILED, reference], ids=["rust", "reference"])
def side(request: pytest.FixtureRequest) -> Any:
    return request.param


def offsets_of(messages: list[bytes]) -> array[int]:
    ends = array("Q", [0])
    for message in messages:
        ends.append(ends[-1] + len(message))
    return ends


def signed(count: int, signers: int = 3) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Keys, messages and signatures, by a few signers in turn."""
    signing = [SigningKey(bytes([number]) * 32) for number in range(signers)]
    messages = [bytes([number]) * number for number in range(count)]
    by = [signing[number % signers] for number in range(count)]
    signatures = [key.sign(message).signature for key, message in zip(by, messages, strict=True)]
    return [bytes(key.verify_key) for key in by], messages, signatures


def is_right(side: Any, key: bytes, message: bytes, signature: bytes) -> bool:
    """The verdict, which must be the same in all four ways to ask for it."""
    found = set()
    ends = array("Q", [0, len(message)])
    keys = side.Keys(key)
    calls: list[Callable[[], object]] = [
        lambda: side.verify(key, message, signature),
        lambda: keys.verify(0, message, signature),
        lambda: side.verify_many(key, signature, message, ends),
        lambda: keys.verify_many(array("I", [0]), signature, message, ends),
    ]
    for call in calls:
        try:
            call()
        except SignatureWrong:
            found.add(False)
        else:
            found.add(True)
    found.add(side.verdicts(key, signature, message, ends) == b"\1")
    (verdict,) = found
    return verdict


def test_sign_facade_gives_the_side_that_was_asked_for() -> None:
    for name in [*NAMES, "Keys"]:
        assert getattr(native.sign, name) in (getattr(COMPILED, name), getattr(reference, name))


def test_sign_rfc8032_vectors(side: Any) -> None:
    """Tests 1 to 3 of section 7.1."""
    for key, message, signature in (
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ):
        assert is_right(side, bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(signature))
        assert not is_right(side, bytes.fromhex(key), bytes.fromhex(message) + b"x", bytes.fromhex(signature))


def test_sign_all_196_of_zip215_are_right(side: Any) -> None:
    points = [bytes.fromhex(point) for point in ZIP215["encodings"]]
    message = bytes.fromhex(ZIP215["message"])
    signers = array("I", [number for number in range(14) for _ in points])
    signatures = b"".join(point + bytes(32) for _ in points for point in points)
    messages, ends = message * 196, offsets_of([message] * 196)
    assert side.Keys(b"".join(points)).verdicts(signers, signatures, messages, ends) == b"\1" * 196


@pytest.mark.parametrize("number", range(len(SPECCHECK)))
def test_sign_speccheck_is_judged_as_zip215_says(side: Any, number: int) -> None:
    case = SPECCHECK[number]
    found = is_right(side, *(bytes.fromhex(case[name]) for name in ("key", "message", "signature")))
    assert found == case["zip215"]


def test_sign_what_pynacl_signs_is_right_and_nothing_else(side: Any) -> None:
    keys, messages, signatures = signed(6)
    for key, message, signature in zip(keys, messages, signatures, strict=True):
        assert is_right(side, key, message, signature)
        s = int.from_bytes(signature[32:], "little") + ORDER
        wrong = [
            signature[:32] + s.to_bytes(32, "little"),
            bytes([signature[0] ^ 1]) + signature[1:],
            signature[:63] + bytes([signature[63] | 0x80]),
        ]
        for one in wrong:
            assert not is_right(side, key, message, one)
        assert not is_right(side, bytes(31) + b"\x02", message, signature)
        assert not is_right(side, (2).to_bytes(32, "little"), message, signature)  # no point at all


@pytest.mark.parametrize("threads", [1, 3])
def test_sign_one_wrong_anywhere_is_named(threads: int) -> None:
    """At every place of batches of one sum of sixteen, several, and a large one."""
    for count in (1, 2, 17, 100):
        keys, messages, signatures = signed(count)
        offsets, text = offsets_of(messages), b"".join(messages)
        known = rust.Keys(b"".join(keys[:3]))
        signers = array("I", [number % 3 for number in range(count)])
        known.verify_many(signers, b"".join(signatures), text, offsets, threads=threads)
        for place in range(0, count, 1 if count < 100 else 7):
            damaged = [*signatures]
            damaged[place] = damaged[place][:5] + bytes([damaged[place][5] ^ 16]) + damaged[place][6:]
            flat = b"".join(damaged)
            expected = bytes(number != place for number in range(count))
            assert known.verdicts(signers, flat, text, offsets, threads=threads) == expected
            assert rust.sign_verdicts(b"".join(keys), flat, text, offsets, threads=threads) == expected
            with pytest.raises(SignatureWrong) as refused:
                known.verify_many(signers, flat, text, offsets, threads=threads)
            assert refused.value.context == {"index": place}


def test_sign_the_first_of_several_wrong_is_named(side: Any) -> None:
    keys, messages, signatures = signed(5)
    signatures[1], signatures[3] = signatures[3], signatures[1]
    arguments = b"".join(keys), b"".join(signatures), b"".join(messages), offsets_of(messages)
    assert side.verdicts(*arguments) == bytes([1, 0, 1, 0, 1])
    with pytest.raises(SignatureWrong) as refused:
        side.verify_many(*arguments)
    assert refused.value.context == {"index": 1}
    assert side.verdicts(b"", b"", b"", bytes(8)) == b""
    side.verify_many(b"", b"", b"", bytes(8))


def test_sign_keys_that_may_not_be_registered(side: Any) -> None:
    side.check_key(bytes(SigningKey(bytes(32)).verify_key))
    side.check_key((3).to_bytes(32, "little"))
    reasons = {(2).to_bytes(32, "little"): "no-point", (2**255 - 19 + 3).to_bytes(32, "little"): "non-canonical"}
    for place, point in enumerate(ZIP215["encodings"]):
        reasons[bytes.fromhex(point)] = "small-order" if place < ZIP215["canonical"] else "non-canonical"
    assert len(reasons) == 16
    for key, reason in reasons.items():
        with pytest.raises(KeyRefused) as refused:
            side.check_key(key)
        assert refused.value.context == {"reason": reason}


KEY, SIGNATURE = bytes(32), bytes(64)
ONE = array("Q", [0, 0])
REFUSED: list[tuple[str, Callable[[Any], object]]] = [
    ("a short key", lambda side: side.verify(bytes(31), b"", SIGNATURE)),
    ("a long signature", lambda side: side.verify(KEY, b"", bytes(65))),
    ("a short key to check", lambda side: side.check_key(b"")),
    ("ragged keys", lambda side: side.Keys(bytes(33))),
    ("keys and signatures of two numbers", lambda side: side.verdicts(KEY * 2, SIGNATURE, b"", ONE)),
    ("messages and signatures of two numbers", lambda side: side.verdicts(KEY, SIGNATURE, b"", bytes(8))),
    ("keys without signatures", lambda side: side.verify_many(KEY, b"", b"", bytes(8))),
    ("ragged signatures", lambda side: side.verify_many(KEY, bytes(63), b"", ONE)),
    ("no offsets", lambda side: side.verify_many(b"", b"", b"", b"")),
    ("offsets past the end", lambda side: side.verify_many(KEY, SIGNATURE, b"", array("Q", [0, 1]))),
    ("no such signer", lambda side: side.Keys(KEY).verify(1, b"", SIGNATURE)),
    ("a negative signer", lambda side: side.Keys(KEY).verify(-1, b"", SIGNATURE)),
    ("no such signer of many", lambda side: side.Keys(KEY).verdicts(array("I", [1]), SIGNATURE, b"", ONE)),
    ("ragged signers", lambda side: side.Keys(KEY).verify_many(b"123", SIGNATURE, b"", ONE)),
    ("no threads", lambda side: side.verdicts(KEY, SIGNATURE, b"", ONE, threads=0)),
    ("more threads than can be printed", lambda side: side.verdicts(KEY, SIGNATURE, b"", ONE, threads=10**5000)),
    ("too many threads", lambda side: side.verify_many(KEY, SIGNATURE, b"", ONE, threads=65)),
    ("strided keys", lambda side: side.Keys(memoryview(bytes(128))[::2])),
]


@pytest.mark.parametrize("call", [call for _, call in REFUSED], ids=[name for name, _ in REFUSED])
def test_sign_wrong_input_is_refused(side: Any, call: Callable[[Any], object]) -> None:
    with pytest.raises(InputInvalid):
        call(side)


def test_sign_keys_have_a_length(side: Any) -> None:
    assert len(side.Keys(b"")) == 0
    assert len(side.Keys(bytearray(64))) == 2


def test_sign_backend_names_itself() -> None:
    assert rust.sign_backend() in ("avx512ifma", "avx2", "serial")
    assert reference.backend() == "python"
