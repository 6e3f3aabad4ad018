"""What every test may use."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

from prefork.engine.shared import shared_tasks
from support.servers import own_processes
from support.waiting import eventually


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--conformance-url",
        metavar="URL",
        help="run the conformance suites against the broker at this URL instead of the built-in ones",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Examples are timed by the clock on the wall, so one during which the machine stands still for a moment
    # would fail, as "flaky". What really hangs ends with the time-out of every test.
    settings.register_profile(
        "unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("unhurried")
    config.addinivalue_line("markers", "needs(*capabilities): applies to implementations that have these")
    config.addinivalue_line("markers", "result_stores: applies to result stores without a broker as well")


@pytest.fixture(autouse=True, scope="module")
def shared_tasks_of_the_module_alone() -> Iterator[None]:
    """Forget the tasks that a module has shared with every app, those of the modules after it as well."""
    before = dict(shared_tasks._makers)
    yield
    shared_tasks._makers.clear()
    shared_tasks._makers.update(before)


@pytest.fixture
def broker_root(tmp_path: Path) -> Path:
    """A private directory for a filesystem broker."""
    root = tmp_path / "broker"
    root.mkdir(mode=0o700)
    return root


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail when the test leaves a process below this one, or a thread, behind."""
    before = own_processes()
    threads_before = set(threading.enumerate())
    yield
    eventually(
        lambda: not [thread for thread in threading.enumerate() if thread not in threads_before],
        deadline_s=5.0,
    )
    # Grandchildren as well: a worker of the whole module has what a test made it start.
    eventually(lambda: not own_processes() - before, deadline_s=5.0)
