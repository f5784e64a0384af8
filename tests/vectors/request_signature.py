"""Golden signed requests, written with no code of ours; run as a script it writes the JSON beside.

Ed25519 keys are the bytes 0..31 and the seed of RFC 9421, appendix B.1.4.
"""

import base64
import hashlib
import json
from pathlib import Path

from nacl.signing import SigningKey


def request(method: str, authority: str, path: str, query: str, body: bytes) -> dict[str, str]:
    key = SigningKey(bytes(range(32)))
    digest = f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
    parameters = (
        '("@method" "@authority" "@path" "@query" "content-digest");created=1790000000;expires=1790000060'
        f';nonce="AAECAwQFBgcICQoLDA0ODw";keyid="ed25519:{bytes(key.verify_key).hex()}"'
        ';alg="ed25519";tag="zos-request"'
    )
    base = (
        f'"@method": {method}\n"@authority": {authority}\n"@path": {path}\n"@query": ?{query}\n'
        f'"content-digest": {digest}\n"@signature-params": {parameters}'
    )
    signature = base64.b64encode(key.sign(base.encode()).signature).decode()
    return {
        "method": method,
        "authority": authority,
        "path": path,
        "query": query,
        "body": body.hex(),
        "base": base,
        "Content-Digest": digest,
        "Signature-Input": f"zos={parameters}",
        "Signature": f"zos=:{signature}:",
    }


def vectors() -> str:
    made = [
        request("PUT", "127.0.0.1:7080", "/v1/uploads/pack/" + "0f" * 32, "offset=0&size=3", b"abc"),
        request("POST", "hub.example", "/v1/revisions", "", b"{}"),
        request("DELETE", "[::1]:7080", "/v1/a%20b", "x=%2F", b""),
    ]
    return json.dumps(made, indent=1) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".json").write_text(vectors())
