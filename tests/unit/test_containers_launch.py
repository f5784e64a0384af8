"""From a request to spawn's body: what every container gets, and what a request can change."""

from __future__ import annotations

import msgspec
import pytest

from zos_core.base.document import decode_json, encode_json
from zos_core.base.errors import DocumentInvalid
from zos_core.containers.document import ContainerState, ExecRequest, Failure, ImageRequest, RunRequest
from zos_core.containers.launch import CAPABILITIES, DEFAULT_PATH, plan_exec, plan_launch

REQUEST = RunRequest(
    request_id="0" * 32,
    name="web",
    image=ImageRequest(store="/store", reference="me/web:latest"),
    args=["python3", "-c", "print('ä')"],
    env=["PATH=/own", "LANG=C.UTF-8", "LANG=de_DE"],
)


def launch(request: RunRequest = REQUEST) -> dict[str, object]:
    planned = plan_launch(
        request,
        generation=7,
        image="ab",
        upper="containers/web/upper",
        work="containers/web/work",
        netns="web",
        cgroup="/c",
    )
    return msgspec.structs.asdict(planned)


def test_every_container_is_confined() -> None:
    body = launch()
    assert body["no_new_privileges"] is True
    assert body["seccomp"] == "default"
    assert body["init"] is True
    forbidden = {"MKNOD": 27, "NET_RAW": 13, "SYS_ADMIN": 21, "SYS_PTRACE": 19, "SYS_MODULE": 16}
    assert not set(forbidden.values()) & set(body["capabilities"])  # type: ignore[call-overload]
    assert body["capabilities"] == sorted(CAPABILITIES.values())
    assert b"/proc/kcore" in body["masked"] and b"/proc/sys" in body["readonly"]  # type: ignore[operator]


def test_the_last_value_of_a_variable_wins_and_each_comes_once() -> None:
    env = launch()["env"]
    assert isinstance(env, list)
    assert env.count(b"LANG=de_DE") == 1 and b"LANG=C.UTF-8" not in env
    assert b"PATH=/own" in env and f"PATH={DEFAULT_PATH}".encode() not in env
    assert b"HOSTNAME=web" in env


def test_an_exec_inherits_the_containers_environment() -> None:
    planned = plan_exec(
        REQUEST,
        ExecRequest(request_id="1" * 32, args=["env"], env=["LANG=C"]),
        name="web/exec-1",
        generation=7,
        cgroup="/c",
    )
    assert planned.target == "web" and planned.name == "web/exec-1"
    assert b"PATH=/own" in planned.env and b"LANG=C" in planned.env and b"LANG=de_DE" not in planned.env


@pytest.mark.parametrize("name", ["..", "a/b", "", "a\0b", "-a", ".a", "a" * 300, "ä", "a b"])
def test_a_name_that_is_none_is_refused_where_it_enters(name: str) -> None:
    data = encode_json(msgspec.structs.replace(REQUEST, name=name))
    with pytest.raises(DocumentInvalid, match="name"):
        decode_json(data, RunRequest, what="request")


@pytest.mark.parametrize(
    ("field", "value"),
    [("memory_bytes", 4096), ("cpus_milli", 1), ("pids", 0)],
)
def test_limits_below_the_minimum_are_refused(field: str, value: int) -> None:
    data = encode_json({**msgspec.to_builtins(REQUEST), "resources": {field: value}})
    with pytest.raises(DocumentInvalid, match=field):
        decode_json(data, RunRequest, what="request")


def test_exit_statuses_are_a_shells() -> None:
    state = ContainerState(name="web", owner_uid=0, request=REQUEST, status="exited", generation=1, created_ns=0)
    assert msgspec.structs.replace(state, exit_code=3).exit_status == 3
    assert msgspec.structs.replace(state, exit_signal=9).exit_status == 137
    assert msgspec.structs.replace(state, exit_unknown=True).exit_status == 125
    assert msgspec.structs.replace(state, failure=Failure(code="x", message="y", exit_status=127)).exit_status == 127


def test_a_kept_state_survives_the_disk() -> None:
    state = ContainerState(name="web", owner_uid=0, request=REQUEST, status="running", generation=1, created_ns=5)
    assert decode_json(encode_json(state), ContainerState, what="state") == state
