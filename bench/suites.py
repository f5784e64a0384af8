"""The groups of measures that come with zos. A part of its own may declare its `Suite` in its own package."""

from __future__ import annotations

from bench.suite import Suite

__all__ = ["CALLS", "CONTAINERS", "ERASURE", "FLIST", "HASH", "MACHINE", "MERKLE", "PIPELINE", "SIGN"]

ERASURE = Suite(
    summary="Reed-Solomon encode and reconstruct, hot and in DRAM",
    modules=("bench.bench_erasure",),
    peers=(
        *("isa-l", "klauspost", "reed-solomon-simd", "reed-solomon-erasure"),
        *("pyeclib", "pyeclib-heap-kept", "zfec", "roofline"),
    ),
)
HASH = Suite(
    summary="BLAKE3 in batches",
    modules=("bench.bench_hash",),
    peers=("blake3", "hashlib"),
)
PIPELINE = Suite(
    summary="Chunks in one pass: BLAKE3, zstd, AEAD, Reed-Solomon, shard digests; and back",
    modules=("bench.bench_pipeline",),
)
SIGN = Suite(
    summary="Ed25519 verification: single, batch, coalesced; agreement with other verifiers",
    modules=("bench.bench_sign", "bench.bench_agreement"),
    peers=("curve25519-voi", "libsodium", "openssl"),
)
MERKLE = Suite(summary="RFC 6962 trees: leaves, nodes, proofs", modules=("bench.bench_merkle",))
CALLS = Suite(summary="What one call into Cython, PyO3 and cffi costs", modules=("bench.bench_calls",))
MACHINE = Suite(
    summary="What this machine can do at most: copy, read, XOR, fresh memory",
    modules=("bench.bench_machine",),
    peers=("roofline",),
)
FLIST = Suite(
    summary="Building, fetching and reading images",
    modules=("bench.bench_build", "bench.bench_fetch", "bench.bench_mount"),
    root="builds and mounts images",
    peers=("mkfs.erofs", "zstd"),
)
CONTAINERS = Suite(
    summary="Container starts and execs beside crun and runc, memory of the process tree",
    modules=("bench.bench_containers", "bench.bench_memory"),
    root="runs containers",
    peers=("crun", "runc"),
)
