"""Ed25519 verification by ZIP-215 (docs/spec/signatures.md): one predicate for one signature, many, and everybody.

What is right here is right in every zos, on every machine, singly and in any batch, which PyNaCl and OpenSSL do not
promise each other: nothing else may decide whether a block, a manifest or a request is signed. Signing, X25519 and
sealed boxes are PyNaCl's, which does them in constant time; they are not wrapped.

    verify(key, message, signature)                       # SignatureWrong, or nothing
    validators = Keys(b"".join(keys))                     # decompressed once
    validators.verify_many(signers, signatures, messages, offsets)

Buffers are C-contiguous, of any kind: keys of 32 and signatures of 64 bytes end to end, messages end to end with their
n + 1 offsets (u64), signers as u32, all little-endian. Wrong lengths and numbers are `InputInvalid`. Everything is done
without the GIL, by as many threads as are asked for, and Ctrl-C is heard within about 100 ms. The functions are those
of `native/crates/ed25519`, or of the twin `native/reference/sign.py`, where each one is described.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native._choice import REFERENCE
from native.errors import InputInvalid
from native.reference.sign import KEY_BYTES, SIGNATURE_BYTES, THREADS_MAX, KeyRefused, SignatureWrong

if TYPE_CHECKING or not REFERENCE:
    import native._main_only  # noqa: F401  # refuses other interpreters
    from native._rust import Keys
    from native._rust import sign_backend as backend
    from native._rust import sign_check_key as check_key
    from native._rust import sign_verdicts as verdicts
    from native._rust import sign_verify as verify
    from native._rust import sign_verify_many as verify_many
else:
    from native.reference.sign import Keys, backend, check_key, verdicts, verify, verify_many

__all__ = [
    "KEY_BYTES",
    "SIGNATURE_BYTES",
    "THREADS_MAX",
    "InputInvalid",
    "KeyRefused",
    "Keys",
    "SignatureWrong",
    "backend",
    "check_key",
    "verdicts",
    "verify",
    "verify_many",
]
