"""Use an unpacked wheel from another folder: `wheel_smoke.py SITE CHECKOUT`, with SITE first on PYTHONPATH."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

PARTS = ("native", "zos_core", "flist", "bench")
FOREIGN = {".rs", ".pyx", ".pxd", ".c", ".h", ".toml", ".lock", ".o"}  # sources and leftovers that must not ship


def modules(part: str) -> list[str]:
    """Every module of a part, compiled ones included."""
    package = importlib.import_module(part)
    return [part, *(module.name for module in pkgutil.walk_packages(package.__path__, f"{part}."))]


def main(site: Path, checkout: Path) -> int:
    """Import everything, run the programs and the command; returns the exit status."""
    faults: list[str] = []
    for file in site.rglob("*"):
        ships = file.relative_to(site).parts[0] == "bench"  # peers' programs are built where they are measured
        if file.suffix in FOREIGN and ".dist-info" not in str(file) and not ships:
            faults.append(f"{file.relative_to(site)} must not ship")
        if "native/build" in str(file) or file.name.startswith("build_"):
            faults.append(f"{file.relative_to(site)} is a builder and must not ship")
    for top in site.iterdir():
        if top.name not in PARTS and not top.name.endswith(".dist-info") and top.name != "bin":
            faults.append(f"{top.name} at the top of the wheel")
    count = 0
    for part in PARTS:
        for name in modules(part):
            if name.endswith("__main__"):
                continue
            module = importlib.import_module(name)
            count += 1
            origin = Path(getattr(module, "__file__", None) or module.__path__[0]).resolve()
            if not origin.is_relative_to(site) or origin.is_relative_to(checkout):
                faults.append(f"{name} came from {origin}")
    cache, catalog = (importlib.import_module(f"bench.peers.{name}") for name in ("cache", "catalog"))
    for spec in catalog.CATALOG:
        cache.source_digest(spec)  # reads every source that a peer's program is built from
    programs = site / "native" / "bin"
    headers = subprocess.run(["readelf", "-lW", programs / "zos-init"], capture_output=True, text=True, check=True)
    if "INTERP" in headers.stdout or "DYNAMIC" in headers.stdout:
        faults.append("zos-init is not static")
    for program in ("zos-init", "zos-io"):
        answer = subprocess.run([programs / program, "--help"], capture_output=True, text=True, check=False, timeout=10)
        if answer.returncode < 0 or not (answer.stdout + answer.stderr):
            faults.append(f"{program} --help: status {answer.returncode}")
    command = [
        sys.executable,
        "-P",
        "-c",
        "import sys; from zos_core.base.verbs import main; sys.exit(main(['--help']))",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if answer.returncode != 0 or "flist" not in answer.stdout:
        faults.append(f"zos --help: status {answer.returncode}: {answer.stdout}{answer.stderr}")
    for fault in faults:
        print(f"wheel: {fault}", file=sys.stderr)
    if not faults:
        print(f"wheel: {count} modules and 2 programs work from {site}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
