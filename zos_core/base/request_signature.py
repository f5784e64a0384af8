"""Signed HTTP requests: RFC 9421 with Ed25519 over a digest of the body by RFC 9530 (docs/spec/request-signature.md).

Pure: the clock, the nonce and the memory of nonces are the caller's. A client says

    fields = Signer(key).sign(message, body, now_s=..., nonce=...)

and a server, when the head of the request has come, `verify(...)`, remembers the nonce (`nonces.NonceStore`), reads the
body and says `check_body`. `Server` and `Client` do so for every endpoint that is `signed`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from native.errors import ZosError
from zos_core.base.keyring import Key, is_bare_signature, key_id, parse_key_id

__all__ = [
    "ALGORITHM",
    "CLOCK_SKEW_S",
    "COMPONENTS",
    "LIFETIME_MAX_S",
    "LIFETIME_S",
    "NONCE_BYTES",
    "TAG",
    "AudienceWrong",
    "BodyChanged",
    "ClockSkew",
    "ComponentMissing",
    "KeyUnknown",
    "Message",
    "Parameters",
    "RequestReplayed",
    "RequestUnsigned",
    "SignatureExpired",
    "SignatureMalformed",
    "SignatureWrong",
    "Signer",
    "Verified",
    "check_body",
    "content_digest",
    "parse_input",
    "signature_base",
    "verify",
]

TAG = "zos-request"
"""What the signature is for: no signature of another protocol passes for one of ours."""
LABEL = "zos"
ALGORITHM = "ed25519"
COMPONENTS = ("@method", "@authority", "@path", "@query", "content-digest")
"""What must be covered; more may be."""
PARAMETERS = ("created", "expires", "nonce", "keyid", "alg", "tag")
LIFETIME_S = 60
"""From `created` to `expires` as we sign: a request goes out at once, its body may take longer."""
LIFETIME_MAX_S = 300
"""The longest that is accepted: so long nonces are remembered."""
CLOCK_SKEW_S = 60
"""How far in the future `created` may be."""
NONCE_BYTES = 16
FIELD_MAX = 4096
"""Characters of each signature field; ours have 300."""
COMPONENTS_MAX = 32

_NAME = re.compile(r"@?[a-z0-9][a-z0-9_.*-]{0,63}\Z")
_STRING = r'"((?:[ !#-\[\]-~]|\\["\\])*)"'
_INNER = re.compile(r"\(((?:\"[^\"\\]*\"(?: \"[^\"\\]*\")*)?)\)")
_PARAMETER = re.compile(rf";([a-z*][a-z0-9_.*-]*)=(?:(-?[0-9]{{1,15}})|{_STRING})")
_MEMBER = re.compile(r"([a-z*][a-z0-9_.*-]*)=")
_BINARY = re.compile(r":([A-Za-z0-9+/]*={0,2}):")


class RequestUnsigned(ZosError):
    """The request must be signed, and carries no signature for zos (REQSIG-1)."""

    code, http_status, exit_status = "request.unsigned", 401, 16


class SignatureMalformed(ZosError):
    """The fields of the signature or of the digest cannot be read (REQSIG-2)."""

    code, http_status, exit_status = "request.signature-malformed", 400, 16


class ComponentMissing(ZosError):
    """The signature does not cover all that it must, or lacks a parameter (REQSIG-3, REQSIG-4)."""

    code, http_status, exit_status = "request.component-missing", 401, 16


class KeyUnknown(ZosError):
    """The key of the signature may not speak here (REQSIG-5)."""

    code, http_status, exit_status = "request.key-unknown", 401, 16


class SignatureWrong(ZosError):
    """The signature is not that of this method, target and digest (REQSIG-6)."""

    code, http_status, exit_status = "request.signature-wrong", 401, 16


class SignatureExpired(ZosError):
    """The time of the signature is over, or longer than allowed (REQSIG-7)."""

    code, http_status, exit_status, retryable = "request.expired", 401, 16, True


class ClockSkew(ZosError):
    """The signature was made in the future: one of the two clocks is wrong (REQSIG-7)."""

    code, http_status, exit_status = "request.clock-skew", 401, 16


class RequestReplayed(ZosError):
    """A request with this nonce was here before (REQSIG-8)."""

    code, http_status, exit_status = "request.replayed", 401, 16


class BodyChanged(ZosError):
    """The body is not the one whose digest was signed (REQSIG-9)."""

    code, http_status, exit_status = "request.body-changed", 400, 16


class AudienceWrong(ZosError):
    """The request was signed for another server (REQSIG-10)."""

    code, http_status, exit_status = "request.wrong-audience", 421, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """The head of a request as it stands on the wire.

    Attributes:
        method: as sent, such as "PUT".
        authority: the Host field; host and port, the port left out where it is the scheme's own.
        path: percent-encoded, from "/" on.
        query: percent-encoded, without the question mark; "" for none.
        fields: by lower-case name; of a field that came twice the values joined by ", ".
    """

    method: str
    authority: str
    path: str
    query: str
    fields: Mapping[str, str]

    def component(self, name: str) -> str:
        """The value of a component (RFC 9421, section 2).

        Raises:
            ComponentMissing: there is none.
        """
        match name:
            case "@method":
                return self.method
            case "@authority":
                return self.authority.lower()
            case "@path":
                return self.path or "/"
            case "@query":
                return f"?{self.query}"
        if name not in self.fields:
            raise ComponentMissing(f"the request has no {name}", component=name)
        return self.fields[name].strip(" \t")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What is covered, and the parameters of the signature in the order in which they stand."""

    components: tuple[str, ...]
    values: tuple[tuple[str, int | str], ...]

    def get(self, name: str) -> int | str | None:
        """The value of a parameter, or None."""
        return next((value for each, value in self.values if each == name), None)

    def text(self) -> str:
        """The value of `@signature-params`, and of the member of Signature-Input."""
        inner = " ".join(f'"{name}"' for name in self.components)
        return f"({inner})" + "".join(f";{name}={_item(value)}" for name, value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A head that was verified: whose, until when, under which nonce, and the digest that the body must have."""

    public: bytes
    nonce: str
    expires_s: int
    digest: bytes


def _item(value: int | str) -> str:
    if isinstance(value, int):
        return str(value)
    if not re.fullmatch(r"[ -~]*", value):
        raise SignatureMalformed("a parameter of a signature has characters that it cannot have")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def signature_base(message: Message, parameters: Parameters) -> bytes:
    """The bytes that are signed (RFC 9421, section 2.5).

    Raises:
        ComponentMissing: the message lacks a component that is covered.
    """
    lines = [f'"{name}": {message.component(name)}' for name in parameters.components]
    lines.append(f'"@signature-params": {parameters.text()}')
    try:
        return "\n".join(lines).encode("ascii")
    except UnicodeEncodeError as error:
        raise SignatureMalformed("a component of a signature is not ASCII") from error


def content_digest(body: bytes) -> str:
    """The Content-Digest field of a body (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs requests with one key."""

    key: Key

    def sign(self, message: Message, body: bytes, *, now_s: int, nonce: bytes) -> dict[str, str]:
        """The fields to add to the request.

        Args:
            message: method, authority, path and query; fields are not covered.
            body: all of it; b"" for none.
            now_s: the clock, in seconds since the epoch.
            nonce: `NONCE_BYTES` random bytes, never used before with this key.
        """
        digest = content_digest(body)
        parameters = Parameters(
            components=COMPONENTS,
            values=(
                ("created", now_s),
                ("expires", now_s + LIFETIME_S),
                ("nonce", base64.urlsafe_b64encode(nonce).decode().rstrip("=")),
                ("keyid", self.key.id),
                ("alg", ALGORITHM),
                ("tag", TAG),
            ),
        )
        covered = Message(
            method=message.method,
            authority=message.authority,
            path=message.path,
            query=message.query,
            fields={"content-digest": digest},
        )
        signature = self.key.sign_bare(signature_base(covered, parameters))
        return {
            "Content-Digest": digest,
            "Signature-Input": f"{LABEL}={parameters.text()}",
            "Signature": f"{LABEL}=:{base64.b64encode(signature).decode()}:",
        }


# --- Verifying -----------------------------------------------------------------------------------------------------


def verify(message: Message, *, known: Callable[[bytes], bool], audiences: Collection[str], now_s: int) -> Verified:
    """Verify the head of a request. The nonce is still to be remembered (REQSIG-8), the body to be checked (REQSIG-9).

    Args:
        message: as it came.
        known: whether a public key may speak here.
        audiences: authorities that are this server's, in lower case.
        now_s: the clock, in seconds since the epoch.

    Raises:
        RequestUnsigned, SignatureMalformed, ComponentMissing, AudienceWrong, KeyUnknown, ClockSkew, SignatureExpired,
        SignatureWrong: see there.
    """
    label, parameters = _ours(message)
    signature = _signatures(message).get(label)
    if signature is None:
        raise SignatureMalformed(f"Signature has no member {label!r}")
    for name in COMPONENTS:
        if name not in parameters.components:
            raise ComponentMissing(f"the signature does not cover {name}", component=name)
    created, expires, nonce, public = _required(parameters)
    digest = _digest_of(message)
    authority = message.component("@authority")
    if authority not in audiences:
        raise AudienceWrong(
            f"this server is not {authority[:80]!r}",
            hint="the server's operator names it: `zos hub serve --name HOST[:PORT]`",
            authority=authority[:80],
        )
    if not known(public):
        raise KeyUnknown(f"{key_id(public)} may not speak here", hint="ask the operator to add it", key=key_id(public))
    if not is_bare_signature(public, signature_base(message, parameters), signature):
        raise SignatureWrong("the signature is not that of this request", key=key_id(public))
    _check_time(created, expires, now_s)
    return Verified(public=public, nonce=nonce, expires_s=expires, digest=digest)


def check_body(verified: Verified, body: bytes) -> None:
    """Refuse another body than the one whose digest was signed (REQSIG-9).

    Raises:
        BodyChanged: it is another one.
    """
    if hashlib.sha256(body).digest() != verified.digest:
        raise BodyChanged("the body is not the one that was signed", length=len(body))


def _check_time(created: int, expires: int, now_s: int) -> None:
    if created > now_s + CLOCK_SKEW_S:
        raise ClockSkew(
            f"signed {created - now_s} s in the future", hint="set the clock of the machine that signs", now_s=now_s
        )
    if not created < expires <= created + LIFETIME_MAX_S:
        raise SignatureExpired(f"a signature is good for at most {LIFETIME_MAX_S} s", now_s=now_s)
    if expires <= now_s:
        raise SignatureExpired(
            f"the signature expired {now_s - expires} s ago",
            hint="sign again; if it happens again, a clock is wrong",
            now_s=now_s,
        )


def _required(parameters: Parameters) -> tuple[int, int, str, bytes]:
    for name in PARAMETERS:
        if parameters.get(name) is None:
            raise ComponentMissing(f"the signature has no parameter {name}", component=name)
    created, expires, nonce, keyid = (parameters.get(name) for name in ("created", "expires", "nonce", "keyid"))
    if not (isinstance(created, int) and isinstance(expires, int) and created >= 0):
        raise SignatureMalformed("created and expires are seconds since the epoch")
    if not (isinstance(nonce, str) and isinstance(keyid, str) and re.fullmatch(r"[A-Za-z0-9_-]{22,64}", nonce)):
        raise SignatureMalformed("a nonce is 22 to 64 characters of base64url, a keyid a string")
    if parameters.get("alg") != ALGORITHM:
        raise SignatureMalformed(f"the algorithm is {ALGORITHM}")
    return created, expires, nonce, parse_key_id(keyid)


def _ours(message: Message) -> tuple[str, Parameters]:
    """The one signature whose tag is ours."""
    if "signature-input" not in message.fields or "signature" not in message.fields:
        raise RequestUnsigned("the request is not signed", hint="it needs the own key: zos flist publish signs")
    found = {
        label: parameters
        for label, parameters in parse_input(message.fields["signature-input"]).items()
        if parameters.get("tag") == TAG
    }
    if not found:
        raise RequestUnsigned(f"the request carries no signature with the tag {TAG}")
    if len(found) > 1:
        raise SignatureMalformed(f"the request carries {len(found)} signatures with the tag {TAG}")
    return next(iter(found.items()))


def _digest_of(message: Message) -> bytes:
    for label, value in _binaries(message.component("content-digest"), "Content-Digest").items():
        if label == "sha-256" and len(value) == 32:
            return value
    raise SignatureMalformed("Content-Digest has no sha-256")


def _signatures(message: Message) -> dict[str, bytes]:
    return _binaries(message.fields["signature"], "Signature")


# --- Structured fields (RFC 8941), as far as these fields need them --------------------------------------------------


def parse_input(text: str) -> dict[str, Parameters]:
    """The members of a Signature-Input field.

    Raises:
        SignatureMalformed: anything but a dictionary of inner lists of plain component names in canonical form.
    """
    if len(text) > FIELD_MAX:
        raise SignatureMalformed("Signature-Input is too long")
    found: dict[str, Parameters] = {}
    at = 0
    while True:
        member = _MEMBER.match(text, at)
        inner = _INNER.match(text, member.end()) if member else None
        if member is None or inner is None or member[1] in found:
            raise SignatureMalformed("Signature-Input is no dictionary of lists", position=at)
        values: list[tuple[str, int | str]] = []
        at = inner.end()
        while parameter := _PARAMETER.match(text, at):
            name, number, string = parameter.groups()
            values.append((name, int(number) if number is not None else re.sub(r"\\(.)", r"\1", string)))
            at = parameter.end()
        parameters = Parameters(components=_components(inner[1]), values=tuple(values))
        if len({name for name, _ in values}) != len(values) or parameters.text() != text[member.end() : at]:
            raise SignatureMalformed("Signature-Input is not in its canonical form", position=at)
        found[member[1]] = parameters
        if at == len(text):
            return found
        at = _comma(text, at, "Signature-Input")


def _components(text: str) -> tuple[str, ...]:
    names = tuple(part[1:-1] for part in text.split(" ")) if text else ()
    if len(names) > COMPONENTS_MAX or len(set(names)) != len(names) or not all(_NAME.match(name) for name in names):
        raise SignatureMalformed("a signature covers something that is no component, or covers it twice")
    return names


def _binaries(text: str, what: str) -> dict[str, bytes]:
    if len(text) > FIELD_MAX:
        raise SignatureMalformed(f"{what} is too long")
    found: dict[str, bytes] = {}
    at = 0
    while True:
        member = _MEMBER.match(text, at)
        value = _BINARY.match(text, member.end()) if member else None
        if member is None or value is None or member[1] in found:
            raise SignatureMalformed(f"{what} is no dictionary of bytes", position=at)
        try:
            found[member[1]] = base64.b64decode(value[1], validate=True)
        except binascii.Error as error:
            raise SignatureMalformed(f"{what} is no base64", position=at) from error
        at = value.end()
        if at == len(text):
            return found
        at = _comma(text, at, what)


def _comma(text: str, at: int, what: str) -> int:
    comma = re.compile(r"[ \t]*,[ \t]*").match(text, at)
    if comma is None:
        raise SignatureMalformed(f"{what} goes on with something else", position=at)
    return comma.end()
