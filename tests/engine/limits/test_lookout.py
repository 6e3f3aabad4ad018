"""What waits in lanes is found, whoever put it there, and whatever the code has become since."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.limits import lookout as lookout_module
from prefork.engine.limits import strays as strays_module
from prefork.engine.limits.board import RateBoard, TableBusy
from prefork.engine.limits.lanes import lane_of
from prefork.engine.limits.lookout import LEFT_OVER_S, Lookout
from prefork.engine.scoreboard import Scoreboard
from prefork.engine.storage import open_storage
from prefork.transports.base import Transport
from support.apps import memory_app
from support.set_clock import SetClock

GRACE_S = 300.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    made = SetClock()
    monkeypatch.setattr(lookout_module, "mono_s", made)
    return made


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app(task_unknown_grace=GRACE_S) as made:
        yield made


@pytest.fixture
def transport(app: App) -> Transport:
    return app.client.transport


@pytest.fixture
def board() -> RateBoard:
    return RateBoard(Scoreboard())


@pytest.fixture
def look(app: App, board: RateBoard) -> Callable[[], Lookout]:
    """Makes what a worker with the tasks that there are now would look with."""

    storage = open_storage(app)

    def make() -> Lookout:
        tasks: list[Any] = list(app.tasks.values())
        queues = ["celery", "orders"]
        log = logging.getLogger("lookout")
        return Lookout(board, storage, tasks, app.conf.resolve(), queues, log)

    return make


def test_what_another_worker_parks_after_the_start_is_found(
    app: App, board: RateBoard, look: Callable[[], Lookout], clock: SetClock
) -> None:
    @app.task(name="shop.pay")
    def pay() -> None:
        """Not limited any more."""

    looking = look()
    looking.look()
    # An older worker, which knows the limit, parks this and ends.
    app.send_task("shop.pay", queue=lane_of("orders", "shop.pay"))
    looking.look()
    assert board.bucket("shop.pay") is None
    clock.now_s += LEFT_OVER_S
    looking.look()
    bucket = board.bucket("shop.pay")
    assert bucket is not None and bucket.holds and bucket.due_ns(0) == 0


def test_what_cannot_be_entered_now_is_entered_at_the_next_look(
    app: App,
    board: RateBoard,
    look: Callable[[], Lookout],
    clock: SetClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @app.task(name="shop.pay")
    def pay() -> None:
        """Not limited any more."""

    app.send_task("shop.pay", queue=lane_of("orders", "shop.pay"))
    looking = look()

    def busy(name: str) -> None:
        raise TableBusy(name)

    with monkeypatch.context() as patch:
        patch.setattr(board, "enter", busy)
        looking.look()
    assert "'shop.pay' cannot be entered" in caplog.text
    assert board.bucket("shop.pay") is None
    looking.look()
    assert board.bucket("shop.pay") is not None


def test_what_waits_for_a_task_that_is_gone_returns_to_its_queue(
    app: App,
    transport: Transport,
    look: Callable[[], Lookout],
    clock: SetClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lane = lane_of("orders", "shop.renamed")
    for _ in range(3):
        app.send_task("shop.renamed", queue=lane)
    looking = look()
    for _ in range(int(GRACE_S / LEFT_OVER_S)):
        looking.look()
        assert transport.ready([lane]) == 3
        clock.now_s += LEFT_OVER_S
    looking.look()
    assert (transport.ready([lane]), transport.ready(["orders"])) == (0, 3)
    assert "3 messages go back from orders.limited.shop.renamed" in caplog.text


def test_a_lane_from_which_others_take_is_left_to_them(
    app: App, transport: Transport, look: Callable[[], Lookout], clock: SetClock
) -> None:
    lane = lane_of("celery", "shop.elsewhere")
    for _ in range(20):
        app.send_task("shop.elsewhere", queue=lane)
    knowing = transport.consumer([lane], "elsewhere.1.1", "elsewhere")
    looking = look()
    for left in range(20, 0, -1):
        looking.look()
        assert transport.ready([lane]) == left
        knowing.reserve(1)
        clock.now_s += LEFT_OVER_S
    assert transport.ready(["celery"]) == 0


def test_a_long_lane_is_handed_back_in_several_looks(
    app: App,
    transport: Transport,
    look: Callable[[], Lookout],
    clock: SetClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lane = lane_of("celery", "shop.renamed")
    for _ in range(250):
        app.send_task("shop.renamed", queue=lane)
    monkeypatch.setattr(strays_module, "_MOVES_S", 1e-6)
    looking = look()
    looking.look()
    clock.now_s += GRACE_S
    left = []
    while not left or left[-1]:
        looking.look()
        clock.now_s += LEFT_OVER_S
        left.append(transport.ready([lane]))
        if len(left) == 1:
            monkeypatch.setattr(strays_module, "_MOVES_S", 60.0)
    assert left in ([250, 0], [150, 0])
    assert transport.ready(["celery"]) == 250


def test_many_lanes_are_looked_for_in_several_looks(
    app: App,
    board: RateBoard,
    look: Callable[[], Lookout],
    clock: SetClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"shop.task{number}" for number in range(10)]
    for name in names:
        app.task(name=name)(lambda: None)
        app.send_task(name, queue=lane_of("celery", name))
    looking = look()
    ready = looking._ready

    def slowly(lanes: Any) -> int:
        clock.now_s += 0.4
        return ready(lanes)

    monkeypatch.setattr(looking, "_ready", slowly)
    found = []
    for _ in range(4):
        looking._look_for_left_over()
        found.append(sum(board.bucket(name) is not None for name in names))
    assert found == [3, 6, 9, 10]
