"""A peer's program while it runs: asked by lines, on the CPU that we are on (BENCH-PEER-1)."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from bench.errors import PeerFailed
from bench.peers.protocol import Answer, Hello, Work, parse_answer, parse_hello, prepare_line, run_line

__all__ = ["Process"]

HELLO_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 120.0
END_TIMEOUT_S = 5.0
LINE_BYTES_MAX = 65_536
ERRORS_BYTES_MAX = 4096


class Process:
    """One program. It inherits the CPU affinity of whoever starts it, so that both run pinned alike.

    Raises:
        PeerFailed: it does not start, or does not say what it is.
    """

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._name = os.path.basename(argv[0])
        self._buffer = b""
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **(environment or {})},
                process_group=0,  # Ctrl-C reaches us alone; we end it
            )
        except OSError as error:
            raise PeerFailed(
                f"{argv[0]}: {error.strerror}", hint="install it again: zos bench peers install"
            ) from error
        try:
            self.hello: Hello = parse_hello(self._line(HELLO_TIMEOUT_S))
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def prepare(self, work: Work, input_path: str) -> Answer:
        """Get ready: `digest` of the answer is the CRC-32 of what the work gives, where it gives bytes (BENCH-PEER-7).

        Raises:
            PeerFailed: the program said so, or broke off.
        """
        if work.name not in self.hello.works:
            return Answer({}, missing=f"{self.hello.peer} does not do {work.name}")
        return self._ask(prepare_line(work, input_path))

    def run(self, count: int) -> Answer:
        """Do the prepared work `count` times: `ns` of all of them together, `faults` (minor page faults).

        Raises:
            PeerFailed: as `prepare`.
        """
        return self._ask(run_line(count))

    def _ask(self, line: str) -> Answer:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._gone() from error
        return parse_answer(self._line(ANSWER_TIMEOUT_S))

    def _line(self, timeout_s: float) -> str:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline_s = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    raise PeerFailed(f"{self._name} did not answer within {timeout_s:.0f} s")
                got = os.read(descriptor, LINE_BYTES_MAX)
                if not got:
                    raise self._gone()
                self._buffer += got
                if len(self._buffer) > LINE_BYTES_MAX:
                    raise PeerFailed(f"{self._name} answered more than {LINE_BYTES_MAX} bytes")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    def _gone(self) -> PeerFailed:
        process = self._process
        try:
            status = process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = None
        said = b""
        if process.stderr is not None and status is not None:
            said = process.stderr.read(ERRORS_BYTES_MAX) or b""
        text = (said.decode(errors="replace").strip().splitlines() or [""])[-1][-500:]
        return PeerFailed(f"{self._name} ended with {status}" + (f": {text}" if text else ""))

    def close(self) -> None:
        """Close its input, which ends it; kill it if it does not."""
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            try:
                process.stdin.close()
            except BrokenPipeError:  # it has ended; its status is waited for below
                process.stdin = None
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
