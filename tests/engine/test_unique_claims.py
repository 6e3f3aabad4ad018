"""The lock of a unique task while its message is on the way: faults, conflicts, what is said."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine import Task, Unique, group
from prefork.engine.app import App
from prefork.engine.exceptions import DuplicateTaskError, ImproperlyConfigured
from prefork.engine.unique import HEADER, read_mark
from prefork.engine.unique_claims import SENDING_S
from prefork.serializers.base import EncodeError
from prefork.transports.base import Outgoing
from prefork.transports.errors import BrokerUnavailable, ResultStoreUnavailable, Unacceptable
from prefork.transports.memory import MemoryResults, MemoryTransport
from support.apps import memory_app, payload, sent

_names = itertools.count()


class Faulty(MemoryTransport):
    """Raises what it is told to, and remembers for how long locks were taken."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.on_send: list[Exception] = []
        self.on_lock: list[Exception] = []
        self.on_prolong: list[Exception] = []
        self.on_unlock: list[Exception] = []
        self.times: list[float] = []

    def send(self, messages: Any) -> None:
        if self.on_send:
            raise self.on_send.pop(0)
        super().send(messages)

    def lock(self, name: str, value: str, ttl_s: float) -> str | None:
        if self.on_lock:
            raise self.on_lock.pop(0)
        self.times.append(ttl_s)
        return super().lock(name, value, ttl_s)

    def prolong(self, name: str, value: str, ttl_s: float) -> bool:
        if self.on_prolong:
            raise self.on_prolong.pop(0)
        self.times.append(ttl_s)
        return super().prolong(name, value, ttl_s)

    def unlock(self, name: str, value: str) -> bool:
        if self.on_unlock:
            raise self.on_unlock.pop(0)
        return super().unlock(name, value)


class NoLocks:
    """A broker that only carries messages."""

    def __init__(self, inner: MemoryTransport) -> None:
        self.capabilities = inner.capabilities
        self.send = inner.send
        self.peek = inner.peek
        self.close = inner.close


@pytest.fixture
def app() -> Iterator[App]:
    name = f"claims-{next(_names)}"
    with memory_app(broker=f"memory://{name}", result_backend=f"memory://{name}") as app:
        app.conf.task_publish_retry = False
        app.client.adopt(Faulty(name), MemoryResults(name))

        @app.task(name="add", unique=True)
        def add(x: Any, y: Any = 0) -> None:
            """Never run here."""

        yield app


@pytest.fixture
def broker(app: App) -> Faulty:
    transport = app.client.transport
    assert isinstance(transport, Faulty)
    return transport


def holder(app: App, *args: Any) -> str | None:
    return app.client.unique.holder("add", args)


def away(*, unknown: bool = False) -> BrokerUnavailable:
    return BrokerUnavailable("away", outcome_unknown=unknown)


def test_the_lock_lasts_shortly_until_the_message_is_sent(app: App, broker: Faulty) -> None:
    result = app.tasks["add"].delay(1)
    assert holder(app, 1) == result.id
    assert broker.times == [SENDING_S, 3600.0]
    app.tasks["add"].apply_async((2,), countdown=100, unique=Unique(ttl_s=10))
    assert broker.times[2:] == [SENDING_S, pytest.approx(110.0, abs=1.0)]
    app.tasks["add"].apply_async((3,), unique=Unique(ttl_s=10))
    app.tasks["add"].apply_async((4,), unique=Unique(until=20), countdown=100)
    assert broker.times[4:] == [10.0, 20.0]


def test_a_message_bears_a_mark_and_not_the_arguments(app: App) -> None:
    app.tasks["add"].delay("secret")
    (message,) = sent(app)
    text = message.all_headers(app.client.table)[HEADER]
    mark = read_mark(text)
    assert mark is not None and mark.ttl_s == 3600.0
    assert "secret" not in text


def test_other_headers_stay(app: App) -> None:
    app.tasks["add"].apply_async((1,), headers={"mine": 1})
    (message,) = sent(app)
    assert {"mine", HEADER} <= set(message.all_headers(app.client.table))


def test_what_was_not_sent_frees_its_lock(app: App, broker: Faulty) -> None:
    broker.on_send = [away(), Unacceptable("too large")]
    for error in (BrokerUnavailable, Unacceptable):
        with pytest.raises(error):
            app.tasks["add"].delay(1)
        assert holder(app, 1) is None


def test_what_may_have_been_sent_keeps_its_lock(
    app: App, broker: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    broker.on_send = [away(unknown=True)]
    with caplog.at_level(logging.WARNING), pytest.raises(BrokerUnavailable):
        app.tasks["add"].delay(1)
    assert holder(app, 1) is not None
    assert broker.times[-1] == 3600.0
    assert "may have been sent: it stays unique for 3600 s" in caplog.text


def test_what_cannot_be_encoded_takes_no_lock_for_long(app: App) -> None:
    with pytest.raises(EncodeError):
        app.tasks["add"].apply_async(
            (1,), unique=Unique(by=lambda args, kwargs: 1), headers={"bad": object()}
        )
    assert app.client.unique.holder("add", (1,), unique=lambda args, kwargs: 1) is None


def test_an_argument_that_cannot_be_compared_is_refused_before_anything_is_taken(
    app: App, broker: Faulty
) -> None:
    with pytest.raises(EncodeError):
        app.tasks["add"].delay(object())
    assert broker.times == []


def test_a_broker_that_is_away_is_asked_again_for_the_lock(app: App, broker: Faulty) -> None:
    app.conf.task_publish_retry = True
    app.client.adopt(broker, app.client.results)
    broker.on_lock = [away(), away(unknown=True)]
    result = app.tasks["add"].delay(1)
    assert holder(app, 1) == result.id
    broker.on_lock = [away()]
    with pytest.raises(BrokerUnavailable):
        app.tasks["add"].apply_async((2,), retry=False)
    assert holder(app, 2) is None


def test_a_lock_that_cannot_be_kept_or_freed_is_said(
    app: App, broker: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    broker.on_prolong = [away()]
    result = app.tasks["add"].delay(1)
    assert f"add[{result.id}] was sent, and may be sent again in 60 s" in caplog.text
    broker.on_send, broker.on_unlock = [away()], [away()]
    with pytest.raises(BrokerUnavailable):
        app.tasks["add"].delay(2)
    assert "was not sent, and its lock stays" in caplog.text


def test_a_store_that_is_away_takes_nobody_for_finished(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    first = app.tasks["add"].delay(1)

    def refuse(_keys: Any) -> None:
        raise ResultStoreUnavailable("away")

    monkeypatch.setattr(app.client.results, "get", refuse)
    assert app.tasks["add"].delay(1).id == first.id


def test_replacing_goes_on_though_the_store_is_away(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    newest = Unique(on_conflict="replace")
    first = app.tasks["add"].apply_async((1,), unique=newest)

    def refuse(_keys: Any) -> None:
        raise ResultStoreUnavailable("away")

    monkeypatch.setattr(app.client.results, "get", refuse)
    second = app.tasks["add"].apply_async((1,), unique=newest)
    assert holder(app, 1) == second.id != first.id
    assert f"{first.id} is replaced, which its result does not say" in caplog.text


def test_without_results_conflicts_are_seen_all_the_same() -> None:
    with memory_app(backend="disabled") as app:
        task = app.task(name="t", unique=True)(lambda x: x)
        first = task.delay(1)
        assert task.delay(1).id == first.id
        assert task.apply_async((1,), unique=Unique(on_conflict="replace")).id != first.id
        with pytest.raises(DuplicateTaskError):
            task.apply_async((1,), unique=Unique(on_conflict="raise"))


def test_a_key_function_of_a_task_gets_the_arguments_and_not_the_task(app: App) -> None:
    def by_first(args: Any, kwargs: Any) -> str:
        return f"{args[0]} {kwargs.get('kind')}"

    class Declared(Task[Any, Any]):
        name = "declared"
        unique = staticmethod(by_first)

        def run(self, *_args: Any, **_kwargs: Any) -> None:
            """Never run here."""

    app.task(name="decorated", unique=by_first)(lambda *args, **kwargs: None)
    app.register_task(Declared())
    for name in ("decorated", "declared"):
        task = app.tasks[name]
        first = task.apply_async((1, 2), {"kind": "a"})
        assert task.apply_async((1, 3), {"kind": "a"}).id == first.id
        assert app.send_task(name, (1, 4), {"kind": "a"}).id == first.id
        assert task.apply_async((1, 2), {"kind": "b"}).id != first.id
        assert app.client.unique.holder(name, (1,), {"kind": "a"}) == first.id
        assert app.client.unique.free(name, (1,), {"kind": "a"}) == first.id


def test_a_broker_without_locks_refuses_by_name(app: App, broker: Faulty) -> None:
    app.client.adopt(NoLocks(broker), app.client.results)  # type: ignore[arg-type]
    with pytest.raises(ImproperlyConfigured, match=r"task 'add': unique cannot be kept on memory"):
        app.tasks["add"].delay(1)
    assert app.tasks["add"].apply_async((1,), unique=None).id
    assert len(sent(app)) == 1


def test_a_bulk_that_cannot_be_sent_frees_its_locks(app: App, broker: Faulty) -> None:
    broker.on_send = [Unacceptable("too large")] * 4
    bulk = app.tasks["add"].map_async([1, 2, 3])
    assert len(bulk.errors) == 3
    assert [holder(app, n) for n in (1, 2, 3)] == [None] * 3
    assert len(app.tasks["add"].map_async([1, 2, 3]).errors) == 0
    assert broker.times[-3:] == [3600.0] * 3, "nobody says when each of them is sent"


def test_what_follows_from_a_task_has_the_same_id_whenever_it_follows(app: App) -> None:
    """Else the lock that a process took before it died would keep it from being sent at all."""

    def follow(parent: str) -> list[Outgoing]:
        with app.client.collecting() as messages:
            app.tasks["add"].apply_async((1,), add_to_parent=False, parent_id=parent, root_id=parent)
        return list(messages)

    assert len(follow("one")) == 1
    assert len(follow("one")) == 1, "it died before this was settled, and runs again"
    assert follow("two") == []


def test_a_call_that_something_was_to_follow_says_that_it_was_not_sent(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    first = app.tasks["add"].delay(1)
    assert app.tasks["add"].apply_async((1,), link=app.tasks["add"].s(2)).id == first.id
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"is not sent, as {first.id} has the same key, and what was to follow it does not" in line


def test_a_chain_whose_first_step_is_not_sent_ends_at_once(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    add = app.tasks["add"]
    after = app.task(name="after")(lambda value=None: value)
    sorry = app.task(name="sorry")(lambda task_id: None)
    first = add.delay(1)
    result = (add.s(1) | after.s() | after.s()).on_error(sorry.s().set(queue="errors")).delay()
    for step in (result, result.parent, result.parent.parent):
        with pytest.raises(DuplicateTaskError) as raised:
            step.get(timeout=1, follow_parents=False)
        assert raised.value.existing_id == first.id
    (message,) = sent(app, "errors")
    assert payload(app, message)[0] == [result.parent.parent.id]
    assert f"add[{result.parent.parent.id}] is not sent, as {first.id} has the same key" in caplog.text


def test_a_chain_that_does_not_begin_is_said_though_the_store_is_away(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def store(results: Any) -> None:
        raise ResultStoreUnavailable("gone")

    add = app.tasks["add"]
    add.apply_async((1,), unique=Unique(until=60))
    monkeypatch.setattr(app.client.results, "store", store)
    (add.s(1).set(unique=Unique(until=60)) | add.s(2)).delay()
    assert "which its result does not say: gone" in caplog.text


def test_a_second_call_of_which_nothing_is_lost_is_not_spoken_of(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    first = app.tasks["add"].delay(1)
    assert app.tasks["add"].delay(1).id == app.tasks["add"].apply_async((1,), task_id="mine").id == first.id
    assert group(app.tasks["add"].s(1), app.tasks["add"].s(1)).apply_async().results[1].id == first.id
    assert caplog.text == ""
    assert app.AsyncResult("mine").state == "PENDING"


def test_in_eager_mode_nothing_is_taken(app: App, broker: Faulty) -> None:
    with memory_app(task_always_eager=True) as eager:
        task = eager.task(name="t", unique=True)(lambda x: x)
        assert [task.delay(1).get(), task.apply_async((1,), unique=True).get()] == [1, 1]
    assert app.tasks["add"].apply((1,)).get() is None
    assert broker.times == []
