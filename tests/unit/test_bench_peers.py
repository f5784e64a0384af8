"""The words between a measure and a peer's program, and what is known of installed peers."""

from __future__ import annotations

import gc
import runpy
import sys
from pathlib import Path

import pytest

from bench.duel import digest_of, each, throughput
from bench.errors import PeerFailed, PeerMissing, PeerUnknown
from bench.peers.arena import page_environment
from bench.peers.cache import PROGRAMS, Cache, Installed, cache_directory, source_digest
from bench.peers.catalog import CATALOG, find
from bench.peers.debian import mirror_in
from bench.peers.install import plan
from bench.peers.protocol import Work, parse_answer, parse_hello, prepare_line, run_line
from zos_core.base.paths import Account


def test_hello_tells_peer_version_and_works() -> None:
    hello = parse_hello("hello 1 peer=isa-l version=2.31.1-1 works=erasure.encode,erasure.reconstruct\n")
    assert (hello.peer, hello.version) == ("isa-l", "2.31.1-1")
    assert hello.works == {"erasure.encode", "erasure.reconstruct"}


@pytest.mark.parametrize(
    "line",
    ["", "\n", "hi\n", "hello\n", "hello 2 peer=a version=1 works=b\n", "hello 1 peer=a works=b\n", "hello 1 peer\n"],
)
def test_another_hello_is_refused(line: str) -> None:
    with pytest.raises(PeerFailed):
        parse_hello(line)


def test_requests_are_words() -> None:
    work = Work("erasure.encode", {"k": 16, "m": 4})
    assert prepare_line(work, "/dev/shm/x") == "prepare erasure.encode /dev/shm/x k=16 m=4\n"
    assert run_line(12) == "run 12\n"
    assert str(work) == "erasure.encode k=16 m=4"


@pytest.mark.parametrize(("name", "path"), [("a b", "/x"), ("", "/x"), ("a", "/x y"), ("a", "/x\ny"), ("a", "")])
def test_a_word_with_a_space_would_be_two(name: str, path: str) -> None:
    with pytest.raises(PeerFailed):
        prepare_line(Work(name, {}), path)


def test_answers() -> None:
    answer = parse_answer("ok ns=12 faults=0 digest=0a\n")
    assert (answer.integer("ns"), answer.integer("faults"), answer.fields["digest"]) == (12, 0, "0a")
    assert parse_answer("missing no GFNI here\n").missing == "no GFNI here"
    with pytest.raises(PeerFailed, match="it broke"):
        parse_answer("error it broke\n")


@pytest.mark.parametrize("line", ["", "fine\n", "ok ns\n", "ok =3\n", f"ok x={'y' * 5000}\n"])
def test_another_answer_is_refused(line: str) -> None:
    with pytest.raises(PeerFailed):
        parse_answer(line)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "²"])
def test_a_number_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PeerFailed):
        parse_answer(f"ok ns={text}").integer("ns")
    with pytest.raises(PeerFailed):
        parse_answer("ok").integer("ns")


def test_the_digest_is_that_of_all_parts_in_order() -> None:
    assert digest_of(b"123456789") == "cbf43926"  # the check value of CRC-32
    assert digest_of(b"1234", b"", bytearray(b"56789")) == "cbf43926"


def test_scales() -> None:
    assert throughput(1_000_000).value(2_000_000, 4) == pytest.approx(2.0)  # 4 MB in 2 ms
    assert each(100).value(2_000_000, 4) == pytest.approx(5.0)  # 400 in 2 ms
    assert each(unit="ns").value(2_000, 4) == pytest.approx(500.0)


# --- what is installed ---------------------------------------------------------------------------------------------


def keep(cache: Cache, **changes: object) -> None:
    spec = find("hashlib")
    values = {"name": spec.name, "version": "3.0", "argv": [sys.executable], "source": source_digest(spec)}
    cache.keep(Installed(**{**values, **changes}))  # type: ignore[arg-type]


def why(cache: Cache) -> str:
    with pytest.raises(PeerMissing) as caught:
        cache.find(find("hashlib"))
    return caught.value.message


def test_a_peer_is_installed_missing_out_of_date_or_gone_and_says_which(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert why(cache) == "not installed"
    keep(cache)
    assert cache.find(find("hashlib")).version == "3.0"
    keep(cache, source="0123")
    assert "another source" in why(cache)
    keep(cache, argv=["/no/such/program"])
    assert why(cache) == "its program is gone"
    keep(cache, failure="cargo failed", argv=[])
    assert why(cache) == "cargo failed"
    (cache.root / "hashlib.json").write_bytes(b"{")
    assert "record cannot be read" in why(cache)


def test_peers_of_the_machine_are_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeerMissing) as caught:
        Cache(tmp_path).find(find("mkfs.erofs"))
    assert caught.value.hint == "apt-get install erofs-utils"


@pytest.mark.parametrize(
    ("peer", "shard_bytes", "huge"),
    [("zfec", 8 << 20, True), ("zfec", 2 << 20, True), ("zfec", 65536, False), ("isa-l", 8 << 20, False)],
)
def test_malloc_below_python_gives_huge_pages_where_ours_are(peer: str, shard_bytes: int, huge: bool) -> None:
    made = page_environment(find(peer), Work("erasure.encode", {"k": 16, "m": 4, "shard_bytes": shard_bytes}))
    assert made == ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if huge else {})
    assert page_environment(find(peer), Work("sign.single", {"count": 1})) == {}


def test_a_peer_in_python_collects_no_cycles_while_it_is_timed() -> None:
    program = runpy.run_path(str(PROGRAMS / "python_peer.py"))
    seen: list[bool] = []
    answer = parse_answer(program["timed"](lambda: seen.append(gc.isenabled()), 2))
    assert answer.integer("ns") > 0
    assert seen == [False, False]
    assert gc.isenabled()


def test_an_unknown_peer_is_refused() -> None:
    with pytest.raises(PeerUnknown, match="no peer 'moon'"):
        find("moon")


def test_the_plan_has_a_step_for_each_peer_and_names_no_host(tmp_path: Path) -> None:
    lines = plan(CATALOG, Cache(tmp_path))
    named = {line.partition(":")[0] for line in lines}
    assert named == {spec.name for spec in CATALOG} - {"hashlib"} | ({"hashlib"} & named)
    assert not [line for line in lines if "://" in line]


def test_sources_of_every_peer_are_here() -> None:
    assert len({source_digest(spec) for spec in CATALOG if spec.kind != "system"}) == 13


@pytest.mark.parametrize(
    ("targets", "mirror"),
    [
        ("", None),
        ("Debian Debian-Security bookworm-security main uri:s\n", None),
        ("Debian Debian bookworm contrib uri:c\nDebian Debian bookworm-updates main uri:u\n", None),
        ("Other Other bookworm main uri:o\nshort\nDebian Debian bookworm main uri:m\n", "uri:m"),
    ],
)
def test_the_mirror_is_the_one_that_apt_has(targets: str, mirror: str | None) -> None:
    assert mirror_in(targets) == mirror


def account(home: Path, *, uid: int) -> Account:
    return Account(uid=uid, gid=uid, name="jane", home=home, config_dir=home / "c", data_dir=home / "d")


def test_the_cache_is_the_callers_also_through_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    environ = {"XDG_CACHE_HOME": "/x/cache"}
    assert cache_directory(environ, account(Path("/root"), uid=0)) == Path("/x/cache/zos/bench")
    assert cache_directory({}, account(Path("/root"), uid=0)) == Path("/root/.cache/zos/bench")
    assert cache_directory({"XDG_CACHE_HOME": "here"}, account(Path("/h"), uid=0)) == Path("/h/.cache/zos/bench")
    assert cache_directory(environ, account(Path("/home/jane"), uid=1000)) == Path("/home/jane/.cache/zos/bench")
