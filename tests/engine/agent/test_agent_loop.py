"""The agent's loop: requests of a supervisor, brokers that come and go, wakes of idle children."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from prefork.engine import orphans, signals
from prefork.engine.agent import failures as failures_module
from prefork.engine.agent.loop import Agent
from prefork.engine.agent.waking import Waker
from prefork.engine.app import App
from prefork.engine.process_link import channel_pair, receive, send
from prefork.engine.responder.worker import WorkerControl
from prefork.engine.revoked_board import RevokedBoard
from prefork.engine.revoked_keys import task_key
from prefork.engine.scoreboard import (
    A_ANNOUNCED,
    A_RENEWED_NS,
    A_WAITING,
    C_STATE,
    S_HIGH_SLOT,
    S_PID,
    W_WAKE,
    Scoreboard,
    State,
)
from prefork.engine.settling import Settler
from prefork.engine.storage import Storage
from prefork.transports.base import DeadLetter, Recovery
from prefork.transports.errors import BrokerUnavailable, TransportError
from support.apps import memory_app
from support.faulty import Faulty
from support.one_child import WORKER, link_of, loaded, unlink
from support.waiting import Background, eventually


class Left(BaseException):
    """The process has ended (`os._exit`)."""


class Stage:
    """An agent on a thread, and the supervisor's end of its channel."""

    def __init__(self, app: App) -> None:
        app.conf.result_backend = app.conf.broker_url
        self.app = app
        self.board = Scoreboard()
        self.link = link_of(self.board)
        self.ours, self.theirs = channel_pair()
        self.ours.settimeout(10)
        self.transport = Faulty(app.client.transport)
        settler = Settler(self.transport, app.client.results, together=True)  # type: ignore[arg-type]
        storage = Storage(self.transport, app.client.results, settler, app.client.table)  # type: ignore[arg-type]
        self.agent = Agent(self.link, loaded(app), self.theirs, storage, logging.getLogger("test.agent"))

    def hear(self) -> dict[str, Any]:
        message, _ = receive(self.ours)
        assert message is not None
        return message

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()
        unlink(self.link)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with memory_app() as app:
        made = Stage(app)
        yield made
        made.close()


@pytest.fixture
def cleared_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What an agent does about the children when its supervisor is gone."""
    done: list[str] = []

    def leave(code: int) -> None:
        raise Left

    monkeypatch.setattr(orphans, "clear_up_after", lambda pidfd, board: done.append("channel"))
    monkeypatch.setattr(os, "_exit", leave)
    return done


def test_an_agent_renews_the_lease_serves_and_leaves(stage: Stage) -> None:
    ready: list[str] = []

    def receiver(sender, **_):
        ready.append(sender)

    signals.worker_ready.connect(receiver, weak=False)
    try:
        running = Background(stage.agent.run)
        assert stage.hear() == {"op": "ready"}
        assert stage.board.words[A_RENEWED_NS] > 0
        send(stage.ours, {"op": "stop"})
        assert running.result() == 0
    finally:
        signals.worker_ready.disconnect(receiver)
    assert len(ready) == 1
    assert stage.app.client.transport.owners(WORKER) == []


@pytest.mark.parametrize("moment", ["before its lease", "before it listens"])
def test_what_is_revoked_while_the_agent_starts_is_known_before_it_is_ready(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    known: list[bool] = []
    heartbeat, listen, say = stage.transport.heartbeat, WorkerControl.start, stage.agent._say

    def revoke() -> None:
        if not known:
            stage.app.client.transport.revoke([task_key("id")], 600.0)  # type: ignore[attr-defined]
            known.append(False)

    def lease(*args: Any) -> None:
        if moment == "before its lease":
            revoke()
        heartbeat(*args)

    def start(control: WorkerControl) -> None:
        if moment == "before it listens":
            revoke()
        listen(control)

    def said(message: dict[str, Any]) -> None:
        if message["op"] == "ready":
            known.append(RevokedBoard(stage.board.buffer).revokes("id", None))
        say(message)

    monkeypatch.setattr(stage.transport, "heartbeat", lease)
    monkeypatch.setattr(WorkerControl, "start", start)
    monkeypatch.setattr(stage.agent, "_say", said)
    running = Background(stage.agent.run)
    assert stage.hear() == {"op": "ready"}
    send(stage.ours, {"op": "stop"})
    assert running.result() == 0
    assert known == [False, True]


def test_the_agent_tells_hooks_that_the_worker_is_shutting_down(stage: Stage) -> None:
    told: list[tuple[Any, ...]] = []

    def receiver(sender, sig, how, exitcode, **_):
        told.append((sender, sig, how, exitcode))

    signals.worker_shutting_down.connect(receiver, weak=False)
    try:
        running = Background(stage.agent.run)
        stage.hear()
        send(stage.ours, {"op": "stopping", "sig": "SIGTERM", "how": "Warm", "exitcode": 0})
        send(stage.ours, {"op": "stop"})
        running.result()
    finally:
        signals.worker_shutting_down.disconnect(receiver)
    assert told == [(stage.agent._link.node, "SIGTERM", "Warm", 0)]


def test_an_agent_that_replaces_another_does_not_announce_the_worker_again(stage: Stage) -> None:
    seen: list[str] = []

    def receiver(sender, **_):
        seen.append(sender)

    stage.board.words[A_ANNOUNCED] = 1
    signals.worker_ready.connect(receiver, weak=False)
    try:
        running = Background(stage.agent.run)
        stage.hear()
        send(stage.ours, {"op": "stop"})
        running.result()
    finally:
        signals.worker_ready.disconnect(receiver)
    assert seen == []


def test_what_cannot_be_done_while_the_broker_is_away_is_done_later(stage: Stage) -> None:
    running = Background(stage.agent.run)
    stage.hear()
    stage.transport.fail("recover", 3)
    stage.board.slot(0).clear(1)
    request = {"op": "dead", "slot": 0, "generation": 1, "verdict": "crash", "cause": "signal 9"}
    send(stage.ours, request)
    assert stage.hear()["op"] == "recovered"
    assert stage.transport.calls["recover"] == 4
    send(stage.ours, {"op": "stop"})
    running.result()


def test_requests_wait_for_one_answer_of_an_absent_broker_and_are_complained_of_once(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    running = Background(stage.agent.run)
    stage.hear()
    for index in range(3):
        stage.board.slot(index).clear(1)
    stage.transport.fail("recover", 8)
    for index in range(3):
        request = {"op": "dead", "slot": index, "generation": 1, "verdict": "crash", "cause": "signal 9"}
        send(stage.ours, request)
    assert [stage.hear()["slot"] for _ in range(3)] == [0, 1, 2]
    # Three were asked first; then one a turn, until it succeeded and the others did with it.
    assert stage.transport.calls["recover"] == 8 + 3
    assert caplog.text.count("the broker is away") == 3
    send(stage.ours, {"op": "stop"})
    running.result()


@pytest.mark.parametrize(
    ("error", "answered"), [(TransportError("its entry is damaged"), [1]), (BrokerUnavailable("away"), [])]
)
def test_a_request_that_is_refused_keeps_no_other_waiting_and_an_absent_broker_all(
    stage: Stage, error: TransportError, answered: list[int]
) -> None:
    for index in range(2):
        stage.board.slot(index).clear(1)
        request = {"op": "dead", "slot": index, "generation": 1, "verdict": "crash", "cause": "signal 9"}
        stage.agent._undone.append(request)
    stage.transport.fail("recover", 1, lambda: error)
    stage.agent._retry_undone()
    assert [stage.hear()["slot"] for _ in answered] == answered
    assert [request["slot"] for request in stage.agent._undone] == [0, 1][: 2 - len(answered)]


def test_an_agent_leaves_although_the_broker_is_away(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    running = Background(stage.agent.run)
    stage.hear()
    stage.transport.fail("unregister", 1)
    send(stage.ours, {"op": "stop"})
    assert running.result() == 0
    assert "left to run out" in caplog.text


def test_the_end_of_the_channel_means_that_the_supervisor_died(stage: Stage, cleared_up: list[str]) -> None:
    running = Background(stage.agent.run)
    stage.hear()
    stage.ours.close()
    with pytest.raises(Left):
        running.result()
    assert cleared_up == ["channel"]


def test_an_answer_that_nobody_reads_means_that_the_supervisor_died(
    stage: Stage, cleared_up: list[str]
) -> None:
    stage.ours.close()
    with pytest.raises(Left):
        stage.agent.run()
    assert cleared_up == ["channel"]


@pytest.mark.parametrize(("idle", "waiting", "woken"), [(3, 2, 2), (1, 5, 1), (2, 0, 0), (0, 4, 0)])
def test_no_more_children_are_woken_than_there_are_messages(
    stage: Stage, idle: int, waiting: int, woken: int
) -> None:
    board = stage.board
    board.words[S_HIGH_SLOT] = 4
    for index in range(4):
        words = board.slot(index).words
        words[S_PID] = 1000 + index
        words[C_STATE] = State.IDLE if index < idle else State.WORKING
    for number in range(waiting):
        stage.app.send_task("proj.any", (number,))
    nobody = Waker(board, stage.app.client.transport, ["celery"]).wake()
    assert sum(board.slot(index).words[W_WAKE] != 0 for index in range(4)) == woken
    assert nobody is (waiting > 0 and idle == 0)
    assert board.words[A_WAITING] == waiting


def test_a_message_wakes_a_child_while_the_agent_waits(stage: Stage) -> None:
    board = stage.board
    board.words[S_HIGH_SLOT] = 1
    board.slot(0).words[S_PID] = 1000
    board.slot(0).words[C_STATE] = State.IDLE
    running = Background(stage.agent.run)
    stage.hear()
    before = board.slot(0).words[W_WAKE]
    stage.app.send_task("proj.any")
    eventually(lambda: board.slot(0).words[W_WAKE] != before)
    send(stage.ours, {"op": "stop"})
    running.result()


def test_the_lease_comes_between_slow_receivers_of_dead_letters(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, done = 0.0, []

    def slow(task_id: str, **_: Any) -> None:
        nonlocal now_s
        now_s += 1.0
        done.append(task_id)

    def turn() -> float:
        done.append("lease")
        return 60.0

    @stage.app.task
    def work():
        pass

    for number in range(4):
        work.apply_async(task_id=f"id-{number}")
    dead = [
        DeadLetter(f"key-{number}", "celery", "crashes", ("signal 9",), waiting.document, 0, 3, 0.0)
        for number, waiting in enumerate(stage.app.client.transport.peek("celery"))
    ]
    agent = stage.agent
    monkeypatch.setattr(failures_module, "mono_s", lambda: now_s)
    monkeypatch.setattr(agent._keeping, "turn", turn)
    signals.task_failure.connect(slow, weak=False)
    try:
        agent._recoverer.report_lapsed(Recovery(dead=tuple(dead)))
        with closing(stage.app.client.transport.watch(["celery"])) as watch:
            agent._turn(watch)
            agent._turn(watch)
        agent._leave()
    finally:
        signals.task_failure.disconnect(slow)
    assert done == ["lease", "id-0", "lease", "id-1", "id-2", "lease", "id-3"]
