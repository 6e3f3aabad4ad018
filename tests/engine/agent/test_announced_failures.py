"""Receivers of `task_failure` hear from the agent of failures that no child can tell them of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine import signals
from prefork.engine.agent import failures as failures_module
from prefork.engine.exceptions import TimeLimitExceeded, WorkerLostError
from prefork.transports.base import DeadLetter, Outgoing, Recovery
from prefork.transports.errors import BrokerUnavailable
from support.agent_scene import CAUSE, Scene
from support.apps import memory_app
from support.listening import Told, failures_heard
from support.one_child import WORKER, unlink


@pytest.fixture
def scene() -> Iterator[Scene]:
    with memory_app() as app:
        made = Scene(app)
        yield made
        unlink(made.link)


@pytest.fixture
def told() -> Iterator[list[Told]]:
    with failures_heard() as heard:
        yield heard


@pytest.mark.parametrize(
    ("verdict", "kind", "detail"),
    [
        ("timeout", TimeLimitExceeded, "2.0"),
        ("crash", WorkerLostError, CAUSE),
        ("exit", WorkerLostError, CAUSE),
        ("memory", WorkerLostError, CAUSE),
    ],
)
def test_a_task_whose_process_died_for_good_is_announced_once_with_all_that_is_known(
    scene: Scene, told: list[Told], verdict: str, kind: type[Exception], detail: str
) -> None:
    scene.run(scene.hold(1)[0], reject_on_worker_lost=False)
    scene.dead(verdict)
    scene.dead(verdict)  # the supervisor may not have got the answer
    ((sender, about),) = told
    assert sender is scene.app.tasks[scene.work.name]
    assert (about["task_id"], about["args"], about["kwargs"]) == ("id-0", [0], {})
    assert type(about["exception"]) is kind
    assert detail in str(about["exception"])
    assert about["einfo"].exception is about["exception"]
    assert detail in about["einfo"].traceback
    assert about["traceback"] is None, "there is no frame of the task"
    assert scene.state() == "FAILURE"


@pytest.mark.parametrize("verdict", ["crash", "timeout", "memory", "shutdown"])
def test_one_that_was_acknowledged_early_is_announced_once_without_arguments(
    scene: Scene, told: list[Told], verdict: str
) -> None:
    scene.run(scene.hold(1)[0], acks_late=False)
    scene.dead(verdict)
    scene.dead(verdict)
    ((sender, about),) = told
    assert (sender.name, about["task_id"]) == (scene.work.name, "id-0")
    assert (about["args"], about["kwargs"]) == ([], {})


def test_it_is_announced_although_the_result_is_ignored(scene: Scene, told: list[Told]) -> None:
    scene.run(scene.hold(1)[0], ignore_result=True)
    scene.dead("timeout")
    assert (scene.state(), len(told)) == (None, 1)


@pytest.mark.parametrize("signal", [signals.task_failure, signals.task_revoked], ids=lambda one: one.name)
def test_the_supervisor_is_answered_before_any_receiver_may_hold_the_agent_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, signal: signals.Signal
) -> None:
    order: list[str] = []
    carry_out = scene.recoverer.carry_out

    def answers(message: dict[str, Any]) -> dict[str, Any]:
        answer = carry_out(message)
        order.append(answer["op"])
        return answer

    monkeypatch.setattr(scene.recoverer, "carry_out", answers)

    def hears(**_: Any) -> None:
        order.append("told")

    signal.connect(hears, weak=False)
    try:
        scene.run(scene.hold(1)[0], reject_on_worker_lost=False)
        scene.dead(*(["crash"] if signal is signals.task_failure else ["terminated"]), execution=1)
    finally:
        signal.disconnect(hears)
    assert order == ["recovered", "told"]


@pytest.mark.parametrize("verdict", ["crash", "memory", "shutdown"])
def test_a_message_that_will_run_again_has_not_failed_yet(
    scene: Scene, told: list[Told], verdict: str
) -> None:
    scene.run(scene.hold(1)[0])
    scene.dead(verdict)
    assert (scene.depth(), told) == ((1, 0), [])


def test_a_message_that_was_taken_back_has_not_failed_here(scene: Scene, told: list[Told]) -> None:
    scene.run(scene.hold(1)[0])
    scene.app.client.transport.recover(f"{WORKER}.0.1", running=None, cause="", max_crashes=3)
    scene.dead("timeout")
    assert (scene.depth(), told) == ((1, 0), [])


def test_a_task_that_was_ended_on_request_is_revoked_and_has_not_failed(
    scene: Scene, told: list[Told]
) -> None:
    scene.run(scene.hold(1)[0])
    scene.dead("terminated", execution=1, signum=15, charge=False)
    assert (scene.state(), told) == ("REVOKED", [])


def test_a_dead_letter_is_announced(scene: Scene, told: list[Told]) -> None:
    scene.recoverer._max_crashes = 1
    scene.run(scene.hold(1)[0])
    assert scene.dead()["dead"] == 1
    ((sender, about),) = told
    assert sender is scene.app.tasks[scene.work.name]
    assert (about["task_id"], about["args"]) == ("id-0", [0])
    assert isinstance(about["exception"], WorkerLostError)
    assert "dead-lettered after 1 crashes" in str(about["exception"])


def test_a_dead_letter_of_a_task_that_nobody_knows_is_announced_without_a_sender(
    scene: Scene, told: list[Told]
) -> None:
    scene.recoverer._max_crashes = 1
    scene.run(scene.hold(1)[0])
    scene.app.tasks.unregister(scene.work.name)
    scene.dead()
    assert [(sender, about["task_id"]) for sender, about in told] == [(None, "id-0")]


def test_many_dead_letters_are_announced_a_few_at_a_time(
    scene: Scene, told: list[Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0

    def slow(**_: Any) -> None:
        nonlocal now_s
        now_s += 0.06

    monkeypatch.setattr(failures_module, "mono_s", lambda: now_s)
    signals.task_failure.connect(slow, weak=False)
    try:
        scene.recoverer.report_lapsed(Recovery(dead=tuple(letters(scene, 5))))
        counts = []
        while scene.recoverer.announce_some():
            counts.append(len(told))
        counts.append(len(told))
    finally:
        signals.task_failure.disconnect(slow)
    assert counts == [2, 4, 5]
    assert [about["task_id"] for _, about in told] == [f"id-{number}" for number in range(5)]


def letters(scene: Scene, count: int) -> list[DeadLetter]:
    return [
        DeadLetter(f"key-{number}", "celery", "crashes", ("signal 9",), held.document, 0, 3, 0.0)
        for number, held in enumerate(scene.hold(count))
    ]


def test_where_the_next_child_settles_it_that_one_announces_it(scene: Scene, told: list[Told]) -> None:
    scene.transport.entomb = lambda task_id, note: None
    scene.run(scene.hold(1)[0])
    scene.dead("timeout")
    assert (scene.state(), told) == ("FAILURE", [])


def test_it_is_announced_when_it_is_settled(scene: Scene, told: list[Told]) -> None:
    scene.run(scene.hold(1)[0])
    scene.transport.fail("attach", 1)
    with pytest.raises(BrokerUnavailable):
        scene.dead("timeout")
    assert told == []
    scene.dead("timeout")
    assert len(told) == 1


def test_each_execution_of_a_slot_is_announced(scene: Scene, told: list[Told]) -> None:
    for number in range(2):
        scene.slot.clear(number + 1)
        scene.consumer = scene.app.client.transport.consumer(["celery"], f"{WORKER}.0.{number + 1}", WORKER)
        scene.run(scene.hold(1)[0])
        scene.dead("timeout", generation=number + 1)
    assert len(told) == 2


def test_a_receiver_that_fails_is_logged_and_changes_nothing(
    scene: Scene, told: list[Told], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**_: Any) -> None:
        raise ValueError("the reporter is away")

    signals.task_failure.connect(broken, weak=False)
    try:
        scene.run(scene.hold(1)[0])
        assert scene.dead("timeout")["op"] == "recovered"
    finally:
        signals.task_failure.disconnect(broken)
    assert (scene.state(), scene.depth(), len(told)) == ("FAILURE", (0, 0), 1)
    assert "the reporter is away" in caplog.text


def test_a_body_that_cannot_be_read_any_more_is_announced_without_arguments(
    scene: Scene, told: list[Told]
) -> None:
    scene.work.apply_async((1,), task_id="id-0")
    [waiting] = scene.app.client.transport.peek("celery", 10)
    spoilt = waiting.document.replace(b"e30sIHsi", b"AAAAAAAA")
    assert spoilt != waiting.document
    scene.app.client.transport.purge("celery")
    scene.app.client.transport.send([Outgoing("celery", spoilt)])
    scene.run(scene.reserved())
    scene.dead("timeout")
    assert [(about["task_id"], about["args"]) for _, about in told] == [("id-0", [])]
