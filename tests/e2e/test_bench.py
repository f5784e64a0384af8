"""`zos bench` as a benchmarker has it: list, run a light group, compare, report; wrong input is refused with a hint."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.commands import WORSE
from bench.peers.process import Process
from bench.peers.protocol import Work

pytestmark = pytest.mark.e2e

RUN_TIMEOUT_S = 100
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


def compiled() -> dict[str, str]:
    """The environment without ZOS_NATIVE, which may run this suite on the twins: these are not measured."""
    return {name: value for name, value in os.environ.items() if name != "ZOS_NATIVE"}


def bench(
    *arguments: str | Path,
    cache: Path | None = None,
    timeout_s: float = RUN_TIMEOUT_S,
    cwd: Path | None = None,
    environ: dict[str, str] | None = None,
) -> Done:
    where = [] if cache is None else ["--cache", str(cache)]
    main = "import sys; from zos_core.base.verbs import main; sys.exit(main())"
    argv = [sys.executable, "-c", main, "bench", *map(str, arguments), *where]
    environ = {**compiled(), **(environ or {})}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, cwd=cwd, env=environ)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one peer, the one that needs a C compiler alone."""
    if shutil.which("cc") is None:
        pytest.skip("there is no cc")
    path = tmp_path_factory.mktemp("bench")
    done = bench("peers", "install", "roofline", cache=path)
    assert done.status == 0, done.err
    return path


@pytest.fixture(scope="module")
def results(cache: Path) -> Path:
    """A quick run of `calls` and `machine` beside that peer."""
    path = cache / "run.json"
    arguments = ("run", "calls", "--quick", "--peers", "machine", "--quiet-wait", "0", "--json", path)
    here = cache / "here"
    here.mkdir()
    done = bench(*arguments, cache=cache, cwd=here)
    assert done.status == 0, done.err
    assert list(here.iterdir()) == []
    assert "Memory of 64KiB" in done.out
    assert "memcpy" in done.out
    assert "goals (reported, not gated)" in done.out
    return path


def test_a_run_records_samples_machine_versions_peers_and_noise(results: Path, cache: Path) -> None:
    found = json.loads(results.read_text())
    keys = [group["key"] for group in found["groups"]]
    assert {"calls.cython", "machine.memory.64KiB", "machine.memory.128MiB", "machine.fresh.faults"} <= set(keys)
    group = next(group for group in found["groups"] if group["key"] == "machine.memory.64KiB")
    rows = {row["name"]: row for row in group["rows"]}
    assert [rows[name]["role"] for name in ("copy from Python", "memcpy", "read")] == ["ours", "roof", "roof"]
    assert all(5 <= len(row["values"]) <= 15 and min(row["values"]) > 0 for row in rows.values())
    assert group["suite"] == "machine"
    assert group["noise"]["jitter"] > 0
    assert found["machine"]["kernel"] == os.uname().release
    assert found["machine"]["features"]
    assert {"zos", "python"} <= set(found["machine"]["versions"])
    assert {"name": "roofline", "version": "1", "missing": None} in found["peers"]
    assert found["failed"] == []
    kept = list((cache / "results").glob("*.json"))
    assert [path.read_bytes() for path in kept] == [results.read_bytes()]


def test_a_report_is_made_of_it(results: Path, tmp_path: Path) -> None:
    done = bench("report", results, "-o", tmp_path / "out")
    assert done.status == 0, done.err
    made = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"performance.md", "performance.html", "performance/machine.memory.1MiB.svg"} <= made
    assert sorted(done.out.splitlines()) == sorted(str(tmp_path / "out" / name) for name in made)
    assert "Memory of 1MiB" in (tmp_path / "out/performance.html").read_text()


def test_the_last_run_is_reported_where_none_is_named(results: Path, cache: Path, tmp_path: Path) -> None:
    done = bench("report", "-o", tmp_path, cache=cache)
    assert done.status == 0, done.err
    assert (tmp_path / "performance.md").exists()


def slowed(results: Path, path: Path, row: str, factor: float) -> Path:
    found: dict[str, Any] = json.loads(results.read_text())
    for group in found["groups"]:
        for one in group["rows"]:
            if one["name"] == row:
                one["values"] = [value * factor for value in one["values"]]
    path.write_text(json.dumps(found))
    return path


def test_compare_ends_with_a_status_for_ci(results: Path, tmp_path: Path) -> None:
    assert bench("compare", results, results).status == 0
    slow = slowed(results, tmp_path / "slow.json", "copy from Python", 1e-3)
    done = bench("compare", results, slow)
    assert done.status == WORSE
    assert "worse" in done.out
    assert bench("compare", slow, results).status == 0
    done = bench("compare", results, slow, "--json")
    changes = json.loads(done.out)["changes"]
    worse = {change["row"] for change in changes if change["verdict"] == "worse"}
    assert (done.status, worse) == (WORSE, {"copy from Python"})


@pytest.mark.parametrize(("length", "huge"), [(1 << 20, False), (2 << 20, True), (64 << 20, True)])
def test_memory_of_a_peer_has_the_pages_that_ours_has(cache: Path, length: int, huge: bool) -> None:
    policy = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not policy.exists() or "[madvise]" not in policy.read_text():
        pytest.skip("huge pages are not given on demand here")
    process = Process([str(cache / "peers/bin/roofline")])
    try:
        process.prepare(Work("roofline.read", {"bytes": length}), "/dev/null")
        lines = Path(f"/proc/{process.pid}/smaps").read_text().splitlines()
    finally:
        process.close()
    wanted = sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:")) << 10
    # What is free may be in small pieces: most of it is enough.
    assert (wanted > length // 2) if huge else (wanted == 0)


def test_list_names_groups_needs_and_missing_peers(cache: Path) -> None:
    done = bench("list", "--json")
    assert done.status == 0, done.err
    listed = {line["name"]: line for line in map(json.loads, done.out.splitlines())}
    assert {"erasure", "hash", "sign", "merkle", "pipeline", "calls", "machine", "flist", "containers"} <= set(listed)
    assert listed["flist"]["root"]
    assert listed["erasure"]["root"] is None
    done = bench("peers", "list", "--json", cache=cache)
    found = {line["name"]: line for line in map(json.loads, done.out.splitlines())}
    assert found["roofline"]["version"] == "1"
    assert found["klauspost"]["version"] is None
    assert "zos bench peers install klauspost" in found["klauspost"]["missing"]


def test_results_go_to_stdout_on_demand_and_nothing_else_does(cache: Path) -> None:
    index = ROOT / ".git/index"
    written = index.stat().st_mtime_ns if index.exists() else None
    os.utime(ROOT / "README.md")  # whoever has git look at it now has the index written anew
    arguments = ("run", "calls", "--quick", "--quiet-wait", "0", "--json", "-", "--quiet")
    done = bench(*arguments, cache=cache, cwd=ROOT)
    assert done.status == 0, done.err
    assert written is None or index.stat().st_mtime_ns == written, "by root, in a user's checkout"
    assert [group["suite"] for group in json.loads(done.out)["groups"]] == ["calls", "calls"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["run", "moon"], 111, "there is no group 'moon'"),
        (["run", "calls", "--rounds", "0"], 2, "0 rounds are none"),
        (["run", "calls", "--tree", "/no/such/tree"], 2, "is no directory"),
        (["run", "calls", "--json", "{bad}.d/run.json"], 2, "bad.json.d is no directory"),
        (["peers", "list", "moon"], 112, "there is no peer 'moon'"),
        (["compare", "/no/such.json", "/no/such.json"], 1, "/no/such.json: No such file"),
        (["compare", "{bad}", "{bad}"], 114, "bad.json"),
        (["compare", "{old}", "{old}"], 115, "version 1 of the format"),
        (["compare", "{bad}", "{bad}", "--threshold", "200"], 2, "is no threshold"),
        (["report", "{bad}"], 114, "bad.json"),
    ],
)
def test_wrong_input_is_refused(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "old.json").write_text('{"version": 1}')
    names = {"{bad}": str(tmp_path / "bad.json"), "{old}": str(tmp_path / "old.json")}
    words = [re.sub(r"\{\w+\}", lambda found: names[found[0]], word) for word in arguments]
    done = bench(*words)
    assert done.status == status, done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_a_peer_that_was_asked_for_and_is_missing_is_said_and_is_no_number(tmp_path: Path) -> None:
    done = bench("run", "machine", "--quick", "--peers", "--quiet-wait", "0", "--json", "-", cache=tmp_path)
    assert done.status == 0, done.err
    found = json.loads(done.out)
    rows = [row for group in found["groups"] for row in group["rows"] if row["role"] == "roof"]
    assert rows
    assert all(row["values"] == [] and "not installed" in row["missing"] for row in rows)
    assert found["peers"][0]["missing"].startswith("not installed")


def test_twins_are_not_measured_under_the_names_of_the_kernels(tmp_path: Path) -> None:
    done = bench("run", "calls", "--quick", cache=tmp_path, environ={"ZOS_NATIVE": "reference"})
    assert done.status == 2
    assert "ZOS_NATIVE=reference" in done.err
    assert list(tmp_path.iterdir()) == []


def test_reports_of_nothing_say_so(tmp_path: Path) -> None:
    done = bench("report", "-o", tmp_path / "out", cache=tmp_path)
    assert done.status == 114
    assert "hint: zos bench run" in done.err
    assert not (tmp_path / "out").exists()


def test_without_pytest_the_hint_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['pytest_benchmark'] = None\n"
        "from zos_core.base.verbs import main; sys.exit(main(['bench', 'run', 'calls']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 117
    assert "pytest-benchmark" in done.stderr
    assert "pip install 'zos[bench]'" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_broken_off_keeps_what_it_has(tmp_path: Path, number: signal.Signals) -> None:
    # Where the tests run in the background of a shell, SIGINT is ignored, and that is inherited.
    main = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    main += "from zos_core.base.verbs import main; sys.exit(main())"
    words = ["run", "machine", "--quiet-wait", "0", "--rounds", "100000", "--json", str(tmp_path / "run.json")]
    process = subprocess.Popen(
        [sys.executable, "-c", main, "bench", *words, "--cache", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=compiled(),
    )
    try:
        assert process.stderr is not None
        # It is measuring, for minutes if nobody ends it: its progress says so every five seconds.
        assert next(line for line in process.stderr if " of 100000, " in line).startswith("Memory of 64KiB [1 of 4]")
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["interrupted"]
    assert [group["key"] for group in found["groups"]] == ["machine.memory.64KiB"]
