"""What a child does to the locks of unique tasks: when, and when not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from prefork.engine import Unique
from prefork.engine.app import App
from prefork.engine.child.parts import Parts
from prefork.engine.exceptions import ImproperlyConfigured, Reject, Snooze, SoftTimeLimitExceeded
from prefork.engine.held_locks import MAIN, Held, held_in
from prefork.engine.message import parse
from prefork.engine.storage import Storage
from prefork.engine.unique_locks import MARGIN_S, RUNNING_S, UniqueLocks, mark_of_message
from prefork.transports.base import Outcome, Outgoing
from prefork.transports.coordination import Coordinates
from prefork.transports.errors import BrokerUnavailable
from prefork.transports.memory import MemoryTransport
from support.one_child import OneChild
from support.waiting import eventually

Make = Callable[..., OneChild]


class Recording(MemoryTransport):
    """Remembers what is done to locks, and may be away."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.done: list[tuple[str, float]] = []
        self.away = False

    def _note(self, what: str, ttl_s: float = 0.0) -> None:
        if self.away:
            raise BrokerUnavailable("away")
        self.done.append((what, ttl_s))

    def lock(self, name: str, value: str, ttl_s: float) -> str | None:
        self._note("lock", ttl_s)
        return super().lock(name, value, ttl_s)

    def prolong(self, name: str, value: str, ttl_s: float) -> bool:
        self._note("prolong", ttl_s)
        return super().prolong(name, value, ttl_s)

    def unlock(self, name: str, value: str) -> bool:
        self._note("unlock")
        return super().unlock(name, value)


@pytest.fixture
def broker(app: App) -> Recording:
    url = app.conf.broker_url
    recording = Recording(url.removeprefix("memory://"))
    app.client.adopt(recording, app.client.results)
    return recording


def holder(app: App, name: str, *args: Any) -> str | None:
    return app.client.unique.holder(name, args)


def run(app: App, broker: Recording, child_of: Make, name: str, *args: Any, **options: Any) -> OneChild:
    """Send a task and run it in a child, with only the child's actions remembered."""
    app.tasks[name].apply_async(args, **options)
    broker.done.clear()
    child = child_of(app)
    child.run()
    return child


def test_a_lock_is_prolonged_at_the_start_and_freed_after_the_settlement(
    app: App, broker: Recording, child_of: Make
) -> None:
    seen: list[str | None] = []
    app.task(name="t", unique=True)(lambda x: seen.append(holder(app, "t", x)))
    run(app, broker, child_of, "t", 1)
    assert broker.done == [("lock", 3600.0), ("unlock", 0.0)]
    assert seen[0] is not None
    assert holder(app, "t", 1) is None


def test_the_lock_of_a_task_with_a_limit_lasts_until_it_must_have_ended(
    app: App, broker: Recording, child_of: Make
) -> None:
    app.task(name="t", unique=Unique(ttl_s=1), time_limit=100)(lambda: None)
    run(app, broker, child_of, "t")
    run(app, broker, child_of, "t", time_limit=500)
    assert ("lock", 500.0 + MARGIN_S) in broker.done
    app.task(name="u", unique=Unique(ttl_s=1))(lambda: None)
    run(app, broker, child_of, "u")
    assert ("lock", RUNNING_S) in broker.done, "it is prolonged while the task runs"


def test_until_it_has_started_the_lock_is_freed_before_the_body(
    app: App, broker: Recording, child_of: Make
) -> None:
    seen: list[str | None] = []
    app.task(name="t", unique=Unique(until="started"))(lambda: seen.append(holder(app, "t")))
    run(app, broker, child_of, "t")
    assert seen == [None]


def test_for_a_time_nothing_is_done(app: App, broker: Recording, child_of: Make) -> None:
    app.task(name="t", unique=Unique(until=600))(lambda: None)
    run(app, broker, child_of, "t")
    assert broker.done == []
    assert holder(app, "t") is not None


@pytest.mark.parametrize(
    ("error", "held"),
    [
        (ValueError("no"), False),
        (Reject("no", requeue=False), False),
        (SoftTimeLimitExceeded(), False),
        (Snooze(60), True),
        (None, False),
    ],
)
def test_the_end_of_a_task_frees_its_lock_unless_it_runs_again(
    app: App, broker: Recording, child_of: Make, error: Exception | None, held: bool
) -> None:
    def body() -> None:
        if error is not None:
            raise error

    app.task(name="t", unique=True)(body)
    run(app, broker, child_of, "t")
    assert (holder(app, "t") is not None) is held
    if held:
        assert broker.done[-1] == ("lock", pytest.approx(3660.0, abs=2.0))


def test_what_is_given_back_to_run_again_keeps_its_lock(app: App, broker: Recording, child_of: Make) -> None:
    ran: list[int] = []

    def once() -> None:
        ran.append(1)
        if len(ran) == 1:
            raise Reject("again", requeue=True)

    app.task(name="t", unique=True)(once)
    child = run(app, broker, child_of, "t")
    assert len(ran) == 2
    assert list(held_in(child.slot)) == []
    assert broker.done == [("lock", 3600.0), ("lock", 3600.0), ("unlock", 0.0)]


def test_a_message_that_never_runs_frees_its_lock(app: App, broker: Recording, child_of: Make) -> None:
    app.task(name="t", unique=True)(lambda x: None)
    app.tasks["t"].apply_async((1,), expires=0.001)
    app.tasks["t"].apply_async((2,)).revoke()
    app.send_task("unknown", (3,), unique=True)
    expired_wall_s = time.time() + 0.01
    eventually(lambda: time.time() > expired_wall_s)
    child_of(app).run()
    assert holder(app, "t", 1) is holder(app, "t", 2) is None
    assert holder(app, "unknown", 3) is not None, "a worker may come that knows it"


def test_a_lock_is_left_alone_when_somebody_took_the_message_back(
    app: App, broker: Recording, child_of: Make
) -> None:
    app.task(name="t", unique=True)(lambda: broker.recover("worker-1.0.1"))
    result = app.tasks["t"].delay()
    child_of(app).run()
    assert holder(app, "t") == result.id


def test_a_broker_that_is_away_keeps_no_task_from_its_end(
    app: App, broker: Recording, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []

    def body() -> None:
        ran.append(1)
        broker.away = True

    app.task(name="t", unique=True)(body)
    result = app.tasks["t"].delay()
    child_of(app).run()
    broker.away = False
    assert result.state == "SUCCESS"
    assert f"the lock of {result.id} stays as it is" in caplog.text
    # Its result says that it is over: the next call is sent.
    assert app.tasks["t"].delay().id != result.id
    broker.away = True
    child_of(app, generation=2).run()
    assert len(ran) == 2
    assert "starts with its lock as it is" in caplog.text


def test_one_that_was_replaced_does_not_run_even_when_the_newer_one_is_done(
    app: App, broker: Recording, child_of: Make
) -> None:
    ran: list[int] = []
    app.task(name="t", unique=Unique(by="key", on_conflict="replace"))(lambda key, value: ran.append(value))
    # Due only after the newer one is done, even if this stands still before that.
    replaced = app.tasks["t"].apply_async(("k", 1), countdown=3.0)
    newer = app.tasks["t"].delay("k", 2)
    child_of(app).run()
    eventually(lambda: broker.promote() is None and broker.ready(["celery"]) == 1)
    child_of(app, generation=2).run()
    assert ran == [2]
    assert (replaced.state, newer.state) == ("REVOKED", "SUCCESS")
    assert f"replaced by {newer.id}" in str(replaced.result)


def test_somebody_elses_header_is_ignored(app: App, broker: Recording, child_of: Make) -> None:
    app.task(name="t")(lambda: None)
    result = app.tasks["t"].apply_async((), headers={"prefork_unique": {"of": "another"}})
    child_of(app).run()
    assert result.state == "SUCCESS"
    assert broker.done == []


class OnlyMessages:
    """A broker without locks."""

    def __init__(self, inner: MemoryTransport) -> None:
        self._inner = inner
        self.capabilities = msgspec.structs.replace(inner.capabilities, name="plain")
        self.consumer = inner.consumer
        self.close = inner.close


def test_a_worker_refuses_to_start_on_a_broker_without_locks(
    app: App, broker: Recording, child_of: Make
) -> None:
    app.task(name="t", unique=True)(lambda: None)
    plain: Any = OnlyMessages(broker)
    assert not isinstance(plain, Coordinates)
    child = child_of(app)
    with pytest.raises(ImproperlyConfigured, match=r"task 't': unique cannot be kept on plain"):
        Parts(
            child.loaded,
            Storage(plain, None, child.storage.settler, child.storage.table),
            child.slot,
            child.board.words,
            doorbell_fd=child.doorbell_fd,
            node="n",
            owner="other",
            worker_id="w",
        )
    assert UniqueLocks(plain).possible is False
    app.task(name="t", unique=False)(lambda: None)


def test_locks_of_early_acknowledged_tasks_are_freed_at_their_end(
    app: App, broker: Recording, child_of: Make
) -> None:
    seen: list[str | None] = []
    app.task(name="t", unique=True, acks_late=False)(lambda: seen.append(holder(app, "t")))
    run(app, broker, child_of, "t")
    assert seen[0] is not None
    assert holder(app, "t") is None


def test_outcomes_that_were_not_asked_for_do_nothing(app: App, broker: Recording, child_of: Make) -> None:
    child = child_of(app)
    child.parts.uniqueness.settled([Outcome(b"unknown")], [True])
    broker.send([Outgoing("celery", b"no task message")])
    child.run()
    assert broker.done == []


# --- what follows a task --------------------------------------------------------------------------


def test_what_follows_waits_for_a_broker_that_is_away(
    app: App, broker: Recording, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage must not turn a success into a failure, and the next step into nothing."""
    app.task(name="first")(lambda: 1)
    app.task(name="second", unique=True)(lambda x: None)
    child = child_of(app)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        broker.away = len(pauses) < 3

    child.parts.pause = pause  # type: ignore[method-assign]
    result = app.tasks["first"].apply_async(
        link=app.signature("second"), retry_policy={"max_retries": 0, "interval_start": 0}
    )
    broker.away = True
    child.run()
    assert result.state == "SUCCESS"
    assert len(pauses) == 3
    assert caplog.text.count("what follows waits for the broker") == 1
    assert broker.done.count(("unlock", 0.0)) == 1  # the second one has run, too


def test_of_equal_unique_callbacks_one_is_sent(app: App, broker: Recording, child_of: Make) -> None:
    ran: list[int] = []
    app.task(name="first")(lambda: 1)
    app.task(name="second", unique=True)(ran.append)
    app.task(name="third")(lambda x: ran.append(x + 1))
    twice = [app.signature(name) for name in ("second", "third", "second", "third")]
    app.tasks["first"].apply_async(link=twice)
    child_of(app).run()
    assert sorted(ran) == [1, 2, 2]


# --- what is shown while it runs ------------------------------------------------------------------


def test_what_is_to_be_prolonged_is_shown_while_it_runs_and_not_afterwards(
    app: App, broker: Recording, child_of: Make
) -> None:
    seen: list[list[Held]] = []

    def look(*_args: Any) -> None:
        seen.append([held for _cell, held in held_in(child.slot)])

    app.task(name="t", unique=Unique(ttl_s=90))(look)
    app.task(name="plain")(look)
    app.task(name="early", unique=True, acks_late=False)(look)
    child = child_of(app)
    ids = [app.tasks[name].delay().id for name in ("t", "plain", "early")]
    child.run()
    assert [[held.task_id for held in shown] for shown in seen] == [[ids[0]], [], [ids[2]]]
    assert (seen[0][0].lasts_s, seen[0][0].what) == (90.0, MAIN)
    assert list(held_in(child.slot)) == []


def test_an_id_that_is_too_long_to_be_shown_is_complained_of(
    app: App, broker: Recording, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    app.task(name="t", unique=True)(lambda: None)
    run(app, broker, child_of, "t", task_id="x" * 300)
    assert "its lock is not prolonged while it runs, and lasts for 3600 s" in caplog.text
    assert holder(app, "t") is None


def test_what_was_taken_back_before_its_acknowledgement_is_not_shown(
    app: App, broker: Recording, child_of: Make
) -> None:
    app.task(name="t", unique=True, acks_late=False)(lambda: None)
    app.tasks["t"].delay()
    child = child_of(app)
    child.parts.consumer.settle = lambda outcomes: [False for _ in outcomes]  # type: ignore[method-assign]
    child.run()
    assert list(held_in(child.slot)) == []
    assert holder(app, "t") is not None, "whoever took it back runs it"


# --- what replaces a task -------------------------------------------------------------------------


def test_what_replaces_a_task_and_is_unique_itself_has_its_own_lock_only(
    app: App, broker: Recording, child_of: Make
) -> None:
    seen: list[tuple[str | None, str | None]] = []
    app.task(name="second", unique=True)(lambda x: seen.append((holder(app, "t"), holder(app, "second", x))))
    app.task(name="t", unique=True, bind=True)(lambda self: self.replace(app.signature("second", (1,))))
    result = app.tasks["t"].delay()
    child_of(app).run()
    assert seen == [(None, result.id)]
    assert holder(app, "second", 1) is None


def test_the_lock_lasts_until_a_replacement_that_waits_is_due(
    app: App, broker: Recording, child_of: Make
) -> None:
    app.task(name="second")(lambda: None)

    def body(self: Any) -> Any:
        return self.replace(app.signature("second", headers={"mine": "kept"}).set(countdown=500))

    app.task(name="t", unique=True, bind=True)(body)
    app.task(name="s", unique=Unique(until="started"), bind=True)(body)
    run(app, broker, child_of, "t")
    assert broker.done[-1] == ("lock", pytest.approx(4100.0, abs=3.0))
    (waiting,) = broker.peek("celery", delayed=True)
    headers = parse(waiting.document, app.client.table).more_headers
    assert headers is not None
    assert headers["mine"] == "kept"
    app.tasks["s"].delay()
    child_of(app, generation=2).run()
    marks = [parse(one.document, app.client.table) for one in broker.peek("celery", delayed=True)]
    assert sorted(mark_of_message(one) is None for one in marks) == [False, True], "its lock is free already"
