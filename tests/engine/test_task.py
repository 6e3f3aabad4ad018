"""Calls of a task: what is sent, what is refused, and who is told."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from prefork.engine import signals
from prefork.engine.app import App
from prefork.engine.exceptions import InvalidTaskError
from prefork.serializers.base import EncodeError
from prefork.transports.errors import BrokerUnavailable
from support.any_task import make
from support.apps import memory_app, payload, sent


@pytest.fixture
def app() -> Any:
    with memory_app(accept_content=["json", "msgpack"]) as made:
        yield made


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


def test_a_task_may_show_another_name_for_each_call(app: App) -> None:
    class Shadowed(app.Task):  # type: ignore[name-defined, misc]
        def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
            return f"shown-{args[0]}"

    task = make(app, base=Shadowed)
    task.delay(5)
    task.apply_async((5,), shadow="mine")
    assert [message.shadow for message in sent(app)] == ["shown-5", "mine"]
