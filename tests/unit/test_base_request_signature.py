"""Every refusal of docs/spec/request-signature.md, and the file of nonces."""

from __future__ import annotations

import base64
import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from native.errors import ZosError
from zos_core.base.errors import DiskFull, KeyInvalid
from zos_core.base.keyring import Key
from zos_core.base.nonces import NoncesDamaged, NoncesFull, NonceStore
from zos_core.base.request_signature import (
    COMPONENTS,
    AudienceWrong,
    BodyChanged,
    ClockSkew,
    ComponentMissing,
    KeyUnknown,
    Message,
    Parameters,
    RequestReplayed,
    RequestUnsigned,
    SignatureExpired,
    SignatureMalformed,
    SignatureWrong,
    Signer,
    Verified,
    check_body,
    content_digest,
    parse_input,
    signature_base,
    verify,
)

KEY = Key("jane", SigningKey(bytes(range(32))))
NOW_S = 1_790_000_000
NONCE = bytes(16)
BARE = Message(method="PUT", authority="Hub.Example:7080", path="/v1/x", query="a=1", fields={})


def signed(body: bytes = b"abc", now_s: int = NOW_S) -> Message:
    fields = Signer(KEY).sign(BARE, body, now_s=now_s, nonce=NONCE)
    return dataclasses.replace(BARE, fields={name.lower(): value for name, value in fields.items()})


def check(message: Message, now_s: int = NOW_S, known: bool = True, audience: str = "hub.example:7080") -> Verified:
    return verify(message, known=lambda public: known and public == KEY.public, audiences={audience}, now_s=now_s)


def with_fields(message: Message, **fields: str | None) -> Message:
    changed = {**message.fields, **{name.replace("_", "-"): value for name, value in fields.items()}}
    return dataclasses.replace(message, fields={name: value for name, value in changed.items() if value is not None})


def resigned(*, components: tuple[str, ...] = COMPONENTS, **values: Any) -> Message:
    """A message whose signature is right, but for its parameters."""
    message = signed()
    parameters = parse_input(message.fields["signature-input"])["zos"]
    merged = {**dict(parameters.values), **values}
    kept = tuple((name, value) for name, value in merged.items() if value is not None)
    parameters = Parameters(components=components, values=kept)
    signature = base64.b64encode(KEY.sign_bare(signature_base(message, parameters))).decode()
    return with_fields(message, signature_input=f"zos={parameters.text()}", signature=f"zos=:{signature}:")


def test_a_good_request_is_known() -> None:
    verified = check(signed())
    assert verified.public == KEY.public
    check_body(verified, b"abc")
    with pytest.raises(BodyChanged):
        check_body(verified, b"abd")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"method": "POST"}, SignatureWrong),
        ({"path": "/v1/y"}, SignatureWrong),
        ({"path": "/v1/x%20"}, SignatureWrong),
        ({"query": "a=2"}, SignatureWrong),
        ({"query": ""}, SignatureWrong),
        ({"authority": "other:7080"}, AudienceWrong),
    ],
)
def test_another_method_or_target_is_refused(change: dict[str, str], error: type[ZosError]) -> None:
    with pytest.raises(error):
        check(dataclasses.replace(signed(), **change))  # type: ignore[arg-type]  # only str fields are changed


def test_the_authority_is_covered_and_ours() -> None:
    with pytest.raises(AudienceWrong):
        check(signed(), audience="other:7080")
    with pytest.raises(SignatureWrong):
        check(dataclasses.replace(signed(), authority="other:7080"), audience="other:7080")


def test_another_digest_is_refused() -> None:
    with pytest.raises(SignatureWrong):
        check(with_fields(signed(), content_digest=content_digest(b"other")))


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(KeyUnknown):
        check(signed(), known=False)
    other = Key("jane", SigningKey(bytes(32)))
    with pytest.raises(SignatureWrong):
        check(forged(other))


def forged(other: Key) -> Message:
    """Says our key, signed by another."""
    message = signed()
    parameters = parse_input(message.fields["signature-input"])["zos"]
    signature = base64.b64encode(other.sign_bare(signature_base(message, parameters))).decode()
    return with_fields(message, signature=f"zos=:{signature}:")


@pytest.mark.parametrize(
    ("now_s", "error"),
    [
        (NOW_S - 60, None),
        (NOW_S - 61, ClockSkew),
        (NOW_S + 59, None),
        (NOW_S + 60, SignatureExpired),
        (NOW_S + 365 * 86_400, SignatureExpired),
        (0, ClockSkew),
    ],
)
def test_clocks(now_s: int, error: type[ZosError] | None) -> None:
    if error is None:
        check(signed(), now_s=now_s)
        return
    with pytest.raises(error) as caught:
        check(signed(), now_s=now_s)
    assert caught.value.context["now_s"] == now_s


@pytest.mark.parametrize("lifetime_s", [301, 0, -5])
def test_lifetimes(lifetime_s: int) -> None:
    with pytest.raises(SignatureExpired):
        check(resigned(expires=NOW_S + lifetime_s))
    check(resigned(expires=NOW_S + 300))


@pytest.mark.parametrize("missing", COMPONENTS)
def test_every_component_must_be_covered(missing: str) -> None:
    with pytest.raises(ComponentMissing) as caught:
        check(resigned(components=tuple(name for name in COMPONENTS if name != missing)))
    assert caught.value.context["component"] == missing


@pytest.mark.parametrize("missing", ["created", "expires", "nonce", "keyid", "alg"])
def test_every_parameter_must_be_there(missing: str) -> None:
    with pytest.raises(ComponentMissing):
        values: dict[str, Any] = {missing: None}
        check(resigned(**values))


def test_a_covered_field_must_be_there() -> None:
    with pytest.raises(ComponentMissing):
        check(with_fields(signed(), content_digest=None))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"signature_input": None}, RequestUnsigned),
        ({"signature": None}, RequestUnsigned),
        ({"signature": "other=:AAAA:"}, SignatureMalformed),
        ({"signature": "zos=:A:"}, SignatureMalformed),
        ({"signature": "zos=AAAA"}, SignatureMalformed),
        ({"signature": "zos=:AAAA:"}, SignatureWrong),
        ({"signature": "zos=::"}, SignatureWrong),
        ({"signature": "zos=:AAAA:, zos=:AAAA:"}, SignatureMalformed),
        ({"content_digest": "sha-512=:AAAA:"}, SignatureMalformed),
        ({"content_digest": "sha-256=:AAAA:"}, SignatureMalformed),
        ({"content_digest": "x" * 5000}, SignatureMalformed),
    ],
)
def test_malformed_fields(fields: dict[str, str | None], error: type[ZosError]) -> None:
    with pytest.raises(error):
        check(with_fields(signed(), **fields))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "zos",
        "zos=",
        "zos=()x",
        'zos=("a" "a")',
        'zos=("a"  "b")',
        'zos=( "a")',
        'zos=("A")',
        'zos=("a";sf)',
        'zos=("a");created=01',
        'zos=("a");created=1;created=2',
        'zos=("a");created=1.5',
        'zos=("a");n="\\a"',
        'zos=("a");n="unended',
        'zos=("a"),zos=("b")',
        'zos=("a"),',
        'zos=("a") ;created=1',
        'zos=("ü")',
        'zos=("a");n=token',
        "zos=(" + " ".join(f'"c{n}"' for n in range(33)) + ")",
        "zos=()" + ";a=1" * 2000,
    ],
)
def test_what_is_no_signature_input(text: str) -> None:
    with pytest.raises(SignatureMalformed):
        parse_input(text)


def test_other_signatures_are_left_alone() -> None:
    message = signed()
    both = with_fields(
        message,
        signature_input=f'proxy=("@method");created=1, {message.fields["signature-input"]}',
        signature=f"proxy=:AAAA:,{message.fields['signature']}",
    )
    assert check(both).public == KEY.public
    with pytest.raises(RequestUnsigned):
        check(resigned(tag="other"))
    twice = message.fields["signature-input"]
    with pytest.raises(SignatureMalformed):
        check(with_fields(message, signature_input=f"{twice}, b={twice.removeprefix('zos=')}"))


@pytest.mark.parametrize("values", [{"nonce": "short"}, {"nonce": 7}, {"created": "x"}, {"alg": "rsa"}, {"keyid": 1}])
def test_parameters_of_another_type(values: dict[str, Any]) -> None:
    with pytest.raises(SignatureMalformed):
        check(resigned(**values))
    with pytest.raises(KeyInvalid):
        check(resigned(keyid="ed25519:short"))


def test_what_is_signed_bare_has_no_nul() -> None:
    with pytest.raises(ValueError):
        KEY.sign_bare(b"zos/flist/manifest/v1\0" + bytes(32))


# --- Nonces --------------------------------------------------------------------------------------------------------


def of(nonce: str, expires_s: int = 100, public: bytes = bytes(32)) -> Verified:
    return Verified(public=public, nonce=nonce, expires_s=expires_s, digest=b"")


def test_a_nonce_counts_once_over_restarts(tmp_path: Path) -> None:
    store = NonceStore(tmp_path / "nonces")
    store.remember(of("a"), now_s=50)
    store.remember(of("a", public=bytes([1]) * 32), now_s=50)
    with pytest.raises(RequestReplayed):
        store.remember(of("a"), now_s=50)
    # As it is after SIGKILL: not closed, and the last record half written.
    with open(tmp_path / "nonces", "ab") as file:
        file.write(b"half")
    again = NonceStore(tmp_path / "nonces")
    with pytest.raises(RequestReplayed):
        again.remember(of("a"), now_s=50)
    again.remember(of("b"), now_s=50)
    third = NonceStore(tmp_path / "nonces")
    with pytest.raises(RequestReplayed):
        third.remember(of("b"), now_s=50)
    for each in (store, again, third):
        each.close()


def test_nonces_are_bounded_and_a_clock_set_back_opens_nothing(tmp_path: Path) -> None:
    store = NonceStore(tmp_path / "nonces", nonces_max=4, per_key_max=3)
    for nonce in "abc":
        store.remember(of(nonce), now_s=50)
    with pytest.raises(NoncesFull):
        store.remember(of("d"), now_s=50)
    store.remember(of("d", public=bytes([1]) * 32), now_s=50)
    with pytest.raises(NoncesFull):
        store.remember(of("e", public=bytes([2]) * 32), now_s=99)
    store.remember(of("e", expires_s=150), now_s=100)
    size = (tmp_path / "nonces").stat().st_size
    assert size == 24 + 40
    store.close()
    again = NonceStore(tmp_path / "nonces")
    for nonce in ("a", "new"):
        with pytest.raises(SignatureExpired):
            again.remember(of(nonce), now_s=50)
    with pytest.raises(RequestReplayed):
        again.remember(of("e", expires_s=150), now_s=50)
    again.close()


@pytest.mark.parametrize("data", [b"", b"short", b"NOTNONCE" + bytes(16), b"ZOSNONCE\2\0" + bytes(14)])
def test_another_file_is_no_file_of_nonces(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "nonces").write_bytes(data)
    with pytest.raises(NoncesDamaged):
        NonceStore(tmp_path / "nonces")


def test_a_full_disk_refuses_and_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = NonceStore(tmp_path / "nonces")
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        real(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFull):
        store.remember(of("a"), now_s=50)
    monkeypatch.undo()
    store.remember(of("a"), now_s=50)
    assert (tmp_path / "nonces").stat().st_size == 24 + 40
    store.close()
