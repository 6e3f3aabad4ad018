"""What a child has not started goes back while its running task overruns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.child.returner import Returner
from prefork.engine.process_link import ProcessLink
from prefork.engine.scoreboard import C_BATCH, C_HELD, C_OUTCOME_BYTES, S_MARK, Slot
from prefork.engine.settling import encode_outcome
from prefork.transports.base import Delivery, Outcome
from prefork.transports.errors import BrokerUnavailable
from support.faulty import Faulty
from support.one_child import OneChild, link_of, unlink
from support.waiting import eventually

BATCH = 5


class Overrun:
    """A child in the middle of the second of four messages, the first of which is finished."""

    def __init__(self, app: App, child: OneChild, link: ProcessLink) -> None:
        self.app = app
        self.child = child
        for n in range(4):
            app.send_task("t", (n,))
        self.held: list[Delivery] = child.parts.consumer.reserve(4)
        child.slot.write_tags([one.tag for one in self.held])
        child.words[C_BATCH] = BATCH
        child.words[C_HELD] = 4
        assert child.slot.append_outcome(encode_outcome(Outcome(self.held[0].tag)))
        self.returner = Returner(link, child.slot, child.parts)

    def mark(self, index: int, batch: int = BATCH) -> None:
        self.child.words[S_MARK] = batch << 16 | index

    def depth(self) -> tuple[int, int]:
        found = self.app.client.transport.depth("celery")
        return found.ready, found.in_work


@pytest.fixture
def overrun(app: App, child_of: Callable[..., OneChild]) -> Iterator[Overrun]:
    child = child_of(app)
    link = link_of(child.board)
    yield Overrun(app, child, link)
    unlink(link)


def test_the_finished_is_settled_and_the_unstarted_goes_back(overrun: Overrun) -> None:
    overrun.mark(2)
    assert overrun.returner.look() == 2
    assert overrun.depth() == (2, 1)
    assert overrun.child.parts.consumer.fetch(overrun.held[1].tag) is not None, "what runs stays"
    assert overrun.returner.look() == 0, "doing it twice does no harm"


@pytest.mark.parametrize(("index", "batch"), [(2, BATCH - 1), (2, BATCH + 1), (4, BATCH)])
def test_a_mark_that_concerns_nothing_held_is_left_alone(overrun: Overrun, index: int, batch: int) -> None:
    overrun.mark(index, batch)
    assert overrun.returner.look() == 0
    assert overrun.depth() == (0, 4)


def test_a_child_that_goes_on_meanwhile_is_left_alone(
    overrun: Overrun, monkeypatch: pytest.MonkeyPatch
) -> None:
    class GoesOn:
        """A slot whose child reserves its next batch while somebody reads it."""

        def __init__(self, slot: Slot) -> None:
            self._slot = slot

        def __getattr__(self, name: str) -> Any:
            return getattr(self._slot, name)

        def read_tags(self, first: int, end: int) -> list[bytes]:
            self._slot.words[C_HELD] = 0
            return self._slot.read_tags(first, end)

    overrun.mark(2)
    monkeypatch.setattr(overrun.returner, "_slot", GoesOn(overrun.child.slot))
    assert overrun.returner.look() == 0
    assert overrun.depth() == (0, 4)


def test_a_damaged_outcome_area_stops_nothing(overrun: Overrun, caplog: pytest.LogCaptureFixture) -> None:
    overrun.child.slot.append_outcome(b"\xc1 no outcome")
    overrun.mark(2)
    with caplog.at_level(logging.ERROR):
        assert overrun.returner.look() == 2
    assert "damaged" in caplog.text
    assert overrun.child.words[C_OUTCOME_BYTES] > 0


def test_the_thread_acts_when_it_is_woken_and_tries_again_when_it_failed(
    overrun: Overrun, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = Faulty(overrun.child.parts.consumer)
    overrun.child.parts.consumer = faulty  # type: ignore[assignment]
    faulty.fail("give_back", 1, lambda: BrokerUnavailable("away"))
    overrun.returner.start()
    overrun.mark(2)
    with caplog.at_level(logging.WARNING):
        overrun.returner._futex.wake()
        eventually(lambda: "waits for the running task" in caplog.text)
    overrun.returner._futex.wake()
    eventually(lambda: overrun.depth() == (2, 1))
    overrun.returner.stop()
