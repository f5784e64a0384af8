"""A shell in which commands are typed, one after the other, and what is printed there."""

from __future__ import annotations

import os
import queue
import secrets
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.page import Differs, matches

__all__ = ["Terminal"]

# Of one command. Slow machines fetch and build slowly; a reader would have given up.
STEP_TIMEOUT_S = 120.0
END_TIMEOUT_S = 10.0


class Terminal:
    """One shell, and what is printed in it: by its commands, on stdout and stderr, in the order in which it comes."""

    def __init__(self, name: str, *, cwd: Path, env: dict[str, str]) -> None:
        self.name = name
        self._mark = secrets.token_hex(8)
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            text=True,
            encoding="utf-8",
            errors="replace",
            process_group=0,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._printed: list[str] = []
        self._status: int | None = None
        self._reader = threading.Thread(target=self._read, name=f"terminal {name}", daemon=True)
        self._reader.start()
        # Ctrl-C ends the command and not its shell.
        self._send("trap : INT")

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def type(self, command: str) -> None:
        """Begin a command; the one before has ended."""
        self._printed, self._status = [], None
        # What is printed without a newline at its end must not hide the mark.
        self._send(f"eval {shlex.quote(command)} </dev/null; printf '\\n%s %s\\n' {self._mark} $?")

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.killpg(self._process.pid, signal.SIGINT)

    def wait_end(self) -> tuple[int, list[str]]:
        """Its status and what it has printed, when it has ended.

        Raises:
            Differs: it does not end, or its shell has.
        """
        deadline_s = time.monotonic() + STEP_TIMEOUT_S
        while self._status is None:
            self._take(deadline_s)
        printed = self._printed
        if printed and printed[-1] == "":  # the newline before the mark
            printed = printed[:-1]
        return self._status, printed

    def wait_printed(self, expected: Sequence[str]) -> list[str]:
        """What it has printed, as soon as that is what the page says.

        Raises:
            Differs: it ended, or took too long.
        """
        deadline_s = time.monotonic() + STEP_TIMEOUT_S
        while not matches(expected, self._printed):
            self._take(deadline_s)
            if self._status is not None:
                raise Differs(f"it ended with {self._status} after it had printed\n" + "\n".join(self._printed))
        printed, self._printed = self._printed, []
        return printed

    def _take(self, deadline_s: float) -> None:
        try:
            line = self._lines.get(timeout=max(deadline_s - time.monotonic(), 0))
        except queue.Empty:
            raise Differs(f"nothing more for {STEP_TIMEOUT_S:.0f} s after\n" + "\n".join(self._printed)) from None
        if line is None:
            raise Differs("its shell has ended")
        if line.startswith(self._mark):
            self._status = int(line.split()[1])
        else:
            self._printed.append(line)

    def close(self) -> None:
        """End the shell and whatever it still runs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.stdin.close()
            try:
                self._process.wait(timeout=END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        else:
            self._process.stdin.close()
        self._reader.join(END_TIMEOUT_S)
        self._process.stdout.close()
