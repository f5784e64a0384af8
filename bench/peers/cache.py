"""Where installed peers lie, and what is known of each: a record per peer, written when its program answered."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.errors import PeerMissing
from bench.peers.catalog import PeerSpec
from zos_core.base.atomic_file import make_directories, read_limited, write_atomic
from zos_core.base.document import Record, decode_json, encode_json
from zos_core.base.errors import DocumentInvalid
from zos_core.base.paths import Account, account

__all__ = ["PROGRAMS", "Cache", "Installed", "cache_directory", "source_digest"]

PROGRAMS = Path(__file__).with_name("programs")
RECORD_BYTES_MAX = 65_536
VERSION_TIMEOUT_S = 10
SOURCES = {
    "c": ("line.h", "{program}.c"),
    "debian": ("line.h", "{program}.c"),
    "go": ("go/go.mod", "go/go.sum", "go/line/line.go", "go/{program}/main.go"),
    "rust": ("rust/Cargo.toml", "rust/Cargo.lock", "rust/src/lib.rs", "rust/src/bin/{program}.rs"),
    "python": ("python_peer.py",),
    "system": (),
}


class Installed(Record, frozen=True, kw_only=True):
    """A peer that was installed and answered, or why it could not be.

    Attributes:
        failure: what went wrong; then there is no program.
        source: digest of our program's source and of what was asked for: with another, it is out of date.
    """

    name: str
    version: str = ""
    argv: list[str] = []
    environment: dict[str, str] = {}
    source: str
    failure: str | None = None


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
            return Installed(name=spec.name, version=_version_said(found), argv=[found], source="")
        path = self.root / f"{spec.name}.json"
        try:
            installed = decode_json(read_limited(path, RECORD_BYTES_MAX), Installed, what=str(path))
        except FileNotFoundError as error:
            raise PeerMissing("not installed", hint=install, peer=spec.name) from error
        except DocumentInvalid as error:
            raise PeerMissing(f"its record cannot be read: {error.message}", hint=install, peer=spec.name) from error
        if installed.failure is not None:
            raise PeerMissing(installed.failure, peer=spec.name)
        if installed.source != source_digest(spec):
            raise PeerMissing("installed from another source than this zos has", hint=install, peer=spec.name)
        if not installed.argv or not os.access(installed.argv[0], os.X_OK):
            raise PeerMissing("its program is gone", hint=install, peer=spec.name)
        return installed

    def keep(self, installed: Installed) -> None:
        """Write the record of a peer."""
        make_directories(self.root)
        write_atomic(self.root / f"{installed.name}.json", encode_json(installed) + b"\n")


def source_digest(spec: PeerSpec) -> str:
    """What a peer is built from: our program's source, the lock files, the packages asked for."""
    state = hashlib.sha256(repr((spec.kind, spec.packages, spec.suite, spec.environment)).encode())
    for name in SOURCES[spec.kind]:
        state.update((PROGRAMS / name.format(program=spec.program)).read_bytes())
    return state.hexdigest()[:16]


def _version_said(program: str) -> str:
    """The first thing like a version in what a program says of itself."""
    try:
        done = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=VERSION_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({error})"
    found = re.search(r"\d+\.\d[\w.+-]*", done.stdout + done.stderr)
    return found[0] if found else "unknown"
