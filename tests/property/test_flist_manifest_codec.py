"""A manifest has one encoding, and nothing but that encoding is accepted (FLIST-MAN-2)."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flist.errors import ManifestInvalid
from flist.manifest import (
    IndexRef,
    Manifest,
    ObjectRef,
    Signature,
    SignedManifest,
    decode_manifest,
    encode_manifest,
)

hashes = st.binary(min_size=32, max_size=32)
parts = st.from_regex(r"\A[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?\Z")
units = st.integers(0, 2**24)
indexes = units.flatmap(
    lambda count: st.builds(
        IndexRef,
        root=hashes,
        pages=st.just(-(-count // 256)),
        units=st.just(count),
        blocks=st.integers(count, 64 * count),
    )
)
objects = st.builds(ObjectRef, blake3=hashes, size=st.integers(1, 2**24))
manifests = st.builds(
    Manifest,
    name=st.tuples(parts, parts).map("/".join),
    architecture=st.sampled_from(["x86_64", "aarch64"]),
    revision=st.integers(1, 2**63 - 1),
    expires_s=st.none() | st.integers(0, 2**63 - 1),
    prev=st.none() | hashes,
    meta=objects,
    index=indexes,
    trace=st.none() | objects,
    oci=st.none() | objects,
)
signatures = st.lists(
    st.builds(Signature, key=hashes, signature=st.binary(min_size=64, max_size=64)),
    max_size=4,
    unique_by=lambda s: s.key,
).map(lambda found: tuple(sorted(found)))


@given(manifests, signatures)
def test_a_manifest_and_its_file_are_read_again(manifest: Manifest, signed_by: tuple[Signature, ...]) -> None:
    data = encode_manifest(manifest)
    assert decode_manifest(data) == manifest
    signed = SignedManifest(data, signed_by)
    assert SignedManifest.parse(signed.encode()) == signed
    assert signed.manifest == manifest


@settings(max_examples=300)
@given(manifests, st.data())
def test_a_changed_file_is_refused_or_is_another_image(manifest: Manifest, data: st.DataObject) -> None:
    signed = SignedManifest(encode_manifest(manifest))
    bad = bytearray(signed.encode())
    bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read = SignedManifest.parse(bytes(bad))
    except ManifestInvalid:
        return
    assert read.digest != signed.digest


@given(manifests, st.binary(min_size=1, max_size=100))
def test_trailing_bytes_are_refused(manifest: Manifest, trailing: bytes) -> None:
    data = encode_manifest(manifest)
    with pytest.raises(ManifestInvalid):
        decode_manifest(data + trailing)
    with pytest.raises(ManifestInvalid):
        SignedManifest.parse(SignedManifest(data).encode() + trailing)


@given(manifests, st.randoms(use_true_random=False))
def test_another_order_of_keys_is_refused(manifest: Manifest, random: object) -> None:
    fields = list(msgspec.to_builtins(manifest, builtin_types=(bytes,)).items())
    shuffled = list(fields)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    body = msgspec.msgpack.encode(dict(shuffled))
    data = b"ZOSFLIST\x01\x00" + len(body).to_bytes(4, "little") + body
    if shuffled == fields:
        assert decode_manifest(data) == manifest
    else:
        with pytest.raises(ManifestInvalid, match="canonical"):
            decode_manifest(data)


@settings(max_examples=500)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_typed_error(data: bytes, framed: bool) -> None:
    if framed:
        data = b"ZOSFLIST\x01\x00" + len(data).to_bytes(4, "little") + data
    with pytest.raises(ManifestInvalid):
        SignedManifest.parse(data)
