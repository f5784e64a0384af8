"""What must hold of the units of any directory (FLIST-UNIT)."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from flist.bundles import BLOCK, BUNDLE_MAX, LARGE_MIN, UNIT_MAX, chunk_bits, pad, plan

names = st.binary(min_size=1, max_size=20)
sizes = st.one_of(
    st.integers(0, 3 * BLOCK),
    st.integers(0, 70_000),
    st.integers(0, 1_200_000),
    st.sampled_from([0, 1, 4095, 4096, 4097, 16383, 16384, 65535, 65536, 262143, 262144, 262145]),
)
directories = st.dictionaries(names, sizes, max_size=60).map(lambda found: sorted(found.items()))


@settings(max_examples=300)
@given(directories, st.randoms(use_true_random=False))
def test_every_byte_is_in_one_unit_and_order_does_not_matter(files: list[tuple[bytes, int]], random: object) -> None:
    units = plan(files)
    shuffled = list(files)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = plan(shuffled)
    told = [[(files[p.file][0], p.offset, p.length) for p in unit.parts] for unit in units]
    assert told == [[(shuffled[p.file][0], p.offset, p.length) for p in unit.parts] for unit in again]

    covered = dict.fromkeys(range(len(files)), 0)
    for unit in units:
        assert 1 <= unit.length <= UNIT_MAX
        for part in unit.parts:
            assert part.offset == covered[part.file]
            covered[part.file] += part.length
            assert unit.piece == (files[part.file][1] >= LARGE_MIN)
        if unit.piece:
            assert len(unit.parts) == 1
        else:
            assert sum(pad(part.length) for part in unit.parts) <= BUNDLE_MAX
    assert [covered[index] for index in range(len(files))] == [size for _, size in files]
    small = [files[p.file][0] for unit in units if not unit.piece for p in unit.parts]
    large = [files[p.file][0] for unit in units if unit.piece for p in unit.parts]
    assert small == sorted(small)
    assert large == sorted(large)
    first_piece = next((at for at, unit in enumerate(units) if unit.piece), len(units))
    assert all(unit.piece for unit in units[first_piece:])


@settings(max_examples=100)
@given(directories, names, st.integers(1, 65_535))
def test_one_more_file_leaves_what_lies_before_it(files: list[tuple[bytes, int]], name: bytes, size: int) -> None:
    others = [(each, length) for each, length in files if each != name]
    with_it = [*others, (name, size)]
    old = [[others[p.file][0] for p in unit.parts] for unit in plan(others) if not unit.piece]
    new = [[with_it[p.file][0] for p in unit.parts] for unit in plan(with_it) if not unit.piece]
    for bundle, following in pairwise(old):
        if following[0] < name:
            assert bundle in new


@given(st.integers(1, 2_000_000))
def test_a_small_file_lies_in_one_chunk(size: int) -> None:
    bits = chunk_bits(size)
    assert 12 <= bits <= 18
    if size < LARGE_MIN:
        assert 1 << bits >= size
        assert bits == 12 or 1 << (bits - 1) < size
    else:
        assert bits == 18
