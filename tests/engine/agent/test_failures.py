"""Error callbacks of tasks that were ended from outside, against the memory broker."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from prefork.engine.exceptions import TimeLimitExceeded, WorkerLostError
from prefork.engine.request import Context
from prefork.transports.base import Delivery, StoredResult
from prefork.transports.errors import BrokerUnavailable, Unacceptable
from support.agent_scene import CAUSE, Scene
from support.apps import memory_app, sent
from support.one_child import NODE, OneChild, unlink


class Told:
    """A scene with two error callbacks: one takes the id, the other one the details."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.app = scene.app
        self.calls: list[tuple[Any, ...]] = []

        @self.app.task
        def sorry(task_id):
            self.calls.append(("sorry", task_id))

        @self.app.task
        def sorry_for(request, exc, traceback, own):
            self.calls.append((own, request, exc, traceback))

        self.sorry, self.sorry_for = sorry, sorry_for

    def running(self, *errbacks: Any, **options: Any) -> Delivery:
        """A task with error callbacks, in the middle of its run."""
        self.scene.work.apply_async((1,), task_id="id-0", link_error=list(errbacks), priority=3)
        delivery = self.scene.reserved()
        self.scene.run(delivery, **options)
        return delivery

    def run_errbacks(self) -> None:
        """What was sent is run by a child."""
        child = OneChild(self.app, generation=9, queues=["celery", "sorry"])
        child.run()
        child.close()


@pytest.fixture
def told() -> Iterator[Told]:
    with memory_app(task_queues={"celery": {}, "sorry": {}}) as app:
        scene = Scene(app)
        yield Told(scene)
        unlink(scene.link)


@pytest.mark.parametrize("verdict", ["timeout", "crash", "memory"])
def test_a_callback_that_takes_the_id_is_sent_with_the_failure(told: Told, verdict: str) -> None:
    told.running(told.sorry.s().set(queue="sorry"), reject_on_worker_lost=False)
    told.scene.dead(verdict)
    assert told.scene.state() == "FAILURE"
    (message,) = sent(told.app, "sorry")
    assert (message.task, message.parent_id, message.root_id) == (told.sorry.name, "id-0", "id-0")
    told.run_errbacks()
    assert told.calls == [("sorry", "id-0")]


@pytest.mark.parametrize(
    ("verdict", "kind", "detail"),
    [("timeout", TimeLimitExceeded, "2.0"), ("crash", WorkerLostError, CAUSE)],
)
def test_a_callback_that_takes_the_details_is_called_by_a_worker_not_by_the_agent(
    told: Told, verdict: str, kind: type[Exception], detail: str
) -> None:
    told.running(told.sorry_for.s("oh").set(queue="sorry"), reject_on_worker_lost=False)
    told.scene.dead(verdict)
    assert told.calls == [], "the agent runs no code of a task"
    told.run_errbacks()
    ((prefix, request, error, traceback),) = told.calls
    assert prefix == "oh"
    assert isinstance(request, Context)
    assert (request.id, request.task, request.args) == ("id-0", told.scene.work.name, [1])
    assert (request.hostname, request.delivery_info["priority"]) == (NODE, 3)
    assert type(error) is kind
    assert detail in str(error)
    assert detail in traceback


def test_a_message_that_will_run_again_has_not_failed_yet(told: Told) -> None:
    told.running(told.sorry.s().set(queue="sorry"))
    told.scene.dead("crash")
    assert sent(told.app, "sorry") == []


def test_a_callback_is_sent_once_although_the_death_is_reported_twice(told: Told) -> None:
    told.running(told.sorry.s().set(queue="sorry"))
    told.scene.dead("timeout")
    told.scene.dead("timeout")
    assert len(sent(told.app, "sorry")) == 1


def test_a_callback_is_sent_although_the_result_is_ignored(told: Told) -> None:
    told.running(told.sorry.s().set(queue="sorry"), ignore_result=True)
    told.scene.dead("timeout")
    assert told.scene.state() is None
    assert len(sent(told.app, "sorry")) == 1


def test_an_early_acknowledged_message_has_a_failure_and_no_callbacks(told: Told) -> None:
    # Its message is gone from the broker, and with it what it said about callbacks.
    told.running(told.sorry.s().set(queue="sorry"), acks_late=False)
    told.scene.dead("crash")
    assert told.scene.state() == "FAILURE"
    assert sent(told.app, "sorry") == []


def test_a_callback_that_cannot_be_sent_hides_neither_the_failure_nor_the_others(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    told.running(told.sorry.s().set(serializer="none of ours"), told.sorry.s().set(queue="sorry"))
    told.scene.dead("timeout")
    assert told.scene.state() == "FAILURE"
    assert "error callback" in caplog.text
    assert len(sent(told.app, "sorry")) == 1


def test_the_callbacks_of_a_dead_letter_are_sent_when_broker_and_store_take_them(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    scene = told.scene
    scene.recoverer._max_crashes = 1
    told.running(told.sorry.s().set(queue="sorry"))
    scene.transport.fail("send", 2)
    assert scene.dead()["dead"] == 1
    assert scene.state() == "FAILURE"
    assert "1 error callbacks wait" in caplog.text
    scene.recoverer.retry_unstored()
    assert sent(told.app, "sorry") == []
    scene.recoverer.retry_unstored()
    scene.recoverer.retry_unstored()
    assert len(sent(told.app, "sorry")) == 1


def results(*names: str) -> list[StoredResult]:
    return [StoredResult(name, b'{"status": "FAILURE"}') for name in names]


def test_an_absent_store_is_asked_once_a_turn_however_many_died_and_said_once(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    failures, store = told.scene.recoverer._failures, told.scene.store
    store.fail("store", 3)
    for name in ("a", "b", "c", "d"):
        failures.keep(results(name), ())
    assert store.calls["store"] == 1
    for _ in range(3):
        failures.retry()
    assert store.calls["store"] == 4
    assert None not in told.app.client.results.get(["a", "b", "c", "d"])
    assert caplog.text.count("wait: ") == 1
    assert caplog.text.count("are taken again") == 1
    failures.retry()
    assert store.calls["store"] == 4, "what was taken is not stored again"


def test_a_failure_that_no_store_takes_keeps_no_other_waiting(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    failures, store = told.scene.recoverer._failures, told.scene.store
    store.fail("store", 1)
    failures.keep(results("a", "b", "c"), ())
    # Together they are refused, and so is the first of them.
    store.fail("store", 2, lambda: Unacceptable("it is too large"))
    failures.retry()
    assert [found is None for found in told.app.client.results.get(["a", "b", "c"])] == [True, False, False]
    assert caplog.text.count("one is given up: it is too large") == 1


def test_an_outage_among_them_keeps_the_rest_in_order(told: Told) -> None:
    failures, store = told.scene.recoverer._failures, told.scene.store
    store.fail("store", 1)
    failures.keep(results("a", "b", "c"), ())
    errors = iter([Unacceptable("too large"), BrokerUnavailable("away")])
    store.fail("store", 2, lambda: next(errors))
    failures.retry()
    assert [one.key for one in failures._unstored] == ["a", "b", "c"]
    failures.retry()
    assert failures._unstored == []


def test_a_dead_letter_whose_arguments_cannot_be_read_has_a_failure_and_no_callbacks(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    scene = told.scene
    scene.recoverer._max_crashes = 1
    told.running(told.sorry.s().set(queue="sorry"))
    scene.dead()
    (letter,) = told.app.client.transport.dead_letters()
    envelope = json.loads(letter.document)
    envelope["body"] = base64.b64encode(b"[[1], {}, 5]").decode()
    damaged = msgspec.structs.replace(letter, document=json.dumps(envelope).encode())
    scene.recoverer._failures.of_dead_letter(damaged)
    assert "no error callback can be sent" in caplog.text
    assert len(sent(told.app, "sorry")) == 1, "only that of the letter that can be read"


# -- the rest of a chain ----------------------------------------------------------------------------


def chained(told: Told, **options: Any) -> None:
    """A task that two others were to follow, in the middle of its run."""
    names = [("other", {}), ("quiet", {"ignore_result": True}), ("next", {})]
    chain = [{"task": "later", "options": {"task_id": name, **more}} for name, more in names]
    told.scene.work.apply_async((1,), task_id="id-0", chain=chain)
    told.scene.run(told.scene.reserved(), **options)


def chain_states(told: Told) -> list[str | None]:
    return [told.scene.state(name) for name in ("id-0", "next", "quiet", "other")]


@pytest.mark.parametrize("verdict", ["timeout", "crash", "memory"])
def test_what_was_to_follow_ends_with_the_task_that_was_ended_from_outside(told: Told, verdict: str) -> None:
    chained(told, reject_on_worker_lost=False)
    told.scene.dead(verdict)
    assert chain_states(told) == ["FAILURE", "FAILURE", None, "FAILURE"]


def test_what_was_to_follow_a_terminated_task_is_revoked(told: Told) -> None:
    chained(told)
    told.scene.dead("terminated", signum=15, execution=1)
    assert chain_states(told) == ["REVOKED", "REVOKED", None, "REVOKED"]


def test_what_was_to_follow_ends_although_the_task_ignored_its_own_result(told: Told) -> None:
    chained(told, reject_on_worker_lost=False, ignore_result=True)
    told.scene.loaded.app.task(name="later", ignore_result=False)(lambda: None)
    told.scene.dead("crash")
    assert chain_states(told) == [None, "FAILURE", None, "FAILURE"]


def test_what_was_to_follow_a_task_that_runs_again_does_not_end(told: Told) -> None:
    chained(told)
    told.scene.dead("crash")
    assert chain_states(told) == [None] * 4


def test_what_was_to_follow_a_dead_letter_ends_with_it(told: Told) -> None:
    told.scene.recoverer._max_crashes = 1
    chained(told)
    assert told.scene.dead()["dead"] == 1
    assert chain_states(told) == ["FAILURE", "FAILURE", None, "FAILURE"]
