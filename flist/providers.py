"""Which provider puts an image's bytes below EROFS here, and why: pure.

Chosen by what spawn's probe found by trying, never by a version; never a silent downgrade, the reason is kept.
The order: a full image needs no daemon; file-backed EROFS on the one-file FUSE; the same on loop
devices; extraction where EROFS or FUSE is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from native.errors import ZosError
from zos_core.base.programs import Probe

__all__ = ["ASKED_FOR", "BESIDE", "PROVIDERS", "Choice", "Provider", "ProviderUnavailable", "choose"]

Provider = Literal["file", "loop", "full", "extract"]
PROVIDERS: tuple[Provider, ...] = get_args(Provider)
ASKED_FOR = "asked for"
"""The reason of a choice that was none."""
BESIDE = "mounted so already"
"""The reason of who came to such a mount: nor was that one."""


class ProviderUnavailable(ZosError):
    """The provider that was asked for cannot work on this machine."""

    code, http_status, exit_status = "flist.provider-unavailable", 422, 46


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A provider and the reason it was taken, in words for `zos inspect`."""

    provider: Provider
    reason: str


def choose(probe: Probe, *, full: bool, forced: Provider | None) -> Choice:
    """Choose how an image is mounted.

    Args:
        probe: what works on this machine.
        full: every unit of the image is on the local disk and verified.
        forced: the provider the user asked for, if any.

    Raises:
        ProviderUnavailable: `forced` lacks something here; the message says what.
    """
    lacking = {provider: _lacking(probe, provider) for provider in PROVIDERS}
    if forced is not None:
        if lacking[forced] is not None:
            raise ProviderUnavailable(
                f"the provider {forced!r} does not work here: {lacking[forced]}",
                hint="leave --provider out and the best one that works is taken",
                provider=forced,
            )
        return Choice(provider=forced, reason=ASKED_FOR)
    if full and lacking["full"] is None:
        return Choice(provider="full", reason="every unit is on the local disk and verified: no daemon in the path")
    if lacking["file"] is None:
        return Choice(provider="file", reason="EROFS takes a file as its device here (kernel 6.12 and later)")
    if lacking["loop"] is None:
        return Choice(provider="loop", reason=f"file-backed EROFS does not work here: {lacking['file']}")
    return Choice(provider="extract", reason=f"no lazy mount here: {lacking['loop']}")


def _lacking(probe: Probe, provider: Provider) -> str | None:
    """What this machine lacks for `provider`, or None."""

    def reason(feature: str) -> str:
        return f"{feature} ({probe.reasons.get(feature, 'no reason given')})"

    if provider == "extract":
        return None
    if not probe.erofs:
        return reason("erofs")
    if provider == "full":
        return None if probe.erofs_file_backed or probe.loop_control else reason("loop_control")
    if not probe.fuse:
        return reason("fuse")
    if provider == "file":
        return None if probe.erofs_file_backed else reason("erofs_file_backed")
    return None if probe.loop_control else reason("loop_control")
