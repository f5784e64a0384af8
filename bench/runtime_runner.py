"""Runs and times commands in a mount namespace of its own; started by `bench.runtimes`, needs the standard library.

The first argument is a directory. Requests are lines of JSON on stdin, answers lines on stdout:

    {"op": "prepare", "mounts": [[ARG, ...], ...]}   mount(8) with each list of arguments
    {"op": "time", "argv": [...], "dir": PATH}       run to the end: {"ns", "cpu_ns", "status", "stderr"}
    {"op": "keep", "argv": [...]}                    a command of which the end is run when stdin closes

Its mounts, and what was kept, go when stdin closes or when it is told SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

SECONDS_MAX = 60
STDERR_MAX = 2000


def timed(argv: list[str], directory: str, errors: int) -> dict[str, Any]:
    """From before posix_spawn until the exit has been waited for; stderr to a file, so that nobody has to read it."""
    os.ftruncate(errors, 0)
    os.lseek(errors, 0, os.SEEK_SET)
    os.chdir(directory)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, errors, 2),
    ]
    signal.alarm(SECONDS_MAX)
    begin_ns = time.perf_counter_ns()
    pid = os.posix_spawnp(argv[0], argv, dict(os.environ), file_actions=actions)
    try:
        _, status, used = os.wait4(pid, 0)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        _, status, used = os.wait4(pid, 0)
    spent_ns = time.perf_counter_ns() - begin_ns
    signal.alarm(0)
    text = os.pread(errors, STDERR_MAX, 0).decode(errors="replace")
    cpu_ns = int((used.ru_utime + used.ru_stime) * 1e9)
    return {"ns": spent_ns, "cpu_ns": cpu_ns, "status": os.waitstatus_to_exitcode(status), "stderr": text}


def too_long(_number: int, _frame: object) -> None:
    raise TimeoutError


def main() -> int:
    """Serve until stdin closes."""
    directory = sys.argv[1]
    errors = os.open(f"{directory}/stderr", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    kept: list[list[str]] = []
    signal.signal(signal.SIGALRM, too_long)
    signal.signal(signal.SIGTERM, lambda *_: os.close(0))
    try:
        for line in sys.stdin:
            request = json.loads(line)
            answer: dict[str, Any] = {}
            if request["op"] == "time":
                answer = timed(request["argv"], request["dir"], errors)
            elif request["op"] == "keep":
                kept.append(request["argv"])
            else:
                for mount in request["mounts"]:
                    subprocess.run(["mount", *mount], check=True, stdout=subprocess.DEVNULL)
            print(json.dumps(answer), flush=True)
    except OSError:  # stdin was closed by SIGTERM
        pass
    finally:
        for argv in kept:
            subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
