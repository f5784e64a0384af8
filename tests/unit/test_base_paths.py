"""Whose files, and where: with sudo, without, and for instances."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from zos_core.base.errors import InstanceInvalid
from zos_core.base.paths import Instance, account, default_store

SOMEBODY = pwd.getpwnam("nobody")


@pytest.mark.parametrize("name", ["", "A", "1a", "a_b", "a/b", "..", "a" * 16, "a\n", "ä"])
def test_names_that_no_instance_has(name: str) -> None:
    with pytest.raises(InstanceInvalid):
        Instance(name)


def test_an_instance_is_in_all_its_paths() -> None:
    instance = Instance("t-one")
    assert str(instance.run_dir) == "/run/zos/t-one"
    assert str(instance.socket("spawn")) == "/run/zos/t-one/spawn.sock"
    assert instance.api_socket.parent == instance.run_dir
    assert instance.log_dir.is_relative_to(instance.state_dir)


def test_root_without_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for environ in ({}, {"SUDO_UID": "0"}, {"SUDO_UID": "x"}):
        assert account(environ).config_dir == Path("/etc/zos")
        assert default_store(environ) == Path("/var/lib/zos/store")
        assert account(environ).owner is None


def test_root_through_sudo_works_for_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    environ = {"SUDO_UID": str(SOMEBODY.pw_uid), "HOME": "/root", "XDG_CONFIG_HOME": "/root/.config"}
    found = account(environ)
    assert (found.uid, found.gid, found.name) == (SOMEBODY.pw_uid, SOMEBODY.pw_gid, "nobody")
    assert found.config_dir == Path(SOMEBODY.pw_dir, ".config/zos")
    assert found.owner == (SOMEBODY.pw_uid, SOMEBODY.pw_gid)


def test_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY.pw_uid)
    assert account({"HOME": "/home/x"}).config_dir == Path("/home/x/.config/zos")
    assert account({"HOME": "/home/x", "XDG_CONFIG_HOME": "/c"}).config_dir == Path("/c/zos")
    assert account({"HOME": "/home/x", "XDG_CONFIG_HOME": "relative"}).config_dir == Path("/home/x/.config/zos")
    assert default_store({"HOME": "/home/x", "XDG_DATA_HOME": "/d"}) == Path("/d/zos/store")
    assert account({"HOME": "/home/x"}).owner is None


def test_a_uid_without_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_123)
    assert account({}).name == "4000123"
