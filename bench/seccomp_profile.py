"""Our seccomp profile as an OCI runtime takes it, so that peers run under the same rules (runtime-spec, linux.seccomp).

The source is native/crates/seccomp/data, which zos-spawn compiles at build time. What cannot be said in OCI's words:
calls newer than our table give ENOSYS with us and the default (EPERM) with a peer; x32 calls give ENOSYS with us and
are refused by libseccomp as a foreign architecture; names that the peer's libseccomp does not know are left out by it.
"""

from __future__ import annotations

import errno
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["DATA", "oci_seccomp"]

DATA = Path(__file__).resolve().parents[1] / "native/crates/seccomp/data/profile.json"
ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


def oci_seccomp(profile: Mapping[str, Any], *, machine: str | None = None) -> dict[str, Any]:
    """Translate `profile` (format zos-seccomp-1) for a machine, this one by default.

    Raises:
        ValueError: another format, or a rule in words that are not known here.
    """
    if profile["format"] != "zos-seccomp-1":
        raise ValueError(f"a profile in format {profile['format']!r}")
    machine = machine or platform.machine()
    rules: list[dict[str, Any]] = []
    for rule in profile["rules"]:
        if not _applies(rule.get("when", {}), profile["capabilities"], machine):
            continue
        if rule["action"] == "allow":
            action: dict[str, Any] = {"action": "SCMP_ACT_ALLOW"}
        elif rule["action"] == "errno":
            action = {"action": "SCMP_ACT_ERRNO", "errnoRet": getattr(errno, rule["errno"])}
        else:
            raise ValueError(f"rule {rule['name']!r} has the action {rule['action']!r}")
        # In OCI the conditions of one entry must all hold; alternatives are several entries.
        rules += [{"names": rule["syscalls"], **action, **argument} for argument in _arguments(rule.get("argument"))]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": getattr(errno, profile["otherwise"]),
        "architectures": [ARCHITECTURES[machine]],
        "syscalls": rules,
    }


def load() -> dict[str, Any]:
    """The profile that ships, for this machine."""
    return oci_seccomp(json.loads(DATA.read_text()))


def _applies(when: Mapping[str, Any], capabilities: list[str], machine: str) -> bool:
    for key, value in when.items():
        if key == "capability":
            holds = value in capabilities
        elif key == "without_capability":
            holds = value not in capabilities
        elif key == "architecture":
            holds = value == machine
        elif key == "kernel":  # all kernels that we run on are newer than any that a rule names
            holds = True
        else:
            raise ValueError(f"a rule on {key!r}")
        if not holds:
            return False
    return True


def _arguments(argument: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if argument is None:
        return [{}]
    index = argument["index"]
    if "one_of" in argument:
        return [{"args": [{"index": index, "value": value, "op": "SCMP_CMP_EQ"}]} for value in argument["one_of"]]
    if "none_of_bits" in argument:
        bits = argument["none_of_bits"]
        return [{"args": [{"index": index, "value": bits, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]
    raise ValueError(f"a condition in the words {sorted(argument)}")
