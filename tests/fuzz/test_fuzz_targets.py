"""Every target for a few seconds; and the harness itself, which has to find what there is to find."""

from __future__ import annotations

import random
import time

import pytest

from flist.errors import IndexInvalid
from tests.fuzz.harness import INPUT_CPU_MAX_S, SECONDS, Target, fault, fuzz, minimised, mutate
from tests.fuzz.targets import targets

TARGETS = targets()


@pytest.mark.timeout(SECONDS + 110)
@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_only_typed_errors_come_out(target: Target) -> None:
    assert fuzz(target) > 0


def test_a_fault_behind_a_magic_number_is_found(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(data: bytes) -> None:
        if data[:5] != b"MAGIC":
            raise IndexInvalid("no magic")
        if data[5:9] == b"\xff" * 4:
            raise KeyError("found")

    monkeypatch.setenv("ZOS_FUZZ_SEED", "1")
    monkeypatch.setenv("ZOS_FUZZ_DIR", str(tmp_path))
    target = Target("toy", [b"MAGIC\0\0\0\0 and more"], parse)
    with pytest.raises(AssertionError, match=r"KeyError: 'found': 9 bytes in .*zos-fuzz-toy-1\.bin, seed 1"):
        fuzz(target, seconds=60)


def test_what_is_slow_is_a_fault() -> None:
    def parse(data: bytes) -> None:
        begin = time.process_time()
        while time.process_time() - begin <= INPUT_CPU_MAX_S:
            pass

    assert (fault(Target("slow", [b""], parse), b"") or "").startswith("takes")


def test_a_seed_repeats_its_inputs() -> None:
    def inputs(seed: int) -> list[bytes]:
        chance = random.Random(seed)
        return [mutate(chance, [b"corpus", b"other"]) for _ in range(100)]

    assert inputs(3) == inputs(3) != inputs(4)


def test_a_failing_input_becomes_small() -> None:
    assert minimised(bytes(range(256)), lambda data: 7 in data and 200 in data) == bytes([7, 200])
