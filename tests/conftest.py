"""What all tests share: markers by folder, coroutine tests, and the skip of what needs root.

A test that is a coroutine function runs in an `asyncio.Runner` of its own on uvloop; `ZOS_TEST_LOOP=asyncio` takes
the stock loop, on which the suite must pass as well.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

HERE = Path(__file__).resolve().parent
FOLDERS = ("unit", "property", "spec", "integration", "guest", "e2e", "lint", "security", "fuzz")

try:
    import hypothesis
except ModuleNotFoundError:  # in a guest, where no test of properties runs
    pass
else:
    # No test is timed (speed is measured in bench/): an example may take as long as a busy machine makes it.
    hypothesis.settings.register_profile("zos", deadline=None)
    hypothesis.settings.load_profile("zos")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """The event loop that this run is made on."""
    return asyncio.new_event_loop if os.environ.get("ZOS_TEST_LOOP") == "asyncio" else uvloop.new_event_loop


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test to its end."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(pyfuncitem.obj(**arguments))
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by the folder they lie in, and skip what needs root with the reason printed."""
    for item in items:
        relative = item.path.relative_to(HERE) if item.path.is_relative_to(HERE) else Path()
        if relative.parts and relative.parts[0] in FOLDERS:
            item.add_marker(getattr(pytest.mark, relative.parts[0]))
        if item.get_closest_marker("root") is not None and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))


def pytest_report_header(config: pytest.Config) -> str:
    """The facts on which results of this suite depend."""
    release = os.uname().release
    return f"kernel {release}, uid {os.geteuid()}, loop {os.environ.get('ZOS_TEST_LOOP', 'uvloop')}"
