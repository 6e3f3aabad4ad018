"""Sending in bulk: what is sent, what a failed item says, and what the broker did not take."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.engine.app import App
from prefork.engine.bulk import CHUNK_BYTES, BulkResult
from prefork.engine.client import NAMED_PLANS_MAX
from prefork.engine.exceptions import BulkSendError, OperationalError
from prefork.serializers.base import EncodeError
from prefork.transports.base import Outgoing
from prefork.transports.errors import BrokerUnavailable, TransportError
from support.apps import memory_app, payload, sent
from support.redis_server import running_redis

QUICK = {"task_publish_retry": False}


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app(**QUICK) as made:

        @made.task(name="add")
        def add(x: int, y: int = 0) -> int:
            return x + y

        @made.task(name="echo", typing=False)
        def echo(*args: Any, **kwargs: Any) -> Any:
            return args, kwargs

        yield made


class Wire:
    """Stands between the client and its broker: counts, and fails when told to."""

    def __init__(self, app: App) -> None:
        self.transport: Any = app.client.transport
        self.calls: list[int] = []
        self.errors: dict[int, Exception] = {}
        self.refused: dict[str, Exception] = {}
        app.client.adopt(self, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def send(self, messages: Sequence[Outgoing]) -> None:
        self.calls.append(len(messages))
        error = self.errors.get(len(self.calls)) or self.refused.get(messages[0].queue)
        if error is not None:
            raise error
        self.transport.send(messages)


@pytest.fixture
def wire(app: App) -> Wire:
    return Wire(app)


def arguments(app: App, queue: str = "celery", limit: int = 5000) -> list[tuple[Any, Any]]:
    return [tuple(payload(app, message)[:2]) for message in sent(app, queue, limit)]


def first_arguments(app: App, queue: str = "celery") -> list[Any]:
    return [args[0] for args, _ in arguments(app, queue)]


# --- what is sent -----------------------------------------------------------------------------------


def test_a_task_is_sent_once_for_every_item_in_few_calls(app: App, wire: Wire) -> None:
    results = app.tasks["add"].map_async(range(1201))
    assert wire.calls == [500, 500, 201]
    assert first_arguments(app) == list(range(1201))
    assert [message.id for message in sent(app, limit=5000)] == [result.id for result in results]
    assert (len(results), results.errors, results.unknown) == (1201, {}, [])


def test_the_messages_are_those_of_calls_one_by_one(app: App) -> None:
    app.tasks["add"].apply_async((1,), priority=3, headers={"h": 1}, expires=60)
    app.tasks["add"].map_async([1], priority=3, headers={"h": 1}, expires=60)
    one, many = sent(app)
    own = {"id", "root_id", "correlation_id", "delivery_tag", "expires", "expires_wall_s", "envelope", "body"}
    assert one.task == many.task and one.priority == many.priority == 3
    fields = {name for name in dir(one) if not name.startswith("_")} - own
    plain = (int, str, float, bool, type(None))
    same = {name for name in fields if isinstance(getattr(one, name), plain)}
    assert {name: getattr(one, name) for name in same} == {name: getattr(many, name) for name in same}


def test_items_may_hold_all_arguments(app: App) -> None:
    app.tasks["add"].starmap_async([(1, 2), [3]])
    assert [args for args, _ in arguments(app)] == [[1, 2], [3]]


def test_tasks_are_sent_as_signatures_tuples_and_names(app: App) -> None:
    add = app.tasks["add"]
    results = app.send_tasks(
        [
            add.s(1, y=2),
            dict(add.s(3)),
            (add,),
            (add, (4,)),
            ("add", (5,), {"y": 6}, {"queue": "other"}),
            ["unknown", [7]],
        ]
    )
    assert isinstance(results.errors.pop(2), TypeError)  # add() without x
    assert results.errors == {}
    assert arguments(app) == [([1], {"y": 2}), ([3], {}), ([4], {}), ([7], {})]
    assert arguments(app, "other") == [([5], {"y": 6})]
    assert [results[position].name for position in (3, 4, 5)] == ["add", "add", "unknown"]


@pytest.mark.parametrize("item", [7, "add", (), ("add", (), {}, {}, 5), None])
def test_what_is_no_task_is_refused(app: App, item: Any) -> None:
    with pytest.raises(TypeError, match="send_tasks"):
        app.send_tasks([("add", (1,)), item])
    assert first_arguments(app) == [1]  # what came before it was sent


def test_within_a_bulk_everything_that_is_sent_goes_together(app: App, wire: Wire) -> None:
    add = app.tasks["add"]
    with app.bulk(chunk_size=10) as bulk:
        results = [add.delay(number) for number in range(25)]
        results.append(add.apply_async((25,), queue="other"))
        results.append(app.send_task("add", (26,)))
        assert bulk.accepted == 20
    assert first_arguments(app) == [*range(25), 26]
    assert first_arguments(app, "other") == [25]
    assert wire.calls == [10, 10, 6, 1]
    assert len({result.id for result in results}) == 27
    add.delay(27)
    assert wire.calls[-1] == 1


def test_a_bulk_is_of_one_thread(app: App, wire: Wire) -> None:
    with app.bulk():
        thread = threading.Thread(target=lambda: app.tasks["add"].delay(1))
        thread.start()
        thread.join(5)
        assert wire.calls == [1]
        app.tasks["add"].delay(2)
    assert wire.calls == [1, 1]


def test_large_messages_make_a_chunk_of_their_own(app: App, wire: Wire) -> None:
    app.tasks["echo"].map_async(["x" * (CHUNK_BYTES // 2)] * 5)
    assert wire.calls == [2, 2, 1] or wire.calls == [1] * 5


def test_an_iterable_is_read_no_further_than_what_was_sent(app: App, wire: Wire) -> None:
    ahead: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            ahead.append(number - sum(wire.calls))
            yield number

    app.tasks["add"].map_async(items(), chunk_size=7)
    assert max(ahead) == 6


def test_nothing_is_nothing(app: App, wire: Wire) -> None:
    assert len(app.tasks["add"].map_async([])) == 0
    assert app.send_tasks([]).get(timeout=1) == []
    with app.bulk():
        pass
    assert wire.calls == []


def test_a_chunk_holds_one_task_at_least(app: App) -> None:
    with pytest.raises(ValueError, match="chunk_size=0"):
        app.tasks["add"].map_async([1], chunk_size=0)
    with pytest.raises(ValueError, match="chunk_size=-1"), app.bulk(chunk_size=-1):
        pass


def test_eager_tasks_run_here(app: App) -> None:
    app.conf.task_always_eager = True
    assert app.tasks["add"].map_async([1, 2]).get() == [1, 2]


def test_names_without_end_are_not_remembered_without_end(app: App) -> None:
    app.send_tasks((f"n{number}", ()) for number in range(NAMED_PLANS_MAX + 10))
    assert len(app.client.named_plans) == NAMED_PLANS_MAX
    assert len(sent(app, limit=5000)) == NAMED_PLANS_MAX + 10


@settings(max_examples=40, deadline=None)
@given(
    items=st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers()), max_size=40),
    chunk_size=st.integers(1, 12),
)
def test_the_order_within_a_queue_is_that_of_the_items(items: list[tuple[str, int]], chunk_size: int) -> None:
    with memory_app() as app:
        calls = (("n", (value,), {}, {"queue": queue}) for queue, value in items)
        results = app.send_tasks(calls, chunk_size=chunk_size)
        assert len(results) == len(items)
        for queue in "abc":
            assert first_arguments(app, queue) == [value for name, value in items if name == queue]


# --- what cannot be sent ----------------------------------------------------------------------------


def test_an_item_that_cannot_be_sent_is_an_error_of_its_own(app: App) -> None:
    results = app.tasks["add"].map_async([1, object(), 2, {1, 2}], chunk_size=2)
    assert first_arguments(app) == [1, 2]
    assert list(results.errors) == [1, 3]
    assert all(isinstance(error, EncodeError) for error in results.errors.values())
    assert [result.state for result in results] == ["PENDING", "FAILURE", "PENDING", "FAILURE"]
    assert results[1].name == "add"
    with pytest.raises(EncodeError):
        results[1].get()
    assert results.unknown == []


def test_within_a_bulk_such_a_call_raises_and_the_others_go(app: App) -> None:
    with app.bulk():
        app.tasks["add"].delay(1)
        with pytest.raises(EncodeError):
            app.tasks["add"].delay(object())  # type: ignore[arg-type]
        app.tasks["add"].delay(2)
    assert first_arguments(app) == [1, 2]


def test_what_was_called_before_the_block_raised_is_sent(app: App) -> None:
    with pytest.raises(KeyError), app.bulk():
        app.tasks["add"].delay(1)
        raise KeyError
    assert first_arguments(app) == [1]


def test_what_an_iterable_gave_before_it_raised_is_sent(app: App) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("x")

    with pytest.raises(KeyError):
        app.tasks["add"].map_async(items())
    assert first_arguments(app) == [1]


@pytest.mark.parametrize("unknown", [False, True])
def test_a_broker_that_goes_away_says_what_it_took(app: App, wire: Wire, unknown: bool) -> None:
    wire.errors[2] = BrokerUnavailable("gone", outcome_unknown=unknown)
    items = iter(range(100))
    with pytest.raises(BulkSendError, match="of 20 tasks the broker took 10") as raised:
        app.tasks["add"].map_async(items, chunk_size=10)
    error = raised.value
    assert isinstance(error, OperationalError) and error.outcome_unknown is unknown
    assert next(items) == 20
    results = error.result
    assert isinstance(results, BulkResult) and len(results) == 20 and error.accepted == 10
    ids = tuple(result.id for result in results[10:])
    assert (error.unknown, error.unsent) == ((ids, ()) if unknown else ((), ids))
    assert results.unknown == (list(range(10, 20)) if unknown else [])
    assert sorted(results.errors) == list(range(10, 20))
    assert {result.state for result in results[10:]} == {"PENDING" if unknown else "FAILURE"}
    assert first_arguments(app) == list(range(10))
    again = pickle.loads(pickle.dumps(BulkSendError(1, ["a"], ["b"], ValueError("x"))))
    assert (again.accepted, again.unsent, again.unknown) == (1, ("a",), ("b",))


def test_the_queues_after_the_one_that_failed_are_not_tried(app: App, wire: Wire) -> None:
    wire.errors[2] = BrokerUnavailable("gone", outcome_unknown=True)
    calls = [("n", (index,), {}, {"queue": queue}) for index, queue in enumerate("aabbcc")]
    with pytest.raises(BulkSendError) as raised:
        app.send_tasks(calls)
    assert wire.calls == [2, 2]
    assert raised.value.result.unknown == [2, 3]
    assert raised.value.unsent == tuple(result.id for result in raised.value.result[4:])


def test_a_queue_that_refuses_leaves_the_others_alone(app: App, wire: Wire) -> None:
    wire.refused["b"] = TransportError("no list")
    results = app.send_tasks([("n", (index,), {}, {"queue": queue}) for index, queue in enumerate("abc")])
    assert list(results.errors) == [1] and results.unknown == []
    with pytest.raises(TransportError, match="no list"):
        results[1].get()
    assert (first_arguments(app, "a"), first_arguments(app, "c")) == ([0], [2])


def test_the_end_of_a_block_tells_of_what_was_refused(app: App, wire: Wire) -> None:
    wire.refused["b"] = TransportError("no list")
    with pytest.raises(BulkSendError) as raised, app.bulk():
        app.send_task("n", queue="a")
        refused = app.send_task("n", queue="b")
    assert (raised.value.accepted, raised.value.unsent) == (1, (refused.id,))


def test_a_block_that_cannot_be_sent_ends_with_the_call_that_has_no_room(app: App, wire: Wire) -> None:
    wire.errors[1] = BrokerUnavailable("gone")
    sent_ids = []
    with pytest.raises(BulkSendError) as raised, app.bulk(chunk_size=2):
        for number in range(9):
            sent_ids.append(app.tasks["add"].delay(number).id)
    assert raised.value.unsent == tuple(sent_ids) and len(sent_ids) == 2
    assert wire.calls == [2]


def test_a_broker_that_cannot_be_opened_is_no_matter_of_an_item() -> None:
    with memory_app(broker="nonsense://") as app, pytest.raises(TransportError, match="nonsense"):
        app.send_tasks([("n", ())])


def test_an_outage_shorter_than_the_publish_timeout_is_outlasted(app: App, wire: Wire) -> None:
    app.conf.task_publish_retry = True
    wire = Wire(app)
    wire.errors[1] = BrokerUnavailable("gone")
    assert app.tasks["add"].map_async(range(3)).errors == {}
    assert wire.calls == [3, 3]


# --- on Redis ---------------------------------------------------------------------------------------


def test_on_redis_a_chunk_is_one_command() -> None:
    with running_redis() as server:
        app = App("bulk", set_as_current=False, broker=server.url, result_backend="disabled")
        try:
            app.send_task("n", (0,))
            results = app.send_tasks(("n", (number,)) for number in range(1, 2001))
            assert len(results) == 2000 and results.errors == {}
            assert server.cli("LLEN", "celery") == "2001"
            assert server.cli("INFO", "commandstats").count("calls=4,") >= 1  # 2000 in 4 LPUSH
            assert server.cli("LPUSH", "wrong", "x") and server.cli("SET", "broken", "no list") == "OK"
            mixed = app.send_tasks([("n", (), {}, {"queue": name}) for name in ("broken", "fine")])
            assert list(mixed.errors) == [0]
            assert server.cli("LLEN", "fine") == "1"
            server.kill()
            app.conf.task_publish_retry = False
            with pytest.raises(BulkSendError, match="the broker took 0"):
                app.send_tasks([("n", ())])
        finally:
            app.close()
