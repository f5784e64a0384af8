"""Ed25519 verification: us for each signature, beside libsodium and OpenSSL (goal G7; the Go peer has its own part)."""

from __future__ import annotations

import importlib
import time
from array import array
from collections.abc import Callable
from typing import Any

from nacl.signing import SigningKey, VerifyKey
from pytest_benchmark.fixture import BenchmarkFixture

from bench.options import Options
from bench.recorder import Recorder
from bench.rounds import in_rounds
from native import sign

KEYS, HEADERS, MESSAGE_BYTES = 100, 10, 120
"""A validator set, headers that it signed, and about what a vote has."""
SINGLES = 20
SODIUM, OPENSSL = "libsodium, single", "OpenSSL, single"
SINGLE, CACHED, COALESCED = "single", "single, key known", "100 keys x 10 messages, keys known"
BATCHES = (4, 16, 64, 100)


def bench_sign(benchmark: BenchmarkFixture, recorder: Recorder, options: Options) -> None:
    """All in one process, in turns; libsodium and OpenSSL know no batches."""
    signing = [SigningKey(number.to_bytes(32, "little")) for number in range(KEYS)]
    messages = [number.to_bytes(MESSAGE_BYTES, "little") for number in range(KEYS * HEADERS)]
    signatures = [signing[at % KEYS].sign(message).signature for at, message in enumerate(messages)]
    public = [bytes(key.verify_key) for key in signing]
    known, sodium = sign.Keys(b"".join(public)), [VerifyKey(key) for key in public]

    def batch(count: int) -> Callable[[], object]:
        signers, ends = (
            array("I", [at % KEYS for at in range(count)]),
            array("Q", range(0, MESSAGE_BYTES * count + 1, MESSAGE_BYTES)),
        )
        flat, text = b"".join(signatures[:count]), b"".join(messages[:count])
        return lambda: known.verify_many(signers, flat, text, ends)

    def one_by_one(verify: Callable[[int], object]) -> Callable[[], object]:
        def work() -> None:
            for at in range(SINGLES):
                verify(at)

        return work

    calls: dict[str, tuple[Callable[[], object], int]] = {
        SODIUM: (one_by_one(lambda at: sodium[at].verify(messages[at], signatures[at])), SINGLES),
        SINGLE: (one_by_one(lambda at: sign.verify(public[at], messages[at], signatures[at])), SINGLES),
        CACHED: (one_by_one(lambda at: known.verify(at, messages[at], signatures[at])), SINGLES),
        **{f"batch of {count}, keys known": (batch(count), count) for count in BATCHES},
        COALESCED: (batch(KEYS * HEADERS), KEYS * HEADERS),
    }
    openssl = _openssl()
    if openssl is not None:
        loaded = [openssl.from_public_bytes(key) for key in public]
        calls[OPENSSL] = (one_by_one(lambda at: loaded[at].verify(signatures[at], messages[at])), SINGLES)
    rows = [(name, "us") for name in (SODIUM, OPENSSL, *(name for name in calls if name not in (SODIUM, OPENSSL)))]
    notes = [f"ZIP-215 by the {sign.backend()} back end, one thread, messages of {MESSAGE_BYTES} bytes"]
    title = "Ed25519: verification of one signature"
    with recorder.group(
        "sign.verify", title, rows, baselines=(SODIUM, OPENSSL), direction="speed", notes=notes
    ) as group:
        if openssl is None:
            group.missing(OPENSSL, "missing: the package cryptography is not installed")

        def turn(name: str) -> None:
            call, count = calls[name]
            begin_ns = time.perf_counter_ns()
            call()
            group.add(name, (time.perf_counter_ns() - begin_ns) / 1e3 / count)

        def others() -> None:
            for name in calls:
                if name != COALESCED:
                    turn(name)

        in_rounds(benchmark, lambda: turn(COALESCED), others=others, rounds=options.starts)


def _openssl() -> Any:
    """The class of OpenSSL's keys, where the package is installed: no dependency of zos."""
    try:
        module = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
    except ModuleNotFoundError:
        return None
    return module.Ed25519PublicKey
