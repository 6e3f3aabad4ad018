"""The fixture ``fleet``: the project of a test module below a worker, on each broker."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from support.semantics import BROKERS, GAPS, SERVERS, Fleet, fleet_of

LOG_LINES = 150


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fleet" not in metafunc.fixturenames:
        return
    needed = {name for mark in metafunc.definition.iter_markers("needs") for name in mark.args}
    chosen = [name for name in BROKERS if not needed & GAPS[name]]
    parameters = [
        pytest.param(name, id=name, marks=pytest.mark.on_server if name in SERVERS else ()) for name in chosen
    ]
    metafunc.parametrize("fleet", parameters, indirect=True, scope="module")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make soaks of what is one on its broker, before anything is chosen by its marks."""
    for item in items:
        callspec = getattr(item, "callspec", None)  # only of tests with parameters
        broker = None if callspec is None else callspec.params.get("fleet")
        if any(broker in mark.args for mark in item.iter_markers("soak_on")):
            item.add_marker(pytest.mark.soak)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the workers logged below a failure: their directory is gone when somebody reads of it."""
    report = yield
    fleet = getattr(item, "funcargs", {}).get("fleet")
    if report.failed and isinstance(fleet, Fleet):
        lines = fleet.log.splitlines()[-LOG_LINES:]
        report.sections.append((f"the last {len(lines)} lines of the workers' log", "\n".join(lines)))
    return report


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The project that the test module describes, with its worker."""
    module = request.module
    root = tmp_path_factory.mktemp("fleet")
    name = f"{module.__name__.rpartition('.')[2].removeprefix('test_')}_project"
    with fleet_of(request.param, name, module.SOURCE, root, getattr(module, "WORKER", None)) as made:
        yield made
