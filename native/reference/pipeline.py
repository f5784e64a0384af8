"""Twin of `native/crates/pipeline`: the same arguments, results and errors, by the rules of docs/spec/pipeline.md."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, SupportsIndex, final

import nacl.bindings
import zstandard
from blake3 import blake3
from nacl.exceptions import CryptoError

from native.erasure_errors import ShardIndexInvalid, TooFewShards
from native.errors import InputInvalid
from native.pipeline_errors import ChunkMalformed, DigestWrong, PipelineError, SealBroken
from native.reference.buffers import count_of, item, items, no_overlap, shown, view
from native.reference.erasure import Code

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["CHUNK_BYTES_MAX", "CIPHERS", "KEY_BYTES", "LEVEL_MAX", "SHARD_ALIGN", "THREADS_MAX", "Pipeline"]

CHUNK_BYTES_MAX: Final = 1 << 20
KEY_BYTES: Final = 32
LEVEL_MAX: Final = 19
SHARD_ALIGN: Final = 64
THREADS_MAX: Final = 64
DIGEST_BYTES: Final = 32

_HEADER: Final = struct.Struct("<BBHIII")
_VERSION: Final = 1
_SALT_BYTES: Final = 24
_TAG_BYTES: Final = 16
_PROBE_BYTES, _PROBE_STEP, _PROBED_MIN, _PROBE_SAVED_MIN = 4096, 4, 16_384, 128
_NONCE: Final = bytes(12)


class _Cipher(NamedTuple):
    """One cipher: its number in flags and keys, and both directions (text, additional data, nonce, key)."""

    number: int
    encrypt: Callable[[bytes, bytes, bytes, bytes], bytes]
    decrypt: Callable[[bytes, bytes, bytes, bytes], bytes]


_CIPHERS: Final = {
    "aes-256-gcm": _Cipher(1, nacl.bindings.crypto_aead_aes256gcm_encrypt, nacl.bindings.crypto_aead_aes256gcm_decrypt),
    "chacha20-poly1305": _Cipher(
        2,
        nacl.bindings.crypto_aead_chacha20poly1305_ietf_encrypt,
        nacl.bindings.crypto_aead_chacha20poly1305_ietf_decrypt,
    ),
}
CIPHERS: Final = tuple(_CIPHERS)


class _Keys:
    """What the caller's key becomes (PIPELINE-SEAL-1)."""

    def __init__(self, cipher: _Cipher, key: bytes) -> None:
        self.cipher = cipher
        self._salt = blake3(key, derive_key_context="zos pipeline 1: salt of a chunk").digest()
        self._chunk = blake3(key, derive_key_context="zos pipeline 1: key of a chunk").digest()

    def seal(self, header: bytes, body: bytes) -> bytes:
        """Salt, encrypted body and tag."""
        salt = blake3(body + header, key=self._salt).digest(_SALT_BYTES)
        return salt + self.cipher.encrypt(body, header + salt, _NONCE, self._key(salt))

    def open(self, header: bytes, sealed: bytes) -> bytes:
        """The body of salt, encrypted body and tag."""
        salt = sealed[:_SALT_BYTES]
        return self.cipher.decrypt(sealed[_SALT_BYTES:], header + salt, _NONCE, self._key(salt))

    def _key(self, salt: bytes) -> bytes:
        return blake3(salt + bytes([self.cipher.number]), key=self._chunk).digest()


class _Chunk(NamedTuple):
    """One chunk of a call that opens: its slot as shards, and their digests."""

    number: int
    shards: list[bytes]
    digests: list[bytes] | None


@final
class Pipeline:
    """See `native/_rust.pyi`."""

    def __init__(
        self,
        *,
        chunk_bytes: SupportsIndex,
        level: SupportsIndex | None = None,
        cipher: str | None = None,
        key: Buffer | None = None,
        k: SupportsIndex | None = None,
        m: SupportsIndex | None = None,
    ) -> None:
        if (cipher is None) != (key is None):
            raise InputInvalid("a cipher has a key, and a key a cipher")
        if (k is None) != (m is None):
            raise InputInvalid("k and m are given together")
        if cipher is not None and cipher not in _CIPHERS:
            raise InputInvalid(f'no cipher "{cipher}"; known: {", ".join(CIPHERS)}')
        secret = None if key is None else item(key, KEY_BYTES, "key")
        self.chunk_bytes: Final = operator.index(chunk_bytes)
        self._level = None if level is None else operator.index(level)
        if not 1 <= self.chunk_bytes <= CHUNK_BYTES_MAX:
            raise InputInvalid(f"chunks must have 1 to {CHUNK_BYTES_MAX} bytes")
        if self._level is not None and not 1 <= self._level <= LEVEL_MAX:
            raise InputInvalid(f"a level is 1 to {LEVEL_MAX}")
        self._code = None if k is None or m is None else Code(k, m)
        self._keys = None if cipher is None or secret is None else _Keys(_CIPHERS[cipher], secret)
        self._k = 1 if self._code is None else self._code.k
        self.shards: Final = 1 if self._code is None else self._code.k + self._code.m
        most = _HEADER.size + self.chunk_bytes + (_SALT_BYTES + _TAG_BYTES if self._keys else 0)
        self.slot_bytes: Final = self._shard_bytes(most) * self.shards

    def _shard_bytes(self, sealed: int) -> int:
        """PIPELINE-SHARD-1."""
        if self._code is None:
            return sealed
        share = -(-sealed // self._k)
        return -(-share // SHARD_ALIGN) * SHARD_ALIGN

    def seal_into(
        self,
        data: Buffer,
        slots: Buffer,
        lengths: Buffer,
        *,
        digests: Buffer | None = None,
        shard_digests: Buffer | None = None,
        threads: SupportsIndex = 1,
    ) -> int:
        _check_threads(threads)
        plain = view(data, "data")
        given = {"slots": slots, "lengths": lengths, "digests": digests, "shard_digests": shard_digests}
        outputs = {name: view(out, name) for name, out in given.items() if out is not None}
        no_overlap({"data": plain}, outputs)
        for name, size in (("lengths", 4), ("digests", DIGEST_BYTES), ("shard_digests", DIGEST_BYTES)):
            if name in outputs and len(outputs[name]) % size:
                raise InputInvalid(f"{name} has {len(outputs[name])} bytes, no multiple of {size}")
        chunks = [bytes(plain[at : at + self.chunk_bytes]) for at in range(0, len(plain), self.chunk_bytes)]
        self._check_sizes(outputs, len(chunks))
        for at, chunk in enumerate(chunks):
            shards = self._cut(self._seal(chunk))
            stripe = b"".join(shards)
            made = {
                "slots": (self.slot_bytes, stripe),
                "lengths": (4, len(shards[0]).to_bytes(4, "little")),
                "digests": (DIGEST_BYTES, blake3(chunk).digest()),
                "shard_digests": (DIGEST_BYTES * self.shards, b"".join(blake3(shard).digest() for shard in shards)),
            }
            for name, out in outputs.items():
                size, value = made[name]
                out[at * size : at * size + len(value)] = value
        return len(chunks)

    def _check_sizes(self, buffers: dict[str, memoryview], count: int) -> None:
        sizes = {
            "slots": self.slot_bytes,
            "lengths": 4,
            "digests": DIGEST_BYTES,
            "shard_digests": DIGEST_BYTES * self.shards,
        }
        for name, buffer in buffers.items():
            if len(buffer) != count * sizes[name]:
                raise InputInvalid(f"{name} has {len(buffer)} bytes instead of {count * sizes[name]}")

    def _seal(self, plain: bytes) -> bytes:
        """PIPELINE-CHUNK-2."""
        frame = self._compress(plain)
        body = plain if frame is None else frame
        flags = (frame is not None) | (self._keys.cipher.number if self._keys else 0) << 1
        header = _HEADER.pack(_VERSION, flags, 0, len(plain), len(body), 0)
        return header + (self._keys.seal(header, body) if self._keys else body)

    def _compress(self, plain: bytes) -> bytes | None:
        """One frame, or None where it saves nothing (PIPELINE-ZSTD-1, 2)."""
        if self._level is None:
            return None
        compressor = zstandard.ZstdCompressor(level=self._level)
        if len(plain) >= _PROBED_MIN:
            begin = plain[:_PROBE_BYTES]
            counted = begin[::_PROBE_STEP]
            squares = sum(counted.count(byte) ** 2 for byte in range(256))
            if squares < len(counted) ** 2 // 128 and (
                len(compressor.compress(begin)) + _PROBE_SAVED_MIN > _PROBE_BYTES
            ):
                return None
        frame = compressor.compress(plain)
        return frame if len(frame) < len(plain) else None

    def _cut(self, sealed: bytes) -> list[bytes]:
        """The shards of a sealed chunk, parity last."""
        if self._code is None:
            return [sealed]
        size = self._shard_bytes(len(sealed))
        filled = sealed.ljust(self._k * size, b"\0")
        data = [filled[at : at + size] for at in range(0, len(filled), size)]
        return [*data, *map(bytes, self._code.encode(data))]

    def open_into(
        self,
        slots: Buffer,
        lengths: Buffer,
        out: Buffer,
        *,
        have: Iterable[SupportsIndex] | None = None,
        digests: Buffer | None = None,
        shard_digests: Buffer | None = None,
        threads: SupportsIndex = 1,
    ) -> list[tuple[int, int]]:
        _check_threads(threads)
        given = {"slots": slots, "lengths": lengths, "digests": digests, "shard_digests": shard_digests}
        inputs = {name: view(buffer, name) for name, buffer in given.items() if buffer is not None}
        plain = view(out, "out")
        no_overlap(inputs, {"out": plain})
        there = self._there(have)
        sizes = [int.from_bytes(each, "little") for each in items(inputs["lengths"], 4, "lengths")]
        for name in ("digests", "shard_digests"):
            if name in inputs and len(inputs[name]) % DIGEST_BYTES:
                raise InputInvalid(f"{name} has {len(inputs[name])} bytes, no multiple of {DIGEST_BYTES}")
        if -(-len(plain) // self.chunk_bytes) != len(sizes):
            raise InputInvalid(f"out has {len(plain)} bytes for {len(sizes)} chunks of {self.chunk_bytes}")
        self._check_sizes(inputs, len(sizes))
        expected = items(inputs["digests"], DIGEST_BYTES, "digests") if "digests" in inputs else None
        each = items(inputs["shard_digests"], DIGEST_BYTES, "shard_digests") if "shard_digests" in inputs else None
        wrong: list[tuple[int, int]] = []
        for at, size in enumerate(sizes):
            place = plain[at * self.chunk_bytes : (at + 1) * self.chunk_bytes]
            slot = inputs["slots"][at * self.slot_bytes : (at + 1) * self.slot_bytes]
            try:
                if not 1 <= size <= self.slot_bytes // self.shards or (self._code and size % SHARD_ALIGN):
                    raise ChunkMalformed(f"chunk {at}: its length is out of the limits", index=at)
                shards = [bytes(slot[begin : begin + size]) for begin in range(0, self.shards * size, size)]
                of_chunk = each[at * self.shards : (at + 1) * self.shards] if each is not None else None
                opened = self._open(_Chunk(at, shards, of_chunk), len(place), there, wrong)
                if expected is not None and blake3(opened).digest() != expected[at]:
                    raise DigestWrong(f"chunk {at}: it is not what its digest says", index=at)
            except (PipelineError, TooFewShards):
                place[:] = bytes(len(place))
                raise
            place[:] = opened
        return wrong

    def _there(self, have: Iterable[SupportsIndex] | None) -> list[int]:
        """The indexes of the shards that are there, in order."""
        if have is None:
            return list(range(self.shards))
        there: set[int] = set()
        for each in have:
            index = operator.index(each)
            if not 0 <= index < self.shards:
                raise ShardIndexInvalid(f"there is no shard {shown(index)} of {self.shards}")
            if index in there:
                raise ShardIndexInvalid(f"shard {index} is named twice")
            there.add(index)
        return sorted(there)

    def _open(self, chunk: _Chunk, length: int, there: list[int], wrong: list[tuple[int, int]]) -> bytes:
        """The plain bytes."""
        sealed = self._whole(chunk, there, wrong)

        def malformed(what: str) -> ChunkMalformed:
            return ChunkMalformed(f"chunk {chunk.number}: {what}", index=chunk.number)

        if len(sealed) < _HEADER.size:
            raise malformed("it has no whole header")
        header = sealed[: _HEADER.size]
        version, flags, low, plain_bytes, body_bytes, high = _HEADER.unpack(header)
        if version != _VERSION:
            raise malformed("its version is not 1")
        if flags >> 1 > len(CIPHERS):
            raise malformed("unknown flags")
        if low or high:
            raise malformed("what is reserved is not zero")
        if not (1 <= body_bytes < plain_bytes if flags & 1 else body_bytes == plain_bytes):
            raise malformed("the length of its body is out of the limits")
        broken = SealBroken(
            f"chunk {chunk.number}: the seal is broken: another key, or it was changed", index=chunk.number
        )
        if flags >> 1 != (self._keys.cipher.number if self._keys else 0):
            raise broken
        end = _HEADER.size + body_bytes + (_SALT_BYTES + _TAG_BYTES if self._keys else 0)
        if plain_bytes != length or end > len(sealed):
            raise malformed("its lengths do not fit")
        if self._shard_bytes(end) != len(chunk.shards[0]) or any(sealed[end:]):
            raise malformed("it is not filled up with zeros to its length")
        body = sealed[_HEADER.size : end]
        if self._keys:
            try:
                body = self._keys.open(header, body)
            except CryptoError:
                raise broken from None
        if not flags & 1:
            return body
        try:
            if zstandard.frame_content_size(body) not in (-1, length):
                raise malformed("its frame has not as many bytes as its header says")
            # Any window: no memory is taken for it, as the whole chunk is (PIPELINE-ZSTD-1).
            decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
            opened = decompressor.decompress(body, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError:
            raise malformed("its frame cannot be decompressed") from None
        if len(opened) != length:
            raise malformed("its frame has not as many bytes as its header says")
        return opened

    def _whole(self, chunk: _Chunk, there: list[int], wrong: list[tuple[int, int]]) -> bytes:
        """The data shards, from the k of lowest index that are right (PIPELINE-OPEN-1, 2)."""
        right: list[int] = []
        for index in there:
            if chunk.digests is not None and blake3(chunk.shards[index]).digest() != chunk.digests[index]:
                wrong.append((chunk.number, index))
                continue
            right.append(index)
            if len(right) == self._k:
                break
        else:
            raise TooFewShards(
                f"chunk {chunk.number}: {len(right)} shards are right: {self._k} are needed", index=chunk.number
            )
        data: dict[int, bytes | bytearray] = {index: chunk.shards[index] for index in right if index < self._k}
        lost = [index for index in range(self._k) if index not in data]
        if self._code is not None and lost:
            made = self._code.reconstruct(right, [chunk.shards[index] for index in right], lost)
            data.update(zip(lost, made, strict=True))
        return b"".join(data[index] for index in range(self._k))


def _check_threads(threads: SupportsIndex) -> None:
    if not 1 <= count_of(operator.index(threads)) <= THREADS_MAX:
        raise InputInvalid(f"{threads} threads: 1 to {THREADS_MAX}")
