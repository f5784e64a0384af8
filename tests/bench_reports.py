"""A run that never was, for the tests of what is made of runs."""

from __future__ import annotations

from bench.results import Group, Machine, Noise, PeerSeen, Report, Row

__all__ = ["group", "report"]

MACHINE = Machine(
    kernel="6.18",
    architecture="x86_64",
    cpu="a cpu",
    cpus=2,
    features=["avx2", "gfni"],
    memory_mib=4096,
    file_system="ext4",
    virtual="kvm",
    versions={"zos": "0.1.0", "python": "3.11.2"},
    paths={"erasure": "gfni-512"},
)


def group(key: str = "erasure.encode", *, ours: float = 40.0, theirs: float = 30.0, roof: float = 56.0) -> Group:
    """Ours, a peer, one that is not here, and a roofline, in GB/s; steady to 2 %."""

    def around(value: float) -> list[float]:
        return [value * factor for factor in (0.99, 1.0, 1.01, 1.0, 0.995, 1.005, 1.0)]

    return Group(
        key=key,
        title="Encode <16+4> & more",
        suite="erasure",
        rows=[
            Row(name="zos", unit="GB/s", values=around(ours)),
            Row(name="zos, bare", unit="GB/s", values=around(ours * 1.1), note="without Python"),
            Row(name="ISA-L", unit="GB/s", values=around(theirs), role="peer"),
            Row(name="zfec", unit="GB/s", missing="missing: not installed", role="peer"),
            Row(name="XOR", unit="GB/s", values=around(roof), role="roof"),
        ],
        baselines=["ISA-L", "zfec", "XOR"],
        direction="rate",
        notes=["hot"],
        noise=Noise(load=(0.25, 0.5), busy=0.0625, stolen=0.0, jitter=0.03125),
        seconds=1.5,
    )


def report(*groups: Group) -> Report:
    """A run of these groups, or of one."""
    return Report(
        begun="2026-01-02 03:04:05",
        seconds=12.5,
        arguments=["bench", "run", "erasure", "--peers"],
        machine=MACHINE,
        image="",
        groups=list(groups) or [group()],
        peers=[
            PeerSeen(name="isa-l", version="2.31.1-1.1"),
            PeerSeen(name="zfec", missing="not installed"),
        ],
        skipped=["group flist builds and mounts images, which needs root"],
    )
