"""`make demo`: the main job on real input, as a user would do it, with the `zos` command alone.

A Debian root file system becomes an flist, a hub serves it over HTTP on loopback, a node that begins with empty state
runs two containers from it while it is fetched, and then everything is taken away again but the store (a cache).
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.e2e.machine import snapshot
from zos_core.base.paths import account

__all__ = ["Demo", "DemoFailed", "main"]

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "demo"
START_TIMEOUT_S = 120.0
DOCTOR_TIMEOUT_S = 120.0
# The exit status of `zos doctor`, and then ours, where containers cannot run.
CANNOT = 77
PAGE_TIMEOUT_S = 60.0
STARTED_SHARE_MAX = 1 / 10
ENDED_SHARE_MAX = 1 / 3

NUMPY = """
import os, sys
print("started", flush=True)
import numpy
print(f"numpy {numpy.__version__} on Python {sys.version.split()[0]}: mean of 1..9 is {numpy.arange(1, 10).mean()}")
descriptors = sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}"))
print(f"pid {os.getpid()}, uid {os.getuid()}, host name {os.uname().nodename}, descriptors {descriptors}")
print("processes that it sees:", sorted(int(p) for p in os.listdir("/proc") if p.isdecimal()))
print("links that it sees:", sorted(os.listdir("/sys/class/net")))
print("devices that it sees:", " ".join(sorted(os.listdir("/dev"))))
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print("capabilities", status["CapEff"], "no_new_privs", status["NoNewPrivs"], "seccomp mode", status["Seccomp"])
"""

DJANGO = """
import sys, django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path
settings.configure(DEBUG=False, ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="of this demo alone")
urlpatterns = [path("", lambda request: HttpResponse(f"It runs: Django {django.get_version()} in a zos container."))]
execute_from_command_line([sys.argv[0], "runserver", "--noreload", "--nothreading", "0.0.0.0:8000"])
"""


class DemoFailed(Exception):
    """A step of the demo did not do what it promises."""


class Interrupted(Exception):
    """Ctrl-C was pressed, and what ran then has ended."""


class Attention:
    """Hears Ctrl-C. Nothing is broken off: the command that runs is told, and the next step does not begin.

    So what takes everything away again is never interrupted itself, however often the key is pressed.
    """

    def __init__(self) -> None:
        self._heard = False
        self._running: list[subprocess.Popen[str]] = []

    def hear(self, _number: int, _frame: object) -> None:
        """A signal handler: tell whoever runs, each in a process group of its own."""
        self._heard = True
        for process in self._running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)

    def check(self) -> None:
        """Go no further once Ctrl-C was pressed.

        Raises:
            Interrupted: it was.
        """
        if self._heard:
            raise Interrupted

    @contextmanager
    def begin(self, command: list[str], *, stdout: int | None, deaf: bool = False) -> Iterator[subprocess.Popen[str]]:
        """Run a command while the block does; `deaf`: it is part of taking things away, and goes to its end.

        Raises:
            Interrupted: Ctrl-C was pressed before, or while it ran.
        """
        if not deaf:
            self.check()
        # Until it has a group of its own it is in the terminal's: what is deaf has the key blocked from its beginning.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT} if deaf else ())
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout, text=True, encoding="utf-8", process_group=0
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if not deaf:
            self._running.append(process)
        try:
            if self._heard and not deaf:  # it came before there was anybody to tell
                os.killpg(process.pid, signal.SIGINT)
            yield process
        except BaseException:
            if not deaf and process.poll() is None:
                process.kill()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
            process.wait()
            if not deaf:
                self._running.remove(process)
        if not deaf:
            self.check()


@dataclass(kw_only=True)
class Container:
    """What one container of the demo showed."""

    name: str
    provider: str
    provider_reason: str
    size_bytes: int
    sent_bytes: int
    requests: int
    first_output_s: float
    limits: list[str]
    output: list[str] = field(default_factory=list)


class Demo:
    """One run: everything it makes carries `instance`, everything it starts it ends."""

    def __init__(
        self, *, store: Path, tree: Path | None, provider: str | None, console: Console, attention: Attention
    ) -> None:
        self.attention = attention
        self.instance = f"demo-{secrets.token_hex(3)}"
        self.store = store
        self.tree = tree
        self.provider = provider
        self.console = console
        self.zos = [str(Path(sys.executable).parent / "zos")]

    def step(self, text: str) -> None:
        """Say what happens now, unless Ctrl-C was pressed."""
        self.attention.check()
        self._say(text)

    def _say(self, text: str) -> None:
        self.console.print(f"[bold]>[/bold] {text}")

    def refusal(self) -> str | None:
        """One line on why containers cannot run here, and what would help, by `zos doctor`; None where they can."""
        done = subprocess.run([*self.zos, "doctor", "--json"], capture_output=True, text=True, timeout=DOCTOR_TIMEOUT_S)
        if done.returncode == 0:
            return None
        if done.returncode != CANNOT:
            raise DemoFailed(f"zos doctor ended with {done.returncode}: {done.stderr}")
        report = json.loads(done.stdout)
        help_ = f"; this would help: {report['command']}" if report["command"] else ""
        return f"containers cannot run here: {report['problem']}{help_} (zos doctor says more)"

    def run(self) -> list[Container]:
        """The whole demo; returns what the two containers showed."""
        with ExitStack() as stack:
            image_bytes = self._image()
            hub = stack.enter_context(self._hub())
            stack.enter_context(self._node())
            python = self._python(hub, image_bytes)
            django = self._django(hub)
            for container in (python, django):
                container.size_bytes = image_bytes
            return [python, django]

    # --- image ---------------------------------------------------------------------------------------------------

    def _image(self) -> int:
        """Build the image unless the store has it; returns the bytes that a whole pull would send."""
        manifest = self.store / "name" / account().name / IMAGE / "latest"
        if not manifest.exists():
            with self._tree() as tree:
                self.step(f"building the flist from {tree}")
                self._zos("flist", "build", str(tree), "--name", IMAGE, "--store", str(self.store), show=True)
        else:
            self.step(f"the image is in {self.store} already (make clean deletes it)")
        return sum(
            path.stat().st_size
            for kind in ("pack", "meta", "index", "locator", "manifest")
            for path in (self.store / kind).rglob("*")
            if path.is_file()
        )

    @contextmanager
    def _tree(self) -> Iterator[Path]:
        if self.tree is not None:
            yield self.tree
            return
        directory = Path(tempfile.mkdtemp(prefix="zos-demo-tree-", dir="/var/tmp"))
        try:
            self.step(f"making a Debian root file system in {directory} (about half a minute)")
            tree = directory / "root"
            with self.attention.begin([str(ROOT / ".ci/demo-tree"), str(tree)], stdout=sys.stderr.fileno()) as making:
                making.wait()
            if making.returncode != 0:
                raise DemoFailed(f"making the root file system ended with {making.returncode}")
            yield tree
        finally:
            shutil.rmtree(directory)

    # --- hub and node --------------------------------------------------------------------------------------------

    @contextmanager
    def _hub(self) -> Iterator[str]:
        self.step("serving the store over HTTP on loopback")
        command = [*self.zos, "hub", "serve", "--json", "--store", str(self.store), "--listen", "127.0.0.1:0"]
        with self.attention.begin(command, stdout=subprocess.PIPE, deaf=True) as process:
            try:
                assert process.stdout is not None
                ready = json.loads(process.stdout.readline() or "{}")
                if "url" not in ready:
                    raise DemoFailed("the hub did not start")
                yield ready["url"]
            finally:
                process.send_signal(signal.SIGTERM)

    @contextmanager
    def _node(self) -> Iterator[None]:
        self.step(f"starting the node, instance {self.instance}, with empty state")
        try:
            self._zos("up")
            yield
        finally:
            self._say("taking everything away again")
            self._zos("down", "--purge", deaf=True)

    # --- containers ----------------------------------------------------------------------------------------------

    def _python(self, hub: str, image_bytes: int) -> Container:
        self.step("running python3, which imports numpy, while its image is fetched")
        before = self._sent(hub)
        begun_s = time.monotonic()
        command = ["run", "--name", "python", "--memory", "256M", "--cpus", "0.5", *self._image_arguments(hub)]
        with self.attention.begin(
            self._command(*command, "--", "python3", "-c", NUMPY), stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            first = process.stdout.readline().strip()
            first_output_s = time.monotonic() - begun_s
            at_start = self._sent(hub)
            output = [line.rstrip("\n") for line in process.stdout]
        if first != "started":
            raise DemoFailed(f"the python container said {first!r}, not 'started'")
        if process.returncode != 0:
            raise DemoFailed(f"the python container ended with {process.returncode}")
        state = json.loads(self._zos("inspect", "python", "--json"))
        self._zos("rm", "python")
        after = self._sent(hub)
        for line in output:
            self.console.print(f"  [dim]{line}[/dim]")
        for moment, sent, share in (
            ("started", at_start, STARTED_SHARE_MAX),
            ("ended", after, ENDED_SHARE_MAX),
        ):
            done = (sent["bytes_sent"] - before["bytes_sent"]) / image_bytes
            self.console.print(f"  it {moment} when {done:.1%} of the image had been sent")
            if done >= share:
                raise DemoFailed(f"it {moment} after {done:.1%} of the image, not before {share:.0%}")
        return self._container(state, before, after, first_output_s, output)

    def _django(self, hub: str) -> Container:
        self.step("running a Django page and asking for it through a published port")
        before = self._sent(hub)
        begun_s = time.monotonic()
        self._zos(
            "run",
            "-d",
            "--name",
            "django",
            "-p",
            "127.0.0.1:0:8000",
            *self._image_arguments(hub),
            "--",
            "python3",
            "-c",
            DJANGO,
        )
        state = json.loads(self._zos("inspect", "django", "--json"))
        address = state["network"]["ports"][0]["listen"]
        page = self._page(f"http://{address}/")
        first_output_s = time.monotonic() - begun_s
        self.console.print(f"  http://{address}/ answers: [dim]{page}[/dim]")
        if "It runs: Django" not in page:
            raise DemoFailed(f"the page says {page!r}")
        state = json.loads(self._zos("inspect", "django", "--json"))
        self._zos("stop", "--grace", "2", "django")
        self._zos("rm", "django")
        return self._container(state, before, self._sent(hub), first_output_s, [page])

    def _page(self, url: str) -> str:
        """The page, as soon as the server inside answers: forward accepts before it does."""
        deadline_s = time.monotonic() + PAGE_TIMEOUT_S
        pause = threading.Event()
        while True:
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    return str(answer.read().decode())
            except OSError as error:
                self.attention.check()
                if time.monotonic() > deadline_s:
                    raise DemoFailed(f"{url} did not answer within {PAGE_TIMEOUT_S:.0f} s: {error}") from error
                pause.wait(0.1)

    def _container(
        self,
        state: dict[str, Any],
        before: dict[str, int],
        after: dict[str, int],
        first_output_s: float,
        output: list[str],
    ) -> Container:
        return Container(
            name=state["name"],
            provider=state["image"]["provider"],
            provider_reason=state["image"]["reason"],
            size_bytes=state["image"]["size_bytes"],
            sent_bytes=after["bytes_sent"] - before["bytes_sent"],
            requests=after["requests"] - before["requests"],
            first_output_s=first_output_s,
            limits=[
                f"{limit['name']} {limit['enforced']}"
                if limit["enforced"] is not None
                else f"{limit['name']} {limit['requested']} unenforced: {limit['reason']}"
                for limit in state["limits"]
            ],
            output=output,
        )

    def _image_arguments(self, hub: str) -> list[str]:
        forced = [] if self.provider is None else ["--provider", self.provider]
        return [*forced, "--store", hub, IMAGE]

    def _sent(self, hub: str) -> dict[str, int]:
        with urllib.request.urlopen(f"{hub}/v1/statistics", timeout=10) as answer:
            counted: dict[str, int] = json.loads(answer.read())
        return counted

    # --- the command ---------------------------------------------------------------------------------------------

    def _command(self, *arguments: str) -> list[str]:
        node_verbs = ("up", "down", "run", "ps", "inspect", "logs", "exec", "stop", "rm")
        if arguments[0] in node_verbs:
            return [*self.zos, arguments[0], "--instance", self.instance, *arguments[1:]]
        return [*self.zos, *arguments]

    def _zos(self, *arguments: str, show: bool = False, deaf: bool = False) -> str:
        """What a verb printed; with `show` it goes to the terminal instead."""
        with self.attention.begin(
            self._command(*arguments), stdout=None if show else subprocess.PIPE, deaf=deaf
        ) as process:
            printed = "" if process.stdout is None else process.stdout.read()
            process.wait()
        if process.returncode != 0:
            raise DemoFailed(f"zos {' '.join(arguments[:2])} ended with {process.returncode}")
        return printed


def report(containers: list[Container]) -> Table:
    """The table at the end."""
    table = Table(title="What ran, and how", show_lines=True)
    table.add_column("")
    for container in containers:
        table.add_column(container.name)

    def row(label: str, values: Iterator[str]) -> None:
        table.add_row(label, *values)

    row("image mounted by", (f"{c.provider}\n({c.provider_reason})" for c in containers))
    row("image, MB to pull whole", (f"{c.size_bytes / 1e6:.1f}" for c in containers))
    row("fetched, MB", (f"{c.sent_bytes / 1e6:.1f} ({c.sent_bytes / c.size_bytes:.1%})" for c in containers))
    row("requests", (str(c.requests) for c in containers))
    row("time to first output, s", (f"{c.first_output_s:.2f}" for c in containers))
    row("limits", ("\n".join(c.limits) or "none asked for" for c in containers))
    return table


def main(argv: list[str] | None = None) -> int:
    """Run the demo; 0 when everything it promises was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="default: a directory in the user's cache")
    parser.add_argument("--tree", type=Path, help="use this tree instead of a new Debian root")
    parser.add_argument("--provider", choices=["file", "loop", "full", "extract"])
    parser.add_argument("--alone", action="store_true", help="nothing else runs here: whatever changed counts")
    arguments = parser.parse_args(argv)
    console = Console(stderr=False)
    if os.geteuid() != 0:
        console.print("make demo needs root for mounts and namespaces; run it with sudo at hand, or as root")
        return 1
    store = arguments.store or account().home / ".cache/zos/demo-store"
    attention = Attention()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, attention.hear)
    demo = Demo(store=store, tree=arguments.tree, provider=arguments.provider, console=console, attention=attention)
    before = snapshot()
    status = 0
    try:
        reason = demo.refusal()
        if reason is not None:
            console.print(reason, soft_wrap=True)
            return CANNOT
        console.print(report(demo.run()))
    except DemoFailed as failure:
        console.print(f"[red]the demo failed: {failure}[/red]")
        status = 1
    except Interrupted:
        console.print("interrupted")
        status = 130
    left = before.difference(snapshot(), instance=demo.instance, alone=arguments.alone)
    if left:
        console.print("[red]left behind, or changed by others meanwhile:[/red]")
        for line in left:
            console.print(f"  {line}")
        return status or 1
    console.print(f"Nothing is left of it but the image in {store}; make clean deletes it.")
    return status


if __name__ == "__main__":
    sys.exit(main())
