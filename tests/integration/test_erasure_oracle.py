"""Every path of the erasure code against ISA-L: matrices, parity, every erasure of 16 + 4."""

from __future__ import annotations

import itertools
import random

import pytest

from tests import isal
from tests.erasure_kit import PATHS, code


@pytest.fixture(scope="module")
def oracle() -> isal.Isal:
    return isal.load()


@pytest.mark.parametrize("path", PATHS)
def test_erasure_isal_all_shapes(oracle: isal.Isal, path: str) -> None:
    """All k up to 32 with m up to 8: the matrix, and the parity of shards whose lengths take every tail."""
    source = random.Random(1)
    for k, m in itertools.product(range(1, 33), range(1, 9)):
        under_test = code(path, k, m)
        assert under_test.factors == oracle.matrix(k, m)[k * k :], (k, m)
        length = source.randint(1, 400)
        data = [source.randbytes(length) for _ in range(k)]
        assert under_test.encode(data) == oracle.encode(data, m), (k, m, length)


@pytest.mark.parametrize("path", PATHS)
def test_erasure_isal_every_length(oracle: isal.Isal, path: str) -> None:
    """Each length up to three steps of the widest path, in the shape that we use most."""
    source = random.Random(2)
    data = [source.randbytes(800) for _ in range(16)]
    under_test = code(path, 16, 4)
    for length in range(1, 801, 1 if path != "scalar" else 7):
        cut = [shard[:length] for shard in data]
        assert under_test.encode(cut) == oracle.encode(cut, 4), length


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("k", "m"), [(128, 32), (127, 32), (100, 30), (64, 16), (1, 32), (128, 1)])
def test_erasure_isal_large_shapes(oracle: isal.Isal, path: str, k: int, m: int) -> None:
    source = random.Random(3)
    data = [source.randbytes(1500) for _ in range(k)]
    assert code(path, k, m).encode(data) == oracle.encode(data, m)


@pytest.mark.parametrize("path", PATHS)
def test_erasure_every_pattern_of_16_4(oracle: isal.Isal, path: str) -> None:
    """All 6,195 sets of one to four lost shards of 16 + 4, each repaired to what ISA-L made."""
    source = random.Random(4)
    data = [source.randbytes(67) for _ in range(16)]
    whole = [*data, *map(bytes, oracle.encode(data, 4))]
    under_test = code(path, 16, 4)
    count = 0
    for losses in range(1, 5):
        for lost in itertools.combinations(range(20), losses):
            have = [index for index in range(20) if index not in lost]
            made = under_test.reconstruct(have, [whole[index] for index in have], lost)
            assert made == [whole[index] for index in lost], lost
            count += 1
    assert count == 20 + 190 + 1140 + 4845
