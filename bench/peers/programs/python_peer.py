"""Peers that are Python packages, docs/spec/bench-peer.md: `python python_peer.py NAME`, in the peers' own environment.

Needs the standard library and the peer alone; nothing of zos.
"""

from __future__ import annotations

import gc
import hashlib
import os
import resource
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from itertools import repeat

__all__ = ["main"]

Work = Callable[[], object]


class Missing(Exception):
    """This peer cannot do what is asked, which is no fault."""


@dataclass(frozen=True)
class Request:
    """What to get ready for."""

    work: str
    input: str
    values: Mapping[str, int]

    def pieces(self, count: int, length: int) -> list[bytes]:
        """The input, cut in `count` pieces of `length` bytes."""
        with open(self.input, "rb") as file:
            found = [file.read(length) for _ in range(count)]
        if any(len(piece) != length for piece in found):
            raise ValueError(f"the input is shorter than {count} times {length} bytes")
        return found


Prepare = Callable[[Request], tuple[Work, str]]


@dataclass(frozen=True)
class Peer:
    """A package: the name in the catalogue, its version, what it does."""

    name: str
    version: str
    works: tuple[str, ...]
    prepare: Prepare


def digest(parts: Iterable[bytes]) -> str:
    """CRC-32 of the parts, one after the other."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return f"{crc:08x}"


def repaired(got: bytes, wanted: bytes) -> None:
    """Raise unless what came back is what was lost."""
    if got != wanted:
        raise ValueError("other bytes came back than were lost")


# --- erasure ---------------------------------------------------------------------------------------------------------


def pyeclib() -> Peer:
    """Its fragments carry headers, and it copies: what a user of Swift gets."""
    from pyeclib.ec_iface import ECDriver

    def prepare(request: Request) -> tuple[Work, str]:
        k, m, length = (request.values[key] for key in ("k", "m", "shard_bytes"))
        driver = ECDriver(k=k, m=m, ec_type="isa_l_rs_cauchy")
        data = b"".join(request.pieces(k, length))
        fragments = driver.encode(data)
        repaired(driver.decode(fragments[m:]), data)
        if request.work == "erasure.encode":
            return lambda: driver.encode(data), ""
        lost = request.values["lost"]
        kept = fragments[lost:]
        wanted = list(range(lost))
        repaired(b"".join(driver.reconstruct(kept, wanted)), b"".join(fragments[:lost]))
        return lambda: driver.reconstruct(kept, wanted), ""

    works = ("erasure.encode", "erasure.reconstruct")
    return Peer("pyeclib", metadata.version("pyeclib"), works, prepare)


def zfec() -> Peer:
    """Its C code by its Python module; primary shares are handed through, so parity alone is asked for."""
    import zfec as package

    def prepare(request: Request) -> tuple[Work, str]:
        k, m, length = (request.values[key] for key in ("k", "m", "shard_bytes"))
        encoder, decoder = package.Encoder(k, k + m), package.Decoder(k, k + m)
        data = request.pieces(k, length)
        numbers = list(range(k, k + m))
        parity = encoder.encode(data, numbers)
        if request.work == "erasure.encode":
            return lambda: encoder.encode(data, numbers), digest(parity)
        lost = request.values["lost"]
        # Its decoder wants each primary share at its own place; a secondary one takes that of a lost one.
        shares = [*parity[:lost], *data[lost:]]
        where = [*range(k, k + lost), *range(lost, k)]
        repaired(b"".join(decoder.decode(shares, where)[:lost]), b"".join(data[:lost]))
        return lambda: decoder.decode(shares, where), digest(data[:lost])

    works = ("erasure.encode", "erasure.reconstruct")
    return Peer("zfec", metadata.version("zfec"), works, prepare)


# --- signatures ------------------------------------------------------------------------------------------------------


def _records(request: Request) -> list[tuple[bytes, bytes, bytes]]:
    length = 96 + request.values["message_bytes"]
    return [(one[:32], one[32:96], one[96:]) for one in request.pieces(request.values["count"], length)]


def pynacl() -> Peer:
    """libsodium below its Python module: the call that nacl.signing makes, without the copies that it makes around."""
    from nacl import bindings
    from nacl.exceptions import BadSignatureError

    def prepare(request: Request) -> tuple[Work, str]:
        signed = [(signature + message, key) for key, signature, message in _records(request)]
        verify = bindings.crypto_sign_open
        broken = bytearray(signed[0][0])
        broken[0] ^= 1
        try:
            verify(bytes(broken), signed[0][1])
        except BadSignatureError:
            pass
        else:
            raise ValueError("a bad signature was accepted")

        def work() -> None:
            for both, key in signed:
                verify(both, key)

        return work, ""

    return Peer("libsodium", f"pynacl-{metadata.version('pynacl')}", ("sign.single",), prepare)


def cryptography() -> Peer:
    """OpenSSL below its Python module, key objects made beforehand."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.backends.openssl import backend
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    def prepare(request: Request) -> tuple[Work, str]:
        signed = [
            (Ed25519PublicKey.from_public_bytes(key).verify, signature, message)
            for key, signature, message in _records(request)
        ]
        verify, signature, message = signed[0]
        try:
            verify(bytes([signature[0] ^ 1]) + signature[1:], message)
        except InvalidSignature:
            pass
        else:
            raise ValueError("a bad signature was accepted")

        def work() -> None:
            for verify, signature, message in signed:
                verify(signature, message)

        return work, ""

    version = backend.openssl_version_text().split()[1]
    return Peer("openssl", f"{version}(cryptography-{metadata.version('cryptography')})", ("sign.single",), prepare)


# --- hashes ----------------------------------------------------------------------------------------------------------


def _hashing(name: str, version: str, functions: Mapping[str, Callable[[bytes], bytes]]) -> Peer:
    def prepare(request: Request) -> tuple[Work, str]:
        function = functions[request.work]
        chunks = request.pieces(request.values["chunks"], request.values["chunk_bytes"])

        def work() -> None:
            for chunk in chunks:
                function(chunk)

        return work, digest(function(chunk) for chunk in chunks)

    return Peer(name, version, tuple(functions), prepare)


def blake3() -> Peer:
    """One call for each chunk, one thread."""
    import blake3 as package

    make = package.blake3
    return _hashing("blake3", metadata.version("blake3"), {"hash.blake3": lambda chunk: make(chunk).digest()})


def hashlib_() -> Peer:
    """OpenSSL's hashes by the standard library."""
    import ssl

    version = f"{ssl.OPENSSL_VERSION.split()[1]}(python-{sys.version.split()[0]})"
    functions = {
        "hash.sha256": lambda chunk: hashlib.sha256(chunk).digest(),
        "hash.blake2b": lambda chunk: hashlib.blake2b(chunk).digest(),
    }
    return _hashing("hashlib", version, functions)


PEERS: Mapping[str, Callable[[], Peer]] = {
    "pyeclib": pyeclib,
    "zfec": zfec,
    "pynacl": pynacl,
    "cryptography": cryptography,
    "blake3": blake3,
    "hashlib": hashlib_,
}


# --- the protocol ----------------------------------------------------------------------------------------------------


def faults() -> int:
    """Minor page faults so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def timed(work: Work, count: int) -> str:
    """Do the work, without the collector of cycles, as ours is done; the answer."""
    gc.disable()
    try:
        before, begin_ns = faults(), time.perf_counter_ns()
        for _ in repeat(None, count):
            work()
        spent_ns = time.perf_counter_ns() - begin_ns
    finally:
        gc.enable()
    return f"ok ns={spent_ns} faults={faults() - before}"


def main(name: str) -> int:
    """Serve until stdin closes."""
    peer = PEERS[name]()
    print(f"hello 1 peer={peer.name} version={peer.version} works={','.join(peer.works)}", flush=True)
    work: Work | None = None
    for line in sys.stdin:
        words = line.split()
        try:
            if len(words) >= 3 and words[0] == "prepare":
                work = None
                values = {key: int(value) for key, _, value in (word.partition("=") for word in words[3:])}
                made, found = peer.prepare(Request(words[1], words[2], values))
                made()
                work = made
                answer = f"ok digest={found}" if found else "ok"
            elif len(words) == 2 and words[0] == "run" and work is not None:
                answer = timed(work, int(words[1]))
            else:
                answer = "error not understood"
        except Missing as reason:
            answer = f"missing {reason}"
        except Exception as error:  # noqa: BLE001 (whatever a peer's package raises is told, not died of)
            answer = f"error {type(error).__name__}: {error}".replace(os.linesep, " ")
        print(answer, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
