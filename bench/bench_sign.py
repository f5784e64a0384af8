"""Ed25519 verification by ZIP-215, us for each signature, beside libsodium, OpenSSL, and the Go of CometBFT (G7, G8).

Peers read records of key, signature and message. libsodium and OpenSSL know no batches: in the groups of batches they
verify one by one, which is what their users do.
"""

from __future__ import annotations

from array import array
from functools import partial

import pytest
from nacl.signing import SigningKey

from bench.duel import Duel, Rival, Work, each
from native import sign

KEYS, HEADERS, MESSAGE_BYTES = 100, 10, 120
"""A validator set, headers that it signed, and about what a vote has."""
SINGLES = 20
BATCHES = (4, 16, 64, 100, 128)
OURS, CACHED = "zos", "zos, keys cached"
EXPANDED = "curve25519-voi, keys expanded"


class Votes:
    """So many signed messages, by the validators in turn, as our calls and as the peers take them."""

    def __init__(self, count: int) -> None:
        signing = [SigningKey(number.to_bytes(32, "little")) for number in range(KEYS)]
        public = [bytes(key.verify_key) for key in signing]
        self.count = count
        self.known = sign.Keys(b"".join(public))
        self.messages = [number.to_bytes(MESSAGE_BYTES, "little") for number in range(count)]
        self.signatures = [signing[at % KEYS].sign(message).signature for at, message in enumerate(self.messages)]
        self.keys = [public[at % KEYS] for at in range(count)]
        self.signers = array("I", [at % KEYS for at in range(count)])
        self.ends = array("Q", range(0, MESSAGE_BYTES * count + 1, MESSAGE_BYTES))
        self.text, self.flat = b"".join(self.messages), b"".join(self.signatures)
        self.all_keys = b"".join(self.keys)

    def records(self) -> bytes:
        """The peers' input (BENCH-PEER-4)."""
        parts = zip(self.keys, self.signatures, self.messages, strict=True)
        return b"".join(key + signature + message for key, signature, message in parts)

    def work(self, name: str, *, cached: bool = False, count: int | None = None) -> Work:
        """What a peer is asked for."""
        return Work(name, {"count": count or self.count, "message_bytes": MESSAGE_BYTES, "cached": int(cached)})


def _note() -> str:
    return f"ZIP-215 by the {sign.backend()} back end, one thread, messages of {MESSAGE_BYTES} bytes"


def bench_single(duel: Duel) -> None:
    """One signature, one call."""
    votes = Votes(SINGLES)
    calls = list(zip(votes.keys, votes.messages, votes.signatures, strict=True))
    known = list(zip(votes.signers, votes.messages, votes.signatures, strict=True))

    def single() -> None:
        for key, message, signature in calls:
            sign.verify(key, message, signature)

    def cached() -> None:
        for signer, message, signature in known:
            votes.known.verify(signer, message, signature)

    duel(
        "sign.single",
        "Ed25519: one signature by itself",
        each(SINGLES),
        ours={OURS: single, CACHED: cached},
        rivals=[
            *(Rival(peer, votes.work("sign.single")) for peer in ("curve25519-voi", "libsodium", "openssl")),
            Rival("curve25519-voi", votes.work("sign.single", cached=True), title=EXPANDED),
        ],
        input_=votes.records(),
        notes=[_note()],
    )


def _rivals(votes: Votes) -> list[Rival]:
    """Who verifies many at once, and libsodium, which does them one by one: some of them, at most."""
    singles = min(votes.count, SINGLES)
    return [
        Rival("curve25519-voi", votes.work("sign.batch")),
        Rival("curve25519-voi", votes.work("sign.batch", cached=True), title=EXPANDED),
        Rival("libsodium", votes.work("sign.single", count=singles), scale=each(singles)),
    ]


@pytest.mark.parametrize("count", BATCHES)
def bench_batch(duel: Duel, count: int) -> None:
    """So many signatures, of as many validators as there are, in one call."""
    votes = Votes(count)
    duel(
        f"sign.batch{count}",
        f"Ed25519: {count} signatures in one call",
        each(count),
        ours={
            CACHED: partial(votes.known.verify_many, votes.signers, votes.flat, votes.text, votes.ends),
            OURS: partial(sign.verify_many, votes.all_keys, votes.flat, votes.text, votes.ends),
        },
        rivals=_rivals(votes),
        input_=votes.records(),
        notes=[_note()],
    )


def bench_coalesced(duel: Duel) -> None:
    """The votes of a validator set for many headers at once: terms of one key are added up."""
    votes = Votes(KEYS * HEADERS)
    duel(
        "sign.coalesced",
        f"Ed25519: {KEYS} keys x {HEADERS} messages in one call",
        each(votes.count),
        ours={CACHED: partial(votes.known.verify_many, votes.signers, votes.flat, votes.text, votes.ends)},
        rivals=_rivals(votes),
        input_=votes.records(),
        notes=[_note()],
    )
