"""RFC 9421, appendix B.2.6, and the golden requests of docs/spec/request-signature.md."""

from __future__ import annotations

import base64
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from zos_core.base.keyring import Key, is_bare_signature, key_id
from zos_core.base.request_signature import (
    Message,
    Signer,
    check_body,
    parse_input,
    signature_base,
    verify,
)

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "request_signature.json"
NONCE = bytes(range(16))
CREATED_S = 1_790_000_000

# B.1.4, test-key-ed25519: the members d and x of its JWK form.
RFC_SEED = base64.urlsafe_b64decode("n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU=")
RFC_PUBLIC = base64.urlsafe_b64decode("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs=")
# B.2, the test request, and B.2.6.
RFC_MESSAGE = Message(
    method="POST",
    authority="example.com",
    path="/foo",
    query="param=Value&Pet=dog",
    fields={
        "host": "example.com",
        "date": "Tue, 20 Apr 2021 02:07:55 GMT",
        "content-type": "application/json",
        "content-digest": (
            "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:"
        ),
        "content-length": "18",
    },
)
RFC_INPUT = (
    'sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length")'
    ';created=1618884473;keyid="test-key-ed25519"'
)
RFC_BASE = """\
"date": Tue, 20 Apr 2021 02:07:55 GMT
"@method": POST
"@path": /foo
"@authority": example.com
"content-type": application/json
"content-length": 18
"@signature-params": ("date" "@method" "@path" "@authority" "content-type" "content-length")\
;created=1618884473;keyid="test-key-ed25519\""""
RFC_SIGNATURE = base64.b64decode(
    "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
)


def test_rfc_9421_b_2_6() -> None:
    parameters = parse_input(RFC_INPUT)["sig-b26"]
    base = signature_base(RFC_MESSAGE, parameters)
    assert base.decode() == RFC_BASE
    assert is_bare_signature(RFC_PUBLIC, base, RFC_SIGNATURE)
    assert Key("jane", SigningKey(RFC_SEED)).sign_bare(base) == RFC_SIGNATURE
    assert not is_bare_signature(RFC_PUBLIC, base.replace(b"18\n", b"19\n"), RFC_SIGNATURE)


def golden() -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads(VECTORS.read_text())
    return loaded


def test_vectors_are_what_the_independent_script_makes() -> None:
    assert VECTORS.read_text() == runpy.run_path(str(VECTORS.with_suffix(".py")))["vectors"]()


@pytest.mark.parametrize("vector", golden(), ids=lambda vector: vector["method"])
def test_golden_requests(vector: dict[str, Any]) -> None:
    key = Key("jane", SigningKey(bytes(range(32))))
    body = bytes.fromhex(vector["body"])
    bare = Message(
        method=vector["method"], authority=vector["authority"], path=vector["path"], query=vector["query"], fields={}
    )
    fields = Signer(key).sign(bare, body, now_s=CREATED_S, nonce=NONCE)
    assert fields == {name: vector[name] for name in ("Content-Digest", "Signature-Input", "Signature")}
    signed = Message(
        method=bare.method,
        authority=bare.authority,
        path=bare.path,
        query=bare.query,
        fields={name.lower(): value for name, value in fields.items()},
    )
    assert signature_base(signed, parse_input(vector["Signature-Input"])["zos"]).decode() == vector["base"]
    verified = verify(signed, known=lambda public: True, audiences={vector["authority"]}, now_s=CREATED_S)
    assert key_id(verified.public) == key.id
    assert verified.expires_s == CREATED_S + 60
    check_body(verified, body)
