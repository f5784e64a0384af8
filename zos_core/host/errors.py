"""What can go wrong with control groups and limits. Exit statuses 70-74."""

from __future__ import annotations

from native.errors import ZosError

__all__ = ["CgroupBusy", "CgroupFailed", "CgroupUnavailable", "LimitInvalid", "SystemdRefused"]


class LimitInvalid(ZosError):
    """A limit that cannot be read, or is outside what makes sense. Context: `limit`, `value`."""

    code, http_status, exit_status, retryable = "host.limit-invalid", 400, 70, False


class CgroupUnavailable(ZosError):
    """This machine has no place where control groups of version 2 can be made."""

    code, http_status, exit_status, retryable = "host.cgroup-unavailable", 501, 71, False


class CgroupBusy(ZosError):
    """A group that still has processes was to be removed, or its processes did not end in time."""

    code, http_status, exit_status, retryable = "host.cgroup-busy", 409, 72, True


class CgroupFailed(ZosError):
    """The kernel refused to make, change or remove a group. Context: `path`, `errno`."""

    code, http_status, exit_status, retryable = "host.cgroup-failed", 500, 73, False


class SystemdRefused(ZosError):
    """systemd did not give us a scope of our own. Context: `unit`, `reason` (its own words)."""

    code, http_status, exit_status, retryable = "host.systemd-refused", 500, 74, True
