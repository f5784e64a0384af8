"""What can go wrong with links, addresses and ports. Exit statuses 80-89 (80 is `native.netlink.NetlinkInvalid`)."""

from __future__ import annotations

from native.errors import ZosError

__all__ = ["NetlinkRefused", "NetlinkTimeout", "NetworkNameInvalid", "PoolExhausted", "PortInvalid"]


class NetlinkRefused(ZosError):
    """The kernel refused a request. Context: `request` (what was asked), `errno`, `kernel` (its own words, if any)."""

    code, http_status, exit_status, retryable = "network.refused", 500, 81, False


class PortInvalid(ZosError):
    """A published port that is not `[ADDRESS:]HOST:CONTAINER[/tcp]`."""

    code, http_status, exit_status, retryable = "network.port-invalid", 400, 82, False


class PoolExhausted(ZosError):
    """No free pair of addresses is left for another container."""

    code, http_status, exit_status, retryable = "network.pool-exhausted", 507, 83, True


class NetlinkTimeout(ZosError):
    """The kernel did not answer in time, or its answers were lost because the socket's buffer was full."""

    code, http_status, exit_status, retryable = "network.timeout", 504, 84, True


class NetworkNameInvalid(ZosError):
    """A name that cannot be written beside a link (its alias has 255 bytes)."""

    code, http_status, exit_status, retryable = "network.name-invalid", 400, 85, False
