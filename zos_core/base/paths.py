"""Where things lie: per instance, per user, per system.

| what | variable | a user, also through sudo | root |
|---|---|---|---|
| keys, trusted publishers | $XDG_CONFIG_HOME/zos | ~/.config/zos | /etc/zos |
| default store | $XDG_DATA_HOME/zos/store | ~/.local/share/zos/store | /var/lib/zos/store |

With sudo the user is SUDO_UID, HOME is taken from the password database, and XDG variables (root's) are ignored.
The environment is an argument; by default it is the process's own, which of all library code only `account` reads:
what it says there (who called, where are their files) is the same for every program and would be handed down from
each composition root unchanged.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zos_core.base.errors import InstanceInvalid

__all__ = ["INSTANCE_DEFAULT", "Account", "Instance", "account", "default_store"]

INSTANCE_DEFAULT = "zos"
# Short, because it ends up in link names (15 bytes) and in socket paths (107 bytes).
INSTANCE_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,14}\Z")


@dataclass(frozen=True, slots=True)
class Instance:
    """One of several zos on a machine; its name is in everything that it makes.

    Raises:
        InstanceInvalid: the name is not 1 to 15 of a-z, 0-9 and '-', or begins with no letter.
    """

    name: str = INSTANCE_DEFAULT

    def __post_init__(self) -> None:
        if not INSTANCE_PATTERN.match(self.name):
            raise InstanceInvalid(
                f"{self.name!r} cannot name an instance",
                hint="1 to 15 of a-z, 0-9 and '-', a letter first",
            )

    @property
    def run_dir(self) -> Path:
        """Sockets and locks of this boot, 0700."""
        return Path("/run/zos") / self.name

    @property
    def state_dir(self) -> Path:
        """Blobs, container uppers, accepted documents, logs."""
        return Path("/var/lib/zos") / self.name

    @property
    def log_dir(self) -> Path:
        """What the service processes print."""
        return self.state_dir / "log"

    @property
    def api_socket(self) -> Path:
        """The supervisor's HTTP API."""
        return self.socket("api")

    def socket(self, service: str) -> Path:
        """Socket of one process of the tree: `hold`, `spawn`, `blockd`, `logd`, `forward`."""
        return self.run_dir / f"{service}.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The user for whom we work, which is not root when root came by sudo."""

    uid: int
    gid: int
    name: str
    home: Path
    config_dir: Path
    data_dir: Path

    @property
    def owner(self) -> tuple[int, int] | None:
        """Owner of files made for this user; None when the process has that uid anyway."""
        return None if self.uid == os.geteuid() else (self.uid, self.gid)


def account(environ: Mapping[str, str] | None = None) -> Account:
    """The calling user, by SUDO_UID when root was reached through sudo."""
    if environ is None:
        environ = os.environ  # noqa: TID251 (see the top of this module)
    uid = os.geteuid()
    through_sudo = uid == 0 and environ.get("SUDO_UID", "0").isdecimal() and environ.get("SUDO_UID", "0") != "0"
    if through_sudo:
        uid = int(environ["SUDO_UID"])
    try:
        entry = pwd.getpwuid(uid)
        name, gid, home = entry.pw_name, entry.pw_gid, Path(entry.pw_dir)
    except KeyError:  # a uid without an entry, as in a bare container
        name, gid, home = str(uid), os.getegid() if not through_sudo else uid, Path("/")
    own = {} if through_sudo else environ
    if uid == 0:
        config_dir, data_dir = Path("/etc/zos"), Path("/var/lib/zos")
    else:
        if own.get("HOME", "").startswith("/"):
            home = Path(own["HOME"])
        config_dir, data_dir = home / ".config/zos", home / ".local/share/zos"
    return Account(
        uid=uid,
        gid=gid,
        name=name,
        home=home,
        config_dir=_xdg(own, "XDG_CONFIG_HOME", config_dir),
        data_dir=_xdg(own, "XDG_DATA_HOME", data_dir),
    )


def _xdg(environ: Mapping[str, str], variable: str, otherwise: Path) -> Path:
    # A relative path in these variables is to be ignored (XDG Base Directory Specification).
    value = environ.get(variable, "")
    return Path(value) / "zos" if value.startswith("/") else otherwise


def default_store(environ: Mapping[str, str] | None = None) -> Path:
    """Directory of the one store of this user or, for root, of the system. It may not exist yet."""
    return account(environ).data_dir / "store"
