"""Every peer that there is: where it comes from, what it is pinned to, how its program is started. Data alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bench.errors import PeerUnknown

__all__ = ["CATALOG", "PeerSpec", "find"]

Kind = Literal["c", "debian", "go", "rust", "python", "system"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSpec:
    """One peer.

    Attributes:
        name: by which suites and the command line know it.
        title: of its rows.
        kind: how it is made: `c` (a C program of ours), `debian` (a C program on a library unpacked from Debian's
            archive), `go`, `rust`, `python` (a program of ours in a virtual environment), `system` (a command of the
            machine, installed by apt).
        summary: what it is, and whose.
        program: the name of the built program, of the module for `python`, of the command for `system`.
        packages: what is asked of the registry.
        suite: the release of Debian that `debian` packages are taken from.
        minimum: the oldest version that a comparison may name.
        environment: of its process.
    """

    name: str
    title: str
    kind: Kind
    summary: str
    program: str
    packages: tuple[str, ...] = ()
    suite: str = ""
    minimum: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = field(default=())


# glibc keeps what it was given back instead of returning it to the kernel: no page faults per call (goal G4).
HEAP_KEPT = (
    ("MALLOC_TRIM_THRESHOLD_", "1073741824"),
    ("MALLOC_TOP_PAD_", "67108864"),
    ("MALLOC_MMAP_THRESHOLD_", "1073741824"),
)

CATALOG = (
    PeerSpec(
        name="roofline",
        title="roofline",
        kind="c",
        summary="memcpy, reads, XOR and GFNI of this machine: what it can do at most (ours)",
        program="roofline",
    ),
    PeerSpec(
        name="isa-l",
        title="ISA-L",
        kind="debian",
        summary="Intel's erasure code library, in C and assembler",
        program="isal_peer",
        packages=("libisal2", "libisal-dev"),
        suite="trixie",
        minimum="2.31.1",
    ),
    PeerSpec(
        name="klauspost",
        title="klauspost",
        kind="go",
        summary="klauspost/reedsolomon, Go with assembler (MinIO, SeaweedFS)",
        program="klauspost",
        packages=("github.com/klauspost/reedsolomon",),
    ),
    PeerSpec(
        name="curve25519-voi",
        title="curve25519-voi",
        kind="go",
        summary="oasisprotocol/curve25519-voi, the Ed25519 of CometBFT",
        program="voi",
        packages=("github.com/oasisprotocol/curve25519-voi",),
    ),
    PeerSpec(
        name="reed-solomon-simd",
        title="reed-solomon-simd",
        kind="rust",
        summary="Rust, Leopard FFT over GF(2^16)",
        program="reed_solomon_simd",
        packages=("reed-solomon-simd",),
    ),
    PeerSpec(
        name="reed-solomon-erasure",
        title="reed-solomon-erasure",
        kind="rust",
        summary="Rust, with its C SIMD (zstor)",
        program="reed_solomon_erasure",
        packages=("reed-solomon-erasure",),
    ),
    PeerSpec(
        name="pyeclib",
        title="pyeclib",
        kind="python",
        summary="OpenStack Swift's erasure code, ISA-L inside, the heap as glibc has it",
        program="pyeclib",
        packages=("pyeclib>=1.8",),
    ),
    PeerSpec(
        name="pyeclib-heap-kept",
        title="pyeclib, heap kept",
        kind="python",
        summary="the same with a heap that gives nothing back",
        program="pyeclib",
        packages=("pyeclib>=1.8",),
        environment=HEAP_KEPT,
    ),
    PeerSpec(
        name="zfec",
        title="zfec",
        kind="python",
        summary="Tahoe-LAFS's erasure code, in C",
        program="zfec",
        packages=("zfec>=1.6",),
    ),
    PeerSpec(
        name="libsodium",
        title="libsodium",
        kind="python",
        summary="Ed25519 of libsodium by PyNaCl",
        program="pynacl",
        packages=("pynacl>=1.6",),
    ),
    PeerSpec(
        name="openssl",
        title="OpenSSL",
        kind="python",
        summary="Ed25519 of OpenSSL by cryptography",
        program="cryptography",
        packages=("cryptography>=46",),
    ),
    PeerSpec(
        name="blake3",
        title="blake3 wheel",
        kind="python",
        summary="BLAKE3 in Rust by its Python wheel",
        program="blake3",
        packages=("blake3>=1.0",),
    ),
    PeerSpec(
        name="hashlib",
        title="hashlib",
        kind="python",
        summary="SHA-256 of OpenSSL by Python's hashlib",
        program="hashlib",
    ),
    PeerSpec(name="crun", title="crun", kind="system", summary="OCI runtime in C", program="crun", packages=("crun",)),
    PeerSpec(name="runc", title="runc", kind="system", summary="OCI runtime in Go", program="runc", packages=("runc",)),
    PeerSpec(
        name="mkfs.erofs",
        title="mkfs.erofs",
        kind="system",
        summary="EROFS image builder",
        program="mkfs.erofs",
        packages=("erofs-utils",),
    ),
    PeerSpec(
        name="zstd", title="tar + zstd -3", kind="system", summary="compressor", program="zstd", packages=("zstd",)
    ),
)


def find(name: str) -> PeerSpec:
    """The peer of that name.

    Raises:
        PeerUnknown: there is none.
    """
    for spec in CATALOG:
        if spec.name == name:
            return spec
    raise PeerUnknown(
        f"there is no peer {name!r}", hint=f"one of {', '.join(spec.name for spec in CATALOG)}", peer=name
    )
