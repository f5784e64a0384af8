"""Packages of another release of Debian, unpacked into a directory: nothing of the machine's own apt changes.

apt is run with lists, cache and sources of its own, on the mirror that the machine's apt uses and with the keys that it
trusts, so packages are as verified as any that are installed here.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.errors import PeerMissing

__all__ = ["mirror_in", "unpack"]

TIMEOUT_S = 300
TARGETS = "$(ORIGIN) $(LABEL) $(CODENAME) $(COMPONENT) $(REPO_URI)"


def mirror_in(targets: str) -> str | None:
    """The URI of Debian's own main archive in what `apt-get indextargets` prints as TARGETS, if there is one."""
    for line in targets.splitlines():
        origin, label, codename, component, uri = (*line.split(), *[""] * 5)[:5]
        if origin == label == "Debian" and component == "main" and "-" not in codename and uri:
            return uri
    return None


def unpack(packages: Sequence[str], suite: str, target: Path) -> str:
    """Unpack `packages` of release `suite` in place of `target`; the version of the first one.

    Raises:
        PeerMissing: there is no apt, it names no mirror, or a package is not to be had.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise PeerMissing(f"there is no {tool} here: it comes from Debian's archive alone")
    mirror = mirror_in(_run(["apt-get", "indextargets", "--format", TARGETS, "Created-By: Packages"]))
    if mirror is None:
        raise PeerMissing("apt's lists name no Debian mirror (apt-get update)")
    with tempfile.TemporaryDirectory(prefix="zos-bench-apt-") as name:
        work = Path(name)
        for each in ("lists/partial", "archives/partial", "packages"):
            (work / each).mkdir(parents=True)
        (work / "sources.list").write_text(f"deb {mirror} {suite} main\n")
        (work / "status").touch()
        settings = {
            "Dir::Etc::sourcelist": work / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": work / "lists",
            "Dir::State::status": work / "status",
            "Dir::Cache": work,
            "APT::Sandbox::User": pwd.getpwuid(os.geteuid()).pw_name,
            "Acquire::Languages": "none",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        _run(["apt-get", "-qq", *options, "update"])
        _run(["apt-get", "-qq", *options, "download", *packages], directory=work / "packages")
        fresh = target.with_name(f".{target.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        version = ""
        for package in packages:
            archive = next((work / "packages").glob(f"{package}_*.deb"), None)
            if archive is None:
                raise PeerMissing(f"{suite} has no {package}")
            version = version or _run(["dpkg-deb", "-f", str(archive), "Version"]).strip()
            _run(["dpkg-deb", "-x", str(archive), str(fresh)])
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    return version


def _run(argv: list[str], directory: Path | None = None) -> str:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=directory,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerMissing(f"{argv[0]} did not end within {TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise PeerMissing(f"{argv[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout
