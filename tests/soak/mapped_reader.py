"""Read files of a running container through mmap, in a process of its own, since a failed read is a SIGBUS there.

`python mapped_reader.py DIRECTORY SEED`: prints `<sha256>  /data/<name>` for each file, in an order of its own.
"""

from __future__ import annotations

import hashlib
import mmap
import random
import sys
from pathlib import Path


def main() -> None:
    """Map each file, touch its pages from its end to its beginning, then hash the whole."""
    directory, order = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    files = sorted(directory.iterdir())
    order.shuffle(files)
    for path in files:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            for at in range(len(mapped) - 1, -1, -4096 * 16):
                mapped[at]
            digest = hashlib.sha256(mapped).hexdigest()
        print(f"{digest}  /data/{path.name}", flush=True)


main()
