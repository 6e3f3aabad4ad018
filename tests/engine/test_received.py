"""What receivers of signals are given about a message: the names that receivers for Celery read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from celery.worker.request import Request
from kombu.message import Message

from prefork.engine.app import App
from prefork.engine.message import Embed, parse
from prefork.engine.message_errors import MalformedMessage
from prefork.engine.received import ReceivedMessage, ReceivedRequest
from prefork.engine.request import Context, context_of
from prefork.serializers.base import SerializerError
from support.apps import memory_app
from support.corpus import bad_messages, document_of, good_document, good_parts

DAY = "2033-05-18T03:33:20+00:00"
# What a receiver could only do harm with, or what is the worker's inside.
INSIDE = {
    *("on_ack", "on_reject", "eventer", "connection_errors", "tzlocal", "store_errors", "groups"),
    *("acknowledged", "time_start", "worker_pid"),
}
SETTLING = {"ack", "ack_log_error", "reject", "reject_log_error", "requeue", "acknowledged"}


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app() as made:

        @made.task(name="proj.add", ignore_result=True)
        def add(x: int, y: int) -> None:
            """Never run here."""

        yield made


def request_of(app: App, document: bytes, *, decoded: bool) -> ReceivedRequest:
    message = parse(document, app.client.table)
    payload = message.payload(app.client.table) if decoded else ([], {}, Embed())
    context = context_of(message, payload, queue="celery", redelivered=False, crashes=0, node="w@here")
    return ReceivedRequest(context, app.tasks.get(message.task), app, app.client.table, decoded=decoded)


def public(kind: type) -> set[str]:
    """The names of values that an object of this class has; its methods left out."""
    named = {name for name in dir(kind) if not name.startswith("_")}
    return {name for name in named if not callable(getattr(kind, name))}


@pytest.mark.parametrize("decoded", [True, False])
def test_a_request_answers_to_what_a_request_of_celerys_answers_to(app: App, decoded: bool) -> None:
    document = good_document(id="id-1", eta=DAY, expires=DAY, timelimit=[3, 2], ignore_result=None)
    request = request_of(app, document, decoded=decoded)
    missing = [name for name in public(Request) - INSIDE if not hasattr(request, name)]
    assert missing == []
    assert (request.id, request.task_id) == ("id-1", "id-1")
    assert request.name == request.task_name == request.type == "proj.add"
    assert (request.task, request.app) == (app.tasks["proj.add"], app)
    assert (request.args, request.kwargs) == ([2, 2], {})
    assert (request.argsrepr, request.kwargsrepr) == ("(2, 2)", "{}")
    assert request.eta == request.expires == datetime(2033, 5, 18, 3, 33, 20, tzinfo=timezone.utc)
    assert request.time_limits == (3.0, 2.0)
    assert (request.hostname, request.utc, request.ignore_result) == ("w@here", True, True)
    assert (request.content_type, request.content_encoding) == ("application/json", "utf-8")
    assert request.delivery_info["routing_key"] == "celery"
    assert (request.stamped_headers, request.stamps) == ([], {})
    assert request.body.startswith(b"[[2, 2]")
    assert request.message.headers["id"] == request.request_dict["id"] == "id-1"
    assert request.retries == 0, "what else the task itself sees"
    assert "2, 2" not in repr(request)


def test_a_shadow_is_the_name_that_is_shown_and_headers_cannot_take_its_place(app: App) -> None:
    request = request_of(app, good_document(shadow="seen as", name="forged", mine="here"), decoded=True)
    assert (request.name, request.task_name, request.type) == ("seen as", "seen as", "proj.add")
    assert request.mine == "here"
    with pytest.raises(AttributeError, match="neither a field nor a custom header 'yours'"):
        request.yours  # noqa: B018 - it raises


def test_a_request_without_its_message_says_what_is_known(app: App) -> None:
    request = ReceivedRequest(Context(id="a", task="gone"), None, app, app.client.table)
    assert (request.id, request.name, request.task, request.args, request.kwargs) == (
        "a",
        "gone",
        None,
        [],
        {},
    )
    assert (request.message, request.body, request.eta, request.argsrepr) == (None, None, None, "")
    assert not request.ignore_result
    assert request.request_dict["correlation_id"] is None


def test_arguments_that_cannot_be_read_are_none(app: App) -> None:
    request = request_of(app, document_of(good_parts(), b"[[1, 2"), decoded=False)
    assert (request.args, request.kwargs, request.name) == ([], {}, "proj.add")


def test_a_message_answers_to_what_a_message_of_kombus_answers_to(app: App) -> None:
    message = ReceivedMessage(good_document(id="id-1"), "celery", app.client.table, redelivered=True)
    missing = [
        name
        for name in public(Message) - SETTLING - {"channel", "accept", "errors"}
        if not hasattr(message, name)
    ]
    assert missing == []
    assert message.headers["id"] == "id-1"
    assert message.properties["correlation_id"]
    assert message.delivery_info == {
        "exchange": "",
        "routing_key": "celery",
        "priority": 0,
        "redelivered": True,
    }
    assert message.decode()[:2] == message.payload[:2] == [[2, 2], {}]
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    assert "2, 2" not in repr(message)


@pytest.mark.parametrize("bad", bad_messages(), ids=lambda bad: bad.name)
def test_a_malformed_message_can_be_looked_at_and_says_why_it_cannot_be_decoded(app: App, bad: Any) -> None:
    message = ReceivedMessage(bad.document, "celery", app.client.table)
    for name in public(ReceivedMessage) - {"payload"}:
        getattr(message, name)
    assert isinstance(message.headers, dict) and isinstance(message.body, bytes) and repr(message)
    try:
        message.decode()
    except (MalformedMessage, SerializerError):
        return
    assert message.properties, "a body that can be read is that of a message"
