"""Signatures of manifests: Ed25519 over a context and the digest (FLIST-SIG-1), by the keys of a keyring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flist.manifest import SIGNATURE_CONTEXT, Signature, SignedManifest
from native.errors import ZosError
from zos_core.base.keyring import Key, is_signature, key_id

__all__ = [
    "NAME_CONTEXT",
    "SignatureInvalid",
    "Unsigned",
    "UntrustedPublisher",
    "sign_manifest",
    "trust_hint",
    "verify_manifest",
]

NAME_CONTEXT = b"zos/flist/name/v1\0"


class SignatureInvalid(ZosError):
    """A signature is there, and it is wrong: the bytes were changed after signing."""

    code, http_status, exit_status = "flist.signature-invalid", 403, 38


class UntrustedPublisher(ZosError):
    """Signed, but by nobody who is trusted for that publisher."""

    code, http_status, exit_status = "flist.untrusted-publisher", 403, 39


class Unsigned(ZosError):
    """No signature at all; only `--unsigned FILE` runs such an image."""

    code, http_status, exit_status = "flist.unsigned", 403, 40


def trust_hint(publisher: str, public: bytes) -> str:
    """What a person does who trusts a key that is not trusted yet."""
    return f"if that is the publisher's key, and you trust it: zos trust add {publisher} {key_id(public)}"


def sign_manifest(signed: SignedManifest, key: Key) -> SignedManifest:
    """The same manifest with a signature of `key` beside those that it has."""
    return signed.with_signature(Signature(key.public, key.sign(SIGNATURE_CONTEXT, signed.digest)))


def verify_manifest(signed: SignedManifest, *, trusted: Callable[[str], Sequence[bytes]]) -> bytes:
    """The trusted key whose signature the manifest carries (FLIST-SIG-2).

    Raises:
        Unsigned: there is no signature.
        UntrustedPublisher: none is by a trusted key of the manifest's publisher.
        SignatureInvalid: one is by a trusted key, and wrong.
    """
    name = signed.manifest.name
    publisher = name.partition("/")[0]
    if not signed.signatures:
        raise Unsigned(f"{name} is not signed", hint="`zos run --unsigned FILE` says aloud that this is meant")
    keys = set(trusted(publisher))
    ours = [each for each in signed.signatures if each.key in keys]
    if not ours:
        by = key_id(signed.signatures[0].key)
        raise UntrustedPublisher(
            f"{name} is signed by {by}, which is not trusted for {publisher}",
            hint=trust_hint(publisher, signed.signatures[0].key),
            publisher=publisher,
        )
    for each in ours:
        if not is_signature(each.key, SIGNATURE_CONTEXT, signed.digest, each.signature):
            raise SignatureInvalid(f"a signature of {name} is wrong: the image was changed", publisher=publisher)
    return ours[0].key
