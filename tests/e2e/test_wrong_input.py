"""Wrong input of every kind: a typed error with a hint and an exit status, soon; and nothing is left of it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import msgspec
import pytest
from nacl.signing import SigningKey

from flist.manifest import SignedManifest, encode_manifest
from flist.sign import sign_manifest
from tests.e2e.node_tool import TIMEOUT_S, ZOS, Done, Hub, Node, Reading, large_sums, make_variant, problem, zos_here
from zos_core.base.keyring import Key, Keyring
from zos_core.base.paths import Instance, account

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def baseline(node: Node) -> list[str]:
    """What the module's node has when it has nothing to do."""
    return node.footprint()


@pytest.fixture
def unchanged(node: Node, baseline: list[str]) -> Iterator[Node]:
    """The module's node, which has nothing more when the test is over."""
    yield node
    node.wait_footprint(baseline)


@pytest.fixture(scope="module")
def image(store: Path) -> SignedManifest:
    """The manifest of `small`."""
    return SignedManifest.parse((store.parent / "small.flist").read_bytes())


def refused(done: Done, code: str, *, status: int = 125, hint: bool = True) -> None:
    """Assert that a command ended with this error, said as it should be."""
    assert done.status == status, (done.status, done.out, done.err)
    said = problem(done)
    assert said["code"] == code, said
    assert said["message"]
    assert said["hint"] or not hint, said
    assert "Traceback" not in done.err


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["../small"], "flist.name-invalid"),
        (["root/.."], "flist.name-invalid"),
        (["a/b/c/d"], "flist.name-invalid"),
        (["root/small\n"], "flist.name-invalid"),
        (["s" * 300], "flist.name-invalid"),
        (["r/" + "s" * 300], "flist.name-invalid"),
        (["small@123"], "flist.name-invalid"),
        (["no-such-image"], "flist.name-unknown"),
        (["small:no-such-tag"], "flist.name-unknown"),
        (["small@" + "0" * 64], "flist.name-unknown"),
        (["/no/such.flist"], "os.error"),
        (["--unsigned", "small"], "cli.usage"),
        (["--name", "..", "small"], "cli.usage"),
        (["--name", "a/b", "small"], "cli.usage"),
        (["--name", "a\n", "small"], "cli.usage"),
        (["--name", "", "small"], "cli.usage"),
        (["--name", "n" * 300, "small"], "cli.usage"),
        (["-p", "x", "small"], "network.port-invalid"),
        (["-p", "80", "small"], "network.port-invalid"),
        (["-p", "99999:80", "small"], "network.port-invalid"),
        (["-p", "80:0", "small"], "network.port-invalid"),
        (["-p", "1.2.3:80:80", "small"], "network.port-invalid"),
        (["-p", "80:80/udp", "small"], "network.port-invalid"),
        (["-p", "192.0.2.1:0:80", "small"], "container.port-unavailable"),
        (["-e", "NAME", "small"], "cli.usage"),
        (["-e", "=value", "small"], "cli.usage"),
        (["--workdir", "relative", "small"], "cli.usage"),
        (["--workdir", "", "small"], "cli.usage"),
        (["-e", "A=\udcff", "small"], "cli.usage"),
        (["--workdir", "/no/such/directory", "small"], "container.directory-unusable"),
        (["--memory", "1K", "small"], "host.limit-invalid"),
        (["--memory", "much", "small"], "host.limit-invalid"),
        (["--memory", "-5M", "small"], "cli.usage"),
        (["--cpus", "0", "small"], "host.limit-invalid"),
        (["--cpus", "many", "small"], "host.limit-invalid"),
        (["--provider", "magic", "small"], "cli.usage"),
        (["--no-such-option", "small"], "cli.usage"),
        ([], "cli.usage"),
        (["--store", "/no/such/store", "small"], "flist.name-unknown"),
        (["--store", "ftp://127.0.0.1/", "small"], "cli.usage"),
        (["--store", "http://", "small"], "store.unavailable"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else value,
)
def test_a_container_that_cannot_be_asked_for(
    unchanged: Node, capfd: pytest.CaptureFixture[str], arguments: list[str], code: str
) -> None:
    store = [] if "--store" in arguments else ["--store", str(unchanged.store)]
    done = zos_here(capfd, "run", "--json", "--instance", unchanged.instance, *store, *arguments, "--", "true")
    refused(done, code, hint=code != "os.error")


@pytest.mark.parametrize(
    ("command", "status", "code"),
    [
        (["no-such-command"], 127, "container.command-not-found"),
        (["/no/such/command"], 127, "container.command-not-found"),
        (["/bin/no-interpreter"], 127, "container.command-not-found"),
        (["/bin/not-executable"], 126, "container.command-not-executable"),
        (["/bin/no-header"], 126, "container.command-not-executable"),
        (["/bin/foreign"], 126, "container.command-not-executable"),
        (["/etc"], 126, "container.command-not-executable"),
        ([""], 127, "container.command-not-found"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_command_that_cannot_run(
    unchanged: Node, capfd: pytest.CaptureFixture[str], command: list[str], status: int, code: str
) -> None:
    arguments = ["--instance", unchanged.instance, "--store", str(unchanged.store), "small", "--", *command]
    said = zos_here(capfd, "run", "--json", *arguments)
    refused(said, code, status=status, hint=command != ["/bin/no-interpreter"])
    if command == ["/bin/no-interpreter"]:
        assert "its interpreter" in problem(said)["message"]


@pytest.mark.parametrize("verb", [["stop", "over"], ["down"]])
@pytest.mark.parametrize("grace", ["nan", "-1", "inf", "1e9", "soon"])
def test_a_grace_that_is_no_time(
    unchanged: Node, capfd: pytest.CaptureFixture[str], verb: list[str], grace: str
) -> None:
    done = zos_here(capfd, verb[0], "--json", "--instance", unchanged.instance, "--grace", grace, *verb[1:])
    refused(done, "cli.usage", status=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", ""],
        ["rm", ""],
        ["exec", "", "--", "true"],
        ["up", "--instance="],
        ["run", "", "--", "true"],
        ["run", "-e", "", "small", "--", "true"],
        ["flist", "build", ""],
        ["flist", "build", ".", "-o", ""],
        ["flist", "extract", "small", ""],
        ["flist", "verify", "small", "--store", ""],
        ["flist", "mount", "small", ""],
    ],
    ids=" ".join,
)
def test_an_empty_variable_is_no_name_and_no_directory(
    unchanged: Node, capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    done = zos_here(capfd, *arguments[:1], *(["--json"] if arguments[0] != "flist" else []), *arguments[1:])
    assert done.status in (2, 125), done
    assert "is empty" in done.out + done.err


def test_completion_asks_the_instance_that_is_named(unchanged: Node, capfd: pytest.CaptureFixture[str]) -> None:
    assert unchanged.run("--name", "listed", "small", command=["true"]).status == 0
    for given in (["--instance", unchanged.instance], [f"--instance={unchanged.instance}"]):
        assert "listed" in zos_here(capfd, "__complete", "logs", *given, "").out.split()
    for nobody in ("t-nobody-home", "NOT A NAME"):
        assert zos_here(capfd, "__complete", "logs", "--instance", nobody, "") == Done(0, "", "")
    assert unchanged.zos("rm", "listed").status == 0


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["--name", "a b", "small"], "letters, digits"),
        (["--name", "n" * 64, "small"], "1 to 63"),
        (["--name", "x", *["-p", "0:80"] * 65, "small"], "at most 64 ports"),
        (["--workdir", "/" + "d" * 5000, "small"], "at most 4095"),
    ],
)
def test_a_request_that_is_not_valid_is_told_in_words(
    unchanged: Node, capfd: pytest.CaptureFixture[str], arguments: list[str], rule: str
) -> None:
    done = zos_here(capfd, "run", "--instance", unchanged.instance, *arguments, "--", "true")
    assert (done.status, rule in done.err, "regex" in done.err) == (125, True, False), done


def test_no_command(unchanged: Node, capfd: pytest.CaptureFixture[str]) -> None:
    refused(zos_here(capfd, "run", "--json", "--instance", unchanged.instance, "small"), "cli.usage")
    refused(zos_here(capfd, "run", "--json", "--instance", unchanged.instance, "small", "--"), "cli.usage")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a\0b"),
        ("name", "a\n"),
        ("name", "../../etc"),
        ("args", ["true", "\0"]),
        ("args", []),
        ("env", ["A\0=b"]),
        ("env", ["A=b\0"]),
        ("cwd", "/tmp\0"),
        ("ports", ["80:80\0"]),
        ("image", {"store": "/nowhere\0", "reference": "root/small"}),
        ("image", {"store": "/nowhere", "reference": "root/small\0"}),
        ("image", {"store": "relative", "reference": "root/small"}),
        ("image", {"store": "/nowhere"}),
        ("image", {"store": "/nowhere", "flist": ""}),
        ("request_id", "0" * 32 + "\n"),
        ("surplus", 1),
    ],
    ids=lambda value: str(value).replace("\0", "NUL").replace("\n", "LF"),
)
async def test_requests_that_no_command_line_can_make(unchanged: Node, field: str, value: object) -> None:
    """What a client of the API may send, among it NUL, which no argument of a program has."""
    request: dict[str, object] = {
        "request_id": secrets.token_hex(16),
        "name": "made-by-hand",
        "image": {"store": str(unchanged.store), "reference": f"{account().name}/small"},
        "args": ["true"],
    }
    connector = aiohttp.UnixConnector(str(Instance(unchanged.instance).api_socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.post("http://zos/v1/containers", json=request | {field: value}) as answer:
            said = await answer.json(content_type="application/problem+json")
    assert 400 <= answer.status < 500, said
    assert said["code"] not in ("base.internal", "zos.bug")
    assert said["message"]


def test_one_name_twice(unchanged: Node, capfd: pytest.CaptureFixture[str]) -> None:
    node = unchanged
    assert node.run("-d", "--name", "one", "small", command=["sleep", "1000"]).status == 0
    arguments = ["--instance", node.instance, "--store", str(node.store), "--name", "one", "small", "--", "true"]
    refused(zos_here(capfd, "run", "--json", *arguments), "container.exists")
    assert node.inspect("one")["status"] == "running"
    refused(zos_here(capfd, "rm", "--json", "--instance", node.instance, "one"), "container.running", status=53)
    assert zos_here(capfd, "rm", "-f", "--instance", node.instance, "one").status == 0


def test_a_name_like_the_document_of_another(unchanged: Node) -> None:
    for name in ("one", "one.json"):
        assert unchanged.run("--name", name, "small", command=["true"]).status == 0
    for name in ("one", "one.json"):
        assert unchanged.inspect(name)["exit_code"] == 0
        assert unchanged.zos("rm", name).status == 0


@pytest.mark.parametrize("name", ["unknown", "../up.lock", "a/b", "..", "n" * 300, "a\nb", "%2e%2e"])
def test_a_container_that_there_is_not(unchanged: Node, capfd: pytest.CaptureFixture[str], name: str) -> None:
    for verb, more, status in (
        ("inspect", [], None),
        ("logs", [], None),
        ("stop", [], None),
        ("rm", [], None),
        ("rm", ["-f"], None),
        ("exec", [], 125),
    ):
        command = ["--", "true"] if verb == "exec" else []
        done = zos_here(capfd, verb, "--json", "--instance", unchanged.instance, *more, name, *command)
        said = problem(done)
        assert said["code"] in ("container.no-such", "document.invalid"), said
        assert done.status == (said["exit_status"] if status is None else status)


def test_exec_in_a_container_that_has_ended(unchanged: Node, capfd: pytest.CaptureFixture[str]) -> None:
    assert unchanged.run("--name", "over", "small", command=["true"]).status == 0
    done = zos_here(capfd, "exec", "--json", "--instance", unchanged.instance, "over", "--", "true")
    refused(done, "container.not-running", hint=False)
    assert zos_here(capfd, "stop", "--instance", unchanged.instance, "over").status == 0, "it has ended: no error"
    assert unchanged.zos("rm", "over").status == 0


def test_a_port_that_is_taken(unchanged: Node, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--instance", unchanged.instance, "--store", str(unchanged.store)]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        publish = ["-p", "127.0.0.1:0:81", "-p", f"{port}:80"]
        refused(
            zos_here(capfd, "run", "--json", *arguments, *publish, "small", "--", "true"), "container.port-unavailable"
        )
    done = zos_here(capfd, "run", "--json", *arguments, "--rm", "-p", f"{port}:80", "small", "--", "true")
    assert done.status == 0, done.out


# --- images ----------------------------------------------------------------------------------------------------------


def other_machine(signed: SignedManifest) -> bytes:
    """The image, signed by its own publisher, for an architecture that this machine is not."""
    other = "aarch64" if signed.manifest.architecture == "x86_64" else "x86_64"
    changed = SignedManifest(encode_manifest(msgspec.structs.replace(signed.manifest, architecture=other)))
    return sign_manifest(changed, Keyring.of().own_key()).encode()


def expired(signed: SignedManifest) -> bytes:
    """The image, whose time is over."""
    changed = SignedManifest(encode_manifest(msgspec.structs.replace(signed.manifest, expires_s=1)))
    return sign_manifest(changed, Keyring.of().own_key()).encode()


def by_a_stranger(signed: SignedManifest) -> bytes:
    """The image, signed by a key that nobody trusts."""
    stranger = Key("stranger", SigningKey(bytes(range(32))))
    return sign_manifest(SignedManifest(signed.manifest_bytes), stranger).encode()


def flipped(data: bytes, at: int) -> bytes:
    """The bytes with one of them changed."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda signed: flipped(signed.encode(), -1), "flist.signature-invalid"),
        (lambda signed: flipped(signed.encode(), len(signed.manifest_bytes) - 1), "flist"),
        (lambda signed: flipped(signed.encode(), 0), "flist.manifest-invalid"),
        (lambda signed: signed.encode() + b"\0", "flist.manifest-invalid"),
        (lambda signed: signed.encode()[:-1], "flist.manifest-invalid"),
        (lambda signed: signed.manifest_bytes, "flist.manifest-invalid"),
        (lambda signed: b"", "flist.manifest-invalid"),
        (lambda signed: bytes(2_000_000), "file.too-large"),
        (lambda signed: SignedManifest(signed.manifest_bytes).encode(), "flist.unsigned"),
        (by_a_stranger, "flist.untrusted-publisher"),
        (other_machine, "container.image-architecture"),
        (expired, "flist.expired"),
    ],
    ids=[
        "signature",
        "last byte",
        "magic",
        "trailing byte",
        "cut",
        "no signature block",
        "empty",
        "too long",
        "unsigned",
        "stranger",
        "architecture",
        "expired",
    ],
)
def test_an_image_that_is_not_what_it_should_be(
    unchanged: Node,
    capfd: pytest.CaptureFixture[str],
    image: SignedManifest,
    tmp_path: Path,
    change: Callable[[SignedManifest], bytes],
    code: str,
) -> None:
    file = tmp_path / "changed.flist"
    file.write_bytes(change(image))
    arguments = ["--instance", unchanged.instance, "--store", str(unchanged.store), str(file), "--", "true"]
    done = zos_here(capfd, "run", "--json", *arguments)
    assert done.status == 125
    assert problem(done)["code"].startswith(code), problem(done)
    assert "Traceback" not in done.err


def test_an_unsigned_image_runs_when_that_is_said_aloud(
    unchanged: Node, capfd: pytest.CaptureFixture[str], image: SignedManifest, tmp_path: Path
) -> None:
    file = tmp_path / "unsigned.flist"
    file.write_bytes(SignedManifest(image.manifest_bytes).encode())
    arguments = ["--instance", unchanged.instance, "--store", str(unchanged.store), "--unsigned", "--rm", str(file)]
    assert zos_here(capfd, "run", *arguments, "--", "true").status == 0


# --- hubs that fail --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(store: Path) -> Iterator[Node]:
    """A node that has nothing of the image yet."""
    made = Node(store=store, config=store)
    made.up()
    yield made
    made.down()


@pytest.fixture
def variant(image: SignedManifest, tmp_path: Path) -> Path:
    """The same image under another digest, so that no node has anything of it yet."""
    return make_variant(image, tmp_path)


def test_a_hub_that_is_down(unchanged: Node, capfd: pytest.CaptureFixture[str], hub: Hub, variant: Path) -> None:
    hub.close()
    for name in ("small", str(variant)):
        done = zos_here(
            capfd, "run", "--json", "--instance", unchanged.instance, "--store", hub.url, name, "--", "true"
        )
        refused(done, "store.unavailable")
        assert problem(done)["retryable"] is True


def test_a_hub_that_has_lost_the_image(
    unchanged: Node, capfd: pytest.CaptureFixture[str], hub: Hub, variant: Path, tmp_path: Path
) -> None:
    hub.store = tmp_path
    arguments = ["--instance", unchanged.instance, "--store", hub.url]
    refused(zos_here(capfd, "run", "--json", *arguments, "small", "--", "true"), "flist.name-unknown")
    refused(zos_here(capfd, "run", "--json", *arguments, str(variant), "--", "true"), "flist.mount-failed")


@pytest.mark.parametrize("kind", ["name", "manifest", "meta", "index"])
def test_a_hub_with_wrong_bytes(
    unchanged: Node, capfd: pytest.CaptureFixture[str], hub: Hub, variant: Path, kind: str
) -> None:
    hub.behave = lambda path, data: flipped(data, len(data) // 2) if path.startswith(f"/{kind}/") else data
    image = "small" if kind in ("name", "manifest") else str(variant)
    arguments = ["--instance", unchanged.instance, "--store", hub.url, image]
    done = zos_here(capfd, "run", "--json", *arguments, "--", "true")
    assert done.status == 125
    assert problem(done)["code"].startswith("flist."), done.out


def start_reader(node: Node, hub: Hub, variant: Path) -> None:
    """A container `reader` that waits, its programs here whole: what fails later concerns its data alone."""
    assert node.run("-d", "--name", "reader", str(variant), store=hub.url, command=["sleep", "1000"]).status == 0
    done = node.zos("exec", "reader", "--", "sh", "-c", "cat /bin/busybox > /dev/null")
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    "damage", [lambda data: flipped(data, 0), lambda data: bytes(len(data))], ids=["flipped bit", "zeros"]
)
def test_a_unit_with_wrong_bytes_is_eio_and_says_why(
    unchanged: Node, hub: Hub, variant: Path, damage: Callable[[bytes], bytes]
) -> None:
    node = unchanged
    start_reader(node, hub, variant)
    hub.behave = lambda path, data: damage(data) if path.startswith("/pack/") else data
    done = node.zos("exec", "reader", "--", "cat", "/data/03")
    assert done.status == 1
    assert "Input/output error" in done.err
    with node.hold() as hold:
        hold.until(lambda: node.inspect("reader")["events"])
    state = node.inspect("reader")
    assert state["events"][0].startswith("fetch.corrupt")
    assert state["image"]["read_errors"] >= 1
    hub.behave = lambda path, data: data
    healed = node.zos("exec", "reader", "--", "sh", "-c", "sha256sum /data/03")
    assert healed.out.splitlines() == [large_sums()[3]], healed.err  # what was wrong is fetched again
    assert node.zos("rm", "-f", "reader").status == 0


def test_an_answer_that_is_cut_off_is_asked_for_again(unchanged: Node, hub: Hub, variant: Path) -> None:
    """A connection that breaks is no wrong byte: the reader waits, and has its data when the hub is well again."""
    node = unchanged
    start_reader(node, hub, variant)
    again = threading.Event()
    broken: list[str] = []

    def cut(path: str, data: bytes) -> bytes:
        if not path.startswith("/pack/"):
            return data
        broken.append(path)
        if len(broken) > 2:
            again.set()
        return data[: len(data) // 2]

    hub.behave = cut
    reading = Reading(node.begin("exec", "reader", "--", "sh", "-c", "sha256sum /data/03"))
    assert again.wait(TIMEOUT_S)
    hub.behave = lambda path, data: data
    assert reading.end() == 0, reading.err
    assert reading.lines == [large_sums()[3]]
    assert node.inspect("reader")["events"] == []
    assert node.zos("rm", "-f", "reader").status == 0


def test_a_pack_that_is_cut_in_the_store(
    unchanged: Node, capfd: pytest.CaptureFixture[str], store: Path, variant: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "store"
    shutil.copytree(store, damaged)
    for pack in (path for path in (damaged / "pack").rglob("*") if path.is_file()):
        os.truncate(pack, pack.stat().st_size // 4)
    arguments = ["--instance", unchanged.instance, "--store", str(damaged), str(variant)]
    done = zos_here(capfd, "run", "--json", "--provider", "extract", *arguments, "--", "true")
    assert (done.status, problem(done)["code"]) == (125, "flist.unit-invalid"), done.out
    done = zos_here(capfd, "run", "--rm", *arguments, "--", "sh", "-c", "cat /data/* > /tmp/out")
    assert done.status == 1
    assert "Input/output error" in done.err


def test_hubs_that_hang(fresh: Node, store: Path, image: SignedManifest, tmp_path: Path) -> None:
    """Silent at any point, a hub costs a bounded time."""
    with ExitStack() as stack:
        running = []
        for kind in ("name", "manifest", "meta", "index"):
            hub = Hub(store)
            stack.callback(hub.close)
            hub.gated = lambda path, kind=kind: path.startswith(f"/{kind}/")  # type: ignore[misc]
            hub.gate.clear()
            name = "small" if kind in ("name", "manifest") else str(make_variant(image, tmp_path))
            running.append(Reading(fresh.start("--json", name, store=hub.url, command=["true"])))
        for each in running:
            assert each.end() == 125
            said = json.loads(each.lines[-1])["error"]
            assert (said["code"], said["retryable"], said["hint"]) == (
                "store.unavailable",
                True,
                "is the hub reachable?",
            )
    assert fresh.names() == []


# --- the node itself -------------------------------------------------------------------------------------------------

AS_NOBODY = """
import os, sys
sys.path[:] = [os.path.abspath(part) for part in sys.path]
import aiohttp, uvloop, rich.console, zos_core.commands, zos_core.attach, flist.commands, flist.hostmount
import zos_core.base.verbs as verbs
entries = verbs.installed_entries()
for entry in entries:
    entry.load()
os.environ.update(PATH="/nowhere", HOME="/nowhere")
os.chdir("/")
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(verbs.run(sys.argv[1:], entries))
"""


def as_nobody(*arguments: str) -> Done:
    """The command as a user without rights and without sudo; the interpreter may lie where that user cannot go."""
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, *arguments], capture_output=True, text=True, timeout=60)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("verb", "code", "status"),
    [
        (["up"], "base.need-root", 29),
        (["down"], "base.need-root", 29),
        (["flist", "mount", "small", "/"], "base.need-root", 29),
        (["flist", "unmount", "/"], "base.need-root", 29),
        (["ps"], "http.forbidden", 16),
        (["run", "root/small", "--", "true"], "http.forbidden", 125),
        (["rm", "-f", "x"], "http.forbidden", 16),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_without_root_and_without_sudo(unchanged: Node, verb: list[str], code: str, status: int) -> None:
    instance = [] if verb[0] == "flist" else ["--instance", unchanged.instance]
    at = verb.index("--") if "--" in verb else len(verb)
    refused(as_nobody(*verb[:at], "--json", *instance, *verb[at:]), code, status=status)


def test_without_a_node(capfd: pytest.CaptureFixture[str]) -> None:
    """Soon, and with a word of what to do."""
    begun_s = time.monotonic()
    for verb in (["ps"], ["inspect", "x"], ["logs", "x"], ["logs", "-f", "x"], ["stop", "x"], ["rm", "x"]):
        done = zos_here(capfd, *verb, "--json", "--instance", "t-nobody-home")
        refused(done, "http.unreachable", status=16)
        assert "zos up" in problem(done)["hint"]
    for verb in (["run", "small"], ["exec", "x"]):
        refused(zos_here(capfd, *verb, "--json", "--instance", "t-nobody-home", "--", "true"), "http.unreachable")
    assert time.monotonic() - begun_s < 10
    assert not Path("/run/zos/t-nobody-home").exists()


def test_names_that_no_instance_can_have(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("..", "a/b", "UPPER", "n" * 16, "a\n", "-x"):
        done = zos_here(capfd, "up", "--json", f"--instance={name}")
        refused(done, "instance.invalid-name", status=18)


def test_state_on_tmpfs() -> None:
    """In a mount namespace of its own, where the state directory lies on tmpfs."""
    node = Node(store=Path("/nowhere"), config=Path("/nowhere"))
    state = Instance(node.instance).state_dir
    state.mkdir(parents=True)
    try:
        script = f"mount -t tmpfs none {state} && exec {ZOS} up --json --instance {node.instance}"
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
        )
        refused(Done(done.returncode, done.stdout, done.stderr), "node.state-on-tmpfs", status=60)
    finally:
        state.rmdir()
    assert node.footprint() == []
