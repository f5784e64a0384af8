"""G9: honest, damaged and hostile signatures, judged by ours (single and batch), ed25519-zebra and ed25519-consensus.

The generator and the oracles are a test of `native/crates/ed25519`, in Rust: it judges a million, or 50,000 with
`--quick`, from fixed seeds. It needs a checkout and cargo, which builds it on the first run (a minute or two); the
oracles are peers, so `--peers` asks for them.
"""

from __future__ import annotations

import os
import re
import shutil

from pytest_benchmark.fixture import BenchmarkFixture

from bench.errors import MeasureFailed
from bench.options import Options
from bench.recorder import Recorder
from bench.workspace import ROOT, finished

SIGNATURES, SIGNATURES_QUICK = 1_000_000, 50_000
TIMEOUT_S = 1800.0
MANIFEST = ROOT / "native/Cargo.toml"
ANSWER = re.compile(r"^(\d+) signatures, (\d+) right, (\d+) disagreements$", re.MULTILINE)
WRONG, JUDGED, RIGHT = "disagreements", "signatures judged", "right among them"


def bench_agreement(benchmark: BenchmarkFixture, recorder: Recorder, options: Options) -> None:
    """Counts, no times: once."""
    if not options.peers:
        recorder.skip("sign.agreement: the oracles are peers, say --peers")
        return
    if not MANIFEST.exists() or shutil.which("cargo") is None:
        recorder.skip("sign.agreement: needs a checkout and cargo")
        return
    count = SIGNATURES_QUICK if options.quick else SIGNATURES
    argv = [
        *("cargo", "test", "--quiet", "--release", "--manifest-path", str(MANIFEST), "--package", "ed25519@0.1.0"),
        *("--test", "oracles", "--", "--ignored", "--nocapture", "a_million_signatures"),
    ]
    rows = [(name, "signatures") for name in (WRONG, JUDGED, RIGHT)]
    with recorder.group(
        "sign.agreement",
        "Ed25519: verdicts of ours (single, batch), ed25519-zebra and ed25519-consensus",
        rows,
        notes=["honest, damaged and hostile signatures from fixed seeds; batches of 1 to some hundred"],
    ) as group:
        said = (0, "", "")

        def ours() -> None:
            nonlocal said
            environment = {**os.environ, "ZOS_ORACLE_SIGNATURES": str(count)}
            said = finished(argv, environment=environment, timeout_s=TIMEOUT_S)

        benchmark.pedantic(ours, rounds=1)  # type: ignore[no-untyped-call]  # pytest-benchmark has none
        status, out, error_text = said
        found = ANSWER.search(out)
        # The test fails where a verdict differs, and has told how many before.
        if found is None or (status != 0) != (found[3] != "0"):
            raise MeasureFailed(
                f"the oracles ended with {status}: {(error_text or out).strip()[-300:]}", group="sign.agreement"
            )
        judged, right, wrong = map(float, found.groups())
        for name, value in ((WRONG, wrong), (JUDGED, judged), (RIGHT, right)):
            group.add(name, value)
