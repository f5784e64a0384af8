"""Root where it is needed: by sudo where there is one, else a refusal that says so."""

from __future__ import annotations

import os
import shutil
import sys

from native.errors import ZosError

__all__ = ["NeedRoot", "require_root"]


class NeedRoot(ZosError):
    """The operation needs root, and there is no sudo."""

    code, http_status, exit_status = "base.need-root", 403, 29


def require_root(why: str) -> None:
    """Return as root, or run the same command again under sudo (which then asks), or raise.

    Keys and settings stay the calling user's: sudo sets SUDO_UID, by which `paths.account` knows them.

    Raises:
        NeedRoot: not root, and no sudo on PATH.
    """
    if os.geteuid() == 0:
        return
    sudo = shutil.which("sudo")
    if sudo is None:
        raise NeedRoot(f"{why}, which needs root", hint="become root, or install sudo")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sudo, [sudo, "--", sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]])
