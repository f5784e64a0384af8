"""Where installed peers lie, and what is known of each: a record per peer, written when its program answered."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from bench.errors import PeerMissing
from bench.peers.catalog import PeerSpec
from zos_core.base.atomic_file import make_directories, read_limited, write_atomic
from zos_core.base.document import Record, decode_json, encode_json
from zos_core.base.errors import DocumentInvalid
from zos_core.base.paths import Account, account

__all__ = ["Cache", "Installed", "cache_directory"]

RECORD_BYTES_MAX = 65_536


class Installed(Record, frozen=True, kw_only=True):
    """A peer that was installed and answered.

    Attributes:
        source: digest of our program's source and of what was asked for: with another, it is out of date.
    """

    name: str
    version: str
    argv: list[str]
    environment: dict[str, str] = {}
    source: str


def cache_directory(environ: Mapping[str, str], who: Account | None = None) -> Path:
    """$XDG_CACHE_HOME/zos/bench or ~/.cache/zos/bench of the calling user, also through sudo; nothing of root's."""
    who = who or account(environ)
    own = environ.get("XDG_CACHE_HOME", "")
    through_sudo = who.owner is not None
    base = Path(own) if own.startswith("/") and not through_sudo else who.home / ".cache"
    return base / "zos/bench"


class Cache:
    """The installed peers below one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def root(self) -> Path:
        """Programs, libraries, the virtual environment."""
        return self.directory / "peers"

    @property
    def results(self) -> Path:
        """What runs have found, a file for each, named by when they began."""
        return self.directory / "results"

    def find(self, spec: PeerSpec) -> Installed:
        """What is known of a peer.

        Raises:
            PeerMissing: it is not installed, or its record or program cannot be used.
        """
        install = f"zos bench peers install {spec.name}"
        if spec.kind == "system":
            found = shutil.which(spec.program)
            if found is None:
                raise PeerMissing(
                    f"no {spec.program} on PATH", hint=f"apt-get install {' '.join(spec.packages)}", peer=spec.name
                )
            return Installed(name=spec.name, version="", argv=[found], source="")
        path = self.root / f"{spec.name}.json"
        try:
            installed = decode_json(read_limited(path, RECORD_BYTES_MAX), Installed, what=str(path))
        except FileNotFoundError as error:
            raise PeerMissing("not installed", hint=install, peer=spec.name) from error
        except DocumentInvalid as error:
            raise PeerMissing(f"its record cannot be read: {error.message}", hint=install, peer=spec.name) from error
        if not os.access(installed.argv[0], os.X_OK):
            raise PeerMissing(f"its program {installed.argv[0]} is gone", hint=install, peer=spec.name)
        return installed

    def keep(self, installed: Installed) -> None:
        """Write the record of a peer."""
        make_directories(self.root)
        write_atomic(self.root / f"{installed.name}.json", encode_json(installed) + b"\n")

    def forget(self, spec: PeerSpec) -> None:
        """Take the record of a peer away; a peer whose installation fails is missing, whatever was there before."""
        (self.root / f"{spec.name}.json").unlink(missing_ok=True)
