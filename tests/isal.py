"""ISA-L, the oracle of the erasure code; where there is none, its tests are skipped with the reason."""

from __future__ import annotations

import pytest

from bench.isal import Isal, candidates

__all__ = ["Isal", "load"]


def load() -> Isal:
    """ISA-L, whatever its version; or the test is skipped."""
    for path in candidates():
        return Isal(path)
    pytest.skip("no ISA-L here: neither libisal2 nor pyeclib's wheel")
