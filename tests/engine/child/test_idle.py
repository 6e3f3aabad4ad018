"""How a child waits: for the agent, or on the connection that messages are pushed to."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from prefork.engine.child.idle import AgentWakes, ConnectionWakes, idle_of
from prefork.engine.linux import Linux
from prefork.engine.process_link import ProcessLink
from prefork.engine.scoreboard import Scoreboard, Slot
from support.one_child import link_of, unlink


class Connection:
    """As much of a consumer as counts here."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self.fd


@pytest.fixture
def link() -> Iterator[ProcessLink]:
    made = link_of(Scoreboard())
    yield made
    unlink(made)


@pytest.fixture
def slot(link: ProcessLink) -> Slot:
    return link.scoreboard.slot(0)


@pytest.fixture
def connection() -> Iterator[Connection]:
    made = Connection()
    yield made
    os.close(made.fd)


def test_who_has_a_connection_of_its_own_sleeps_on_it(
    link: ProcessLink, slot: Slot, connection: Connection
) -> None:
    assert isinstance(idle_of(link, slot, connection), ConnectionWakes)  # type: ignore[arg-type]
    assert isinstance(idle_of(link, slot, object()), AgentWakes)  # type: ignore[arg-type]


def test_what_comes_ends_the_sleep_at_once(link: ProcessLink, slot: Slot, connection: Connection) -> None:
    idle = ConnectionWakes(link, slot, connection)
    token = idle.before_looking()
    timer = threading.Timer(0.03, lambda: os.eventfd_write(connection.fd, 1))
    started_mono_s = time.monotonic()
    timer.start()
    idle.wait(token)
    assert 0.02 < time.monotonic() - started_mono_s < 2.0
    idle.worked()
    timer.join()


@pytest.mark.parametrize("connected", [True, False])
def test_the_supervisor_is_heard_while_it_sleeps(
    link: ProcessLink, slot: Slot, connection: Connection, connected: bool
) -> None:
    real = connection.fd
    if not connected:
        connection.fd = -1
    idle = ConnectionWakes(link, slot, connection)
    token = idle.before_looking()
    futex = Linux().futex(link.scoreboard.buffer, slot.wake_address())
    timer = threading.Timer(0.03, futex.wake)
    timer.start()
    started_mono_s = time.monotonic()
    idle.wait(token)
    assert time.monotonic() - started_mono_s < 2.0
    timer.join()
    connection.fd = real


def test_what_changed_before_the_sleep_is_not_slept_over(
    link: ProcessLink, slot: Slot, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefork.engine.child.idle._GLANCE_MS", 5_000)
    idle = ConnectionWakes(link, slot, connection)
    token = idle.before_looking()
    Linux().futex(link.scoreboard.buffer, slot.wake_address()).wake()
    started_mono_s = time.monotonic()
    idle.wait(token)
    assert time.monotonic() - started_mono_s < 2.0


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("sleep", ["wait", "rest"])
@pytest.mark.parametrize("own", [True, False])
def test_another_thread_ends_the_sleep_with_a_nudge(
    link: ProcessLink, slot: Slot, connection: Connection, own: bool, sleep: str, early: bool
) -> None:
    idle = ConnectionWakes(link, slot, connection) if own else AgentWakes(link, slot)
    token = idle.before_looking()
    timer = threading.Timer(0.0 if early else 0.03, idle.nudge)
    timer.start()
    if early:
        timer.join()
    started_mono_s = time.monotonic()
    getattr(idle, sleep)(token)
    assert time.monotonic() - started_mono_s < 2.0
    timer.join()


def test_what_comes_does_not_end_a_rest(link: ProcessLink, slot: Slot, connection: Connection) -> None:
    idle = ConnectionWakes(link, slot, connection)
    os.eventfd_write(connection.fd, 1)
    token = idle.before_looking()
    timer = threading.Timer(0.1, idle.nudge)
    started_mono_s = time.monotonic()
    timer.start()
    idle.rest(token)
    assert time.monotonic() - started_mono_s > 0.08
    timer.join()
