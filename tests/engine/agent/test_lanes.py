"""The agent's part in limits: whose turn it is, and who is woken for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from prefork.engine.agent import lanes as lanes_module
from prefork.engine.agent.lanes import Lanes
from prefork.engine.agent.waking import Waker
from prefork.engine.app import App
from prefork.engine.limits.board import RateBoard
from prefork.engine.limits.lookout import Lookout
from prefork.engine.scoreboard import C_STATE, S_HIGH_SLOT, S_PAUSED, S_PID, W_WAKE, Scoreboard, State
from prefork.engine.storage import open_storage
from support.apps import memory_app

QUEUES = ["celery", "orders"]


class Scene:
    """An agent's lanes, and one child that idles; no time passes, so that no token comes meanwhile."""

    def __init__(self, app: App) -> None:
        self.now_ns = 10**12
        self.scoreboard = Scoreboard()
        self.board = RateBoard(self.scoreboard, self.clock_ns)
        self.scoreboard.words[S_HIGH_SLOT] = 1
        self.child = self.scoreboard.slot(0).words
        self.child[S_PID] = os.getpid()
        self.child[C_STATE] = State.IDLE
        app.finalize()
        tasks, log = list(app.tasks.values()), logging.getLogger("prefork.agent")
        lookout = Lookout(self.board, open_storage(app), tasks, app.conf.resolve(), QUEUES, log)
        self.lanes = Lanes(self.scoreboard, lookout, Waker(self.scoreboard, app.client.transport, QUEUES))

    def clock_ns(self) -> int:
        return self.now_ns

    def woken(self) -> bool:
        """Whether the child was woken since this was asked last."""
        changed, self.child[W_WAKE] = bool(self.child[W_WAKE]), 0
        return changed


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with memory_app() as app:

        @app.task(name="limited", rate_limit="1/h")
        def limited() -> None:
            """Nothing."""

        made = Scene(app)
        monkeypatch.setattr(lanes_module, "mono_ns", made.clock_ns)
        yield made


def test_a_child_is_woken_for_what_waits_and_may_run(scene: Scene) -> None:
    assert scene.lanes.turn() == 1.0
    assert not scene.woken()
    bucket = scene.board.bucket("limited")
    assert bucket is not None
    bucket.park()
    assert scene.lanes.turn() == pytest.approx(0.005)
    assert scene.woken()
    scene.child[C_STATE] = State.WORKING
    assert scene.lanes.turn() == pytest.approx(0.05)
    assert not scene.woken()


def test_nobody_is_woken_before_a_token_is_there(scene: Scene) -> None:
    bucket = scene.board.bucket("limited")
    assert bucket is not None
    bucket.park()
    bucket.take(1, scene.now_ns)
    assert scene.lanes.turn() == 1.0
    bucket.set_shape(5.0, 1.0)
    assert bucket.take(1, scene.now_ns) == 0
    assert 0 < scene.lanes.turn() <= 0.2
    assert not scene.woken()
    scene.board.set_rate("limited", 0)
    assert scene.lanes.turn() == 1.0


def test_nobody_is_woken_in_a_worker_that_rests(scene: Scene) -> None:
    bucket = scene.board.bucket("limited")
    assert bucket is not None
    bucket.park()
    scene.scoreboard.words[S_PAUSED] = 1
    assert scene.lanes.turn() == 1.0
    assert not scene.woken()


def test_the_bell_is_heard_once(scene: Scene) -> None:
    scene.board.tell_agent()
    assert scene.lanes.fileno() == scene.scoreboard.agent_bell_fd
    scene.lanes.hear()
    scene.lanes.hear()
