from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from prefork.engine import signals
from prefork.engine.app import App
from prefork.engine.exceptions import (
    ImproperlyConfigured,
    InvalidTaskError,
    MaxRetriesExceededError,
    Retry,
)
from prefork.engine.execution import execute
from prefork.engine.local import current_task, get_current_task, get_current_worker_task
from prefork.engine.publishing import retry_changes
from prefork.engine.request import Context
from prefork.serializers.base import EncodeError
from prefork.transports.errors import BrokerUnavailable
from support.apps import memory_app, payload, sent


@pytest.fixture
def app() -> Any:
    with memory_app(accept_content=["json", "msgpack"]) as made:
        yield made


def make(app: App, function: Any = None, **options: Any) -> Any:
    return app.task(name=options.pop("name", "proj.t"), **options)(function or (lambda x, y=0: x + y))


# --- what is sent -----------------------------------------------------------------------------------


def test_delay_sends_the_arguments(app: App) -> None:
    result = make(app).delay(1, y=2)
    (message,) = sent(app)
    args, kwargs, embed = payload(app, message)
    assert (message.id, message.task, message.retries) == (result.id, "proj.t", 0)
    assert (args, kwargs) == ([1], {"y": 2})
    assert (embed.callbacks, embed.errbacks, embed.chain, embed.chord) == (None, None, None, None)
    assert (message.root_id, message.parent_id) == (result.id, None)
    assert message.origin is not None and message.origin.startswith("gen")
    assert message.argsrepr in ("", None)


def test_every_option_of_a_call_reaches_the_message(app: App) -> None:
    task = make(app)
    before = datetime.now(timezone.utc)
    task.apply_async(
        (1,),
        {"y": 2},
        task_id="my-id",
        countdown=100,
        expires=200,
        queue="special",
        priority=7,
        serializer="msgpack",
        compression="zlib",
        time_limit=30,
        soft_time_limit=20,
        ignore_result=True,
        shadow="other-name",
        headers={"trace": "abc"},
        root_id="root",
        parent_id="parent",
        group_id="group",
        group_index=3,
        retries=1,
        reply_to="me",
        link=task.s(5),
        link_error=[task.s(6)],
        delivery_mode="transient",
        message_id="m-1",
    )
    (message,) = sent(app, "special")
    args, kwargs, embed = payload(app, message)
    assert (args, kwargs) == ([1], {"y": 2})
    assert (message.id, message.priority, message.retries) == ("my-id", 7, 1)
    assert (message.time_limit_s, message.soft_time_limit_s) == (30, 20)
    assert (message.ignore_result, message.shadow) == (True, "other-name")
    assert (message.root_id, message.parent_id) == ("root", "parent")
    assert (message.group, message.group_index, message.reply_to) == ("group", 3, "me")
    assert message.content_type == "application/x-msgpack"
    assert message.compression == "application/x-gzip"
    assert message.eta_wall_s == pytest.approx(before.timestamp() + 100, abs=5)
    assert message.expires_wall_s == pytest.approx(before.timestamp() + 200, abs=5)
    assert message.all_headers(app.client.table)["trace"] == "abc"
    assert [sig["args"] for sig in embed.callbacks or ()] == [[5]]
    assert [sig["args"] for sig in embed.errbacks or ()] == [[6]]
    (waiting,) = app.client.transport.peek("special", delayed=True)
    assert waiting.due_wall_s == pytest.approx(message.eta_wall_s, abs=1e-5)


def test_eta_delays_until_then(app: App) -> None:
    eta = datetime.now(timezone.utc) + timedelta(hours=1)
    make(app).apply_async((1,), eta=eta)
    assert app.client.transport.depth("celery").delayed == 1
    (message,) = sent(app)
    assert message.eta_wall_s == pytest.approx(eta.timestamp(), abs=0.001)


def test_limits_of_the_task_travel_and_those_of_the_configuration_do_not() -> None:
    with memory_app(task_time_limit=99) as app:
        make(app, name="own", time_limit=9).delay(1)
        make(app, name="none").delay(1)
        own, none = sent(app)
        assert own.time_limit_s == 9
        assert none.time_limit_s is None


def test_the_expiry_of_a_task_holds_for_every_call(app: App) -> None:
    make(app, expires=60).delay(1)
    (message,) = sent(app)
    assert message.expires_wall_s is not None


def test_an_option_of_a_route_reaches_the_message() -> None:
    with memory_app(task_routes={"proj.*": {"queue": "r", "priority": 5}}) as app:
        task = make(app)
        task.delay(1)
        task.apply_async((1,), priority=2)
        assert [message.priority for message in sent(app, "r")] == [5, 2]


def test_a_fanned_out_call_reaches_every_queue() -> None:
    queues = [{"name": n, "exchange": "cast", "exchange_type": "fanout"} for n in ("a", "b")]
    with memory_app(task_queues=queues) as app:
        make(app).apply_async((1,), exchange="cast")
        assert len(sent(app, "a")) == len(sent(app, "b")) == 1


def test_protocol_1_is_written_when_it_is_configured() -> None:
    with memory_app(task_protocol=1) as app:
        make(app).delay(1)
        (message,) = sent(app)
        assert message.protocol == 1
        assert payload(app, message)[0] == [1]


def test_arguments_are_shown_in_headers_only_when_configured() -> None:
    with memory_app(task_send_argsrepr=True) as app:
        make(app).delay(1, y=2)
        (message,) = sent(app)
        assert (message.argsrepr, message.kwargsrepr) == ("(1,)", "{'y': 2}")


# --- what is refused --------------------------------------------------------------------------------


def test_arguments_are_checked_before_anything_is_sent(app: App) -> None:
    task = make(app)
    with pytest.raises(TypeError, match="missing 1 required argument: 'x'"):
        task.delay()
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        task.apply_async((1,), {"z": 1})
    assert sent(app) == []


def test_the_check_can_be_switched_off() -> None:
    with memory_app(strict_typing=False) as app:
        make(app, name="a").delay()
        with pytest.raises(TypeError):
            make(app, name="b", typing=True).delay()
    with memory_app() as app:
        make(app, typing=False).delay()
        assert len(sent(app)) == 1


def test_an_argument_without_a_form_is_named(app: App) -> None:
    with pytest.raises(EncodeError, match=r"args\[0\]\['user'\]"):
        make(app).delay({"user": object()})
    assert sent(app) == []


@pytest.mark.parametrize(
    "options",
    [
        {"priority": "high"},
        {"time_limit": -1},
        {"time_limit": 1, "soft_time_limit": 2},
        {"countdown": float("nan")},
        {"eta": 5},
        {"expires": "whenever"},
        {"headers": [1]},
        {"delivery_mode": "sometimes"},
        {"link": ["proj.t"]},
    ],
)
def test_an_option_that_cannot_be_honoured_is_named(app: App, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidTaskError, match=next(reversed(options)).split("_")[0]):
        make(app).apply_async((1,), **options)
    assert sent(app) == []


def test_publishing_is_tried_again_while_the_policy_says_so(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(app)
    task.delay(0)
    transport = app.client.transport
    send, failures = (
        transport.send,
        [BrokerUnavailable("away"), BrokerUnavailable("away", outcome_unknown=True)],
    )

    def flaky(messages: Any) -> None:
        if failures:
            raise failures.pop(0)
        send(messages)

    monkeypatch.setattr(transport, "send", flaky)
    task.apply_async((1,), retry_policy={"interval_step": 0.0})
    assert len(sent(app)) == 2
    failures[:] = [BrokerUnavailable("away")]
    with pytest.raises(BrokerUnavailable):
        task.apply_async((1,), retry=False)
    failures[:] = [BrokerUnavailable("away", outcome_unknown=True), *[BrokerUnavailable("away")] * 9]
    with pytest.raises(BrokerUnavailable) as caught:
        task.apply_async((1,), retry_policy={"interval_step": 0.0})
    assert caught.value.outcome_unknown
    assert len(sent(app)) == 2


# --- signals ----------------------------------------------------------------------------------------


def test_receivers_may_add_headers_before_publishing(app: App) -> None:
    seen: list[Any] = []

    def before(sender: str, headers: dict[str, Any], body: Any, properties: dict[str, Any], **_: Any) -> None:
        seen.append((sender, headers["id"], body[0]))
        headers["trace"] = "t-1"
        properties["app_id"] = "me"

    def after(sender: str, headers: dict[str, Any], **_: Any) -> None:
        seen.append(headers["trace"])

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        result = make(app).delay(1)
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)
    (message,) = sent(app)
    assert message.all_headers(app.client.table)["trace"] == "t-1"
    assert seen == [("proj.t", result.id, (1,)), "t-1"]


# --- requests ---------------------------------------------------------------------------------------


def test_a_plain_call_has_a_request_that_says_so(app: App) -> None:
    @app.task(bind=True)
    def f(self: Any, x: int) -> Any:
        return self.request.called_directly, self.request.args, current_task == self

    assert f(3) == (True, (3,), True)
    assert f.request.called_directly
    assert f.request.id is None
    assert get_current_task() is None


def test_requests_nest_and_belong_to_their_task(app: App) -> None:
    @app.task(name="inner", bind=True)
    def inner(self: Any) -> Any:
        return self.request.id, outer.request.id, get_current_worker_task() is outer

    @app.task(name="outer", bind=True)
    def outer(self: Any) -> Any:
        return inner()

    done = execute(outer, Context(id="out", called_directly=False))
    assert done.value == (None, "out", True)


def test_a_thread_that_a_task_starts_is_not_the_task(app: App) -> None:
    @app.task(bind=True)
    def f(self: Any) -> Any:
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append((self.request.id, get_current_task())))
        thread.start()
        thread.join()
        return seen[0]

    assert execute(f, Context(id="x", called_directly=False)).value == (None, None)


def test_a_request_is_pushed_and_popped(app: App) -> None:
    task = make(app)
    task.push_request(id="pushed", called_directly=False)
    assert task.request.id == "pushed"
    task.push_request(Context(id="again"))
    assert task.request.id == "again"
    task.pop_request()
    task.pop_request()
    assert task.request.id is None


def test_a_context_has_every_field_and_takes_more() -> None:
    context = Context({"id": "a"}, retries=2, mine=1)
    assert (context.id, context.retries, context.get("mine"), context.get("none", 5)) == ("a", 2, 1, 5)
    assert (context.eta, context.chord, context.is_eager, context.called_directly) == (
        None,
        None,
        False,
        True,
    )
    context.children.append("x")
    assert context.children == ["x"]
    context.children = None
    assert context.children == []
    context.update(timelimit=[3, 2])
    assert (context.time_limit, context.soft_time_limit) == (3, 2)
    options = context.as_execution_options()
    assert (options["task_id"], options["time_limit"], options["retries"]) == ("a", 3, 2)
    context.clear()
    assert context.id is None
    assert "Context" in repr(context)


def test_headers_of_a_broker_do_not_travel_on() -> None:
    assert Context(headers={"trace": 1, "x-death": []}).custom_headers() == {"trace": 1}
    assert Context(headers={"x-death": []}).custom_headers() is None
    assert Context().custom_headers() is None


def test_tasks_sent_by_a_task_are_its_children(app: App) -> None:
    child = make(app, name="child")

    @app.task(name="parent", bind=True)
    def parent(self: Any) -> Any:
        one = child.delay(1)
        child.apply_async((2,), add_to_parent=False)
        return one, self.request.children

    done = execute(parent, Context(id="p", root_id="r", called_directly=False))
    one, children = done.value
    assert children == [one]
    messages = sent(app)
    assert {(m.root_id, m.parent_id) for m in messages} == {("r", "p")}


def test_priority_is_inherited_when_configured() -> None:
    with memory_app(task_inherit_parent_priority=True) as app:
        child = make(app, name="child")

        @app.task(name="parent")
        def parent() -> None:
            child.apply_async((1,), queue="q")
            child.apply_async((1,), queue="q", priority=1)

        execute(parent, Context(id="p", priority=8, called_directly=False))
        assert sorted(message.priority for message in sent(app, "q")) == [1, 8]


# --- retries ----------------------------------------------------------------------------------------


def run(task: Any, *args: Any, **fields: Any) -> Any:
    return execute(task, Context(id="id", args=args, called_directly=False, **fields))


def test_retry_plans_the_next_attempt_and_sends_nothing(app: App) -> None:
    @app.task(bind=True, default_retry_delay=7)
    def f(self: Any, x: int) -> None:
        raise self.retry(args=(x + 1,), kwargs={"k": 1}, queue="other")

    before = datetime.now(timezone.utc).timestamp()
    done = run(f, 1, retries=1)
    assert (done.state, done.retry.retries) == ("RETRY", 2)
    assert (done.retry.args, done.retry.kwargs, done.retry.options) == ((2,), {"k": 1}, {"queue": "other"})
    assert done.retry.due_wall_s == pytest.approx(before + 7, abs=2)
    assert sent(app) == []


def test_retry_without_throwing_lets_the_task_go_on(app: App) -> None:
    @app.task(bind=True)
    def f(self: Any) -> str:
        retry = self.retry(countdown=1, throw=False)
        assert isinstance(retry, Retry)
        return "went on"

    done = run(f)
    assert (done.state, done.value, done.retry.retries) == ("SUCCESS", "went on", 1)


def test_retries_run_out(app: App) -> None:
    @app.task(bind=True, max_retries=2)
    def f(self: Any, exc: Any) -> None:
        raise self.retry(exc=exc)

    with_exc = run(f, ValueError("why"), retries=2)
    assert (with_exc.state, repr(with_exc.value)) == ("FAILURE", "ValueError('why')")
    without = run(f, None, retries=2)
    assert isinstance(without.value, MaxRetriesExceededError)
    assert without.value.task_args == (None,)
    f.max_retries = None
    assert run(f, None, retries=10_000).state == "RETRY"


def test_a_call_may_raise_its_own_ceiling(app: App) -> None:
    @app.task(bind=True, max_retries=0)
    def f(self: Any) -> None:
        raise self.retry(max_retries=5)

    assert run(f, retries=4).state == "RETRY"
    assert run(f, retries=5).state == "FAILURE"


def test_retry_in_a_plain_call_raises_what_went_wrong(app: App) -> None:
    @app.task(bind=True)
    def f(self: Any, exc: Any) -> None:
        raise self.retry(exc=exc)

    with pytest.raises(ValueError, match="why"):
        f(ValueError("why"))
    with pytest.raises(Retry):
        f(None)


def test_automatic_retries_back_off(app: App) -> None:
    @app.task(
        autoretry_for=(LookupError,),
        dont_autoretry_for=[IndexError],
        retry_backoff=10,
        retry_backoff_max=25,
        retry_jitter=False,
        retry_kwargs={"max_retries": 2},
    )
    def f(exc: Exception) -> None:
        raise exc

    now = datetime.now(timezone.utc).timestamp()
    assert run(f, KeyError(), retries=0).retry.due_wall_s == pytest.approx(now + 10, abs=2)
    assert run(f, KeyError(), retries=1).retry.due_wall_s == pytest.approx(now + 20, abs=2)
    assert isinstance(run(f, KeyError("k"), retries=2).value, KeyError)
    assert run(f, IndexError()).state == "FAILURE"
    assert run(f, ValueError()).state == "FAILURE"
    f.override_max_retries = 9  # type: ignore[attr-defined]
    assert run(f, KeyError(), retries=8).state == "RETRY"


# --- states -----------------------------------------------------------------------------------------


def test_a_state_of_ones_own_is_readable(app: App) -> None:
    @app.task(bind=True)
    def f(self: Any) -> Any:
        self.update_state(state="PROGRESS", meta={"done": 3})
        return app.AsyncResult("id").state, app.AsyncResult("id").info

    assert run(f).value == ("PROGRESS", {"done": 3})


def test_no_state_is_stored_for_an_ignored_result(app: App) -> None:
    @app.task(bind=True, ignore_result=True)
    def f(self: Any) -> str:
        self.update_state(state="PROGRESS")
        return app.AsyncResult("id").state

    assert run(f).value == "PENDING"
    assert run(f, ignore_result=False).value == "PROGRESS"


def test_a_state_needs_an_id(app: App) -> None:
    task = make(app)
    with pytest.raises(ImproperlyConfigured, match="task_id"):
        task.update_state(state="X")
    task.update_state(task_id="other", state="X")
    assert app.AsyncResult("other").state == "X"


def test_options_changed_at_run_time_take_effect(app: App) -> None:
    task = make(app)
    task.delay(1)
    task.queue = "elsewhere"
    task.delay(2)
    assert len(sent(app, "elsewhere")) == 1


def test_the_app_of_a_task_can_be_set(app: App) -> None:
    with memory_app("second") as second:
        task = make(app)
        assert task.app is app
        task.app = second
        assert task.backend is second.backend
        task.delay(1)
        assert len(sent(second)) == 1


def test_routing_by_queue_objects(app: App) -> None:
    queue = SimpleNamespace(name="obj", exchange=None, routing_key=None)
    make(app).apply_async((1,), queue=queue)
    assert len(sent(app, "obj")) == 1


def test_a_request_shows_the_message_it_came_in(app: App) -> None:
    make(app).apply_async((1,), headers={"trace": 1}, countdown=60, expires=90)
    (message,) = sent(app)
    context = Context({"message": message})
    assert context.headers == {"trace": 1}
    assert context.eta is not None and context.expires is not None
    assert datetime.fromisoformat(context.eta).timestamp() == message.eta_wall_s
    assert datetime.fromisoformat(context.expires).timestamp() == message.expires_wall_s
    context.headers, context.eta, context.expires = {"other": 2}, "then", None
    assert (context.headers, context.eta, context.expires) == ({"other": 2}, "then", None)


def test_options_of_a_retry_become_changes_of_the_message() -> None:
    changes = retry_changes(
        {
            "queue": "q",
            "expires": 5,
            "time_limit": 3,
            "priority": 4,
            "link": [{"task": "t"}],
            "headers": {"a": 1},
            "shadow": "s",
        },
        100.0,
    )
    assert changes == {
        "expires_wall_s": 105.0,
        "time_limit_s": 3.0,
        "priority": 4,
        "callbacks": [{"task": "t"}],
        "headers": {"a": 1},
        "shadow": "s",
    }
    assert retry_changes({}, 0.0) == {}
    with pytest.raises(InvalidTaskError):
        retry_changes({"priority": -1}, 0.0)


def test_a_task_may_show_another_name_for_each_call(app: App) -> None:
    class Shadowed(app.Task):  # type: ignore[name-defined, misc]
        def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
            return f"shown-{args[0]}"

    task = make(app, base=Shadowed)
    task.delay(5)
    task.apply_async((5,), shadow="mine")
    assert [message.shadow for message in sent(app)] == ["shown-5", "mine"]
