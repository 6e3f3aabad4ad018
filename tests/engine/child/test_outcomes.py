"""What is stored and sent because of an execution, or because of a message that does not run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from prefork.engine import signals
from prefork.engine.app import App
from prefork.engine.child.admit import UNKNOWN_SINCE_HEADER
from prefork.engine.child.trial import Interrupted
from prefork.engine.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from prefork.engine.message import parse
from prefork.engine.message_edit import with_header
from prefork.engine.result_document import ResultDocument, decode
from prefork.engine.scoreboard import C_FAILED, C_RETRIED, C_SUCCEEDED
from prefork.transports.base import Outgoing
from support.apps import payload, sent
from support.corpus import document_of, good_document, good_parts
from support.one_child import OneChild

Make = Callable[..., OneChild]


def stored(app: App, task_id: str) -> ResultDocument | None:
    document = app.client.results.get([task_id])[0]
    return None if document is None else decode(document, app.client.table.by_name("json"))


def dead(app: App) -> list[tuple[str, tuple[str, ...]]]:
    return [(letter.reason, letter.causes) for letter in app.client.transport.dead_letters()]


def counters(child: OneChild) -> tuple[int, int, int]:
    return child.words[C_SUCCEEDED], child.words[C_FAILED], child.words[C_RETRIED]


class Explosive:
    """Its representation leaves the process."""

    def __repr__(self) -> str:
        sys.exit(3)


def test_a_result_that_cannot_be_encoded_is_a_failure_that_says_so(app: App, child_of: Make) -> None:
    @app.task
    def opaque():
        return object()

    result = opaque.delay()
    child = child_of(app)
    child.run()
    found = stored(app, result.id)
    assert found is not None and found.status == "FAILURE"
    assert found.result["exc_type"] == "EncodeError"
    assert counters(child) == (0, 1, 0), "it is counted as what it is"


def test_a_failure_to_encode_obeys_the_policy_for_failures(app: App, child_of: Make) -> None:
    @app.task(acks_on_failure=False)
    def opaque():
        return object()

    opaque.delay()
    child_of(app).run()
    assert [reason for reason, _ in dead(app)] == ["raised"]


def test_a_result_that_is_too_large_is_a_failure_that_says_so(app: App, child_of: Make) -> None:
    app.conf.result_max_bytes = 1000

    @app.task
    def large():
        return "x" * 2000

    result = large.delay()
    child_of(app).run()
    found = stored(app, result.id)
    assert found is not None and found.result["exc_type"] == "BackendStoreError"


def test_an_object_that_cannot_even_be_shown_harms_nobody(app: App, child_of: Make) -> None:
    @app.task
    def explosive():
        return Explosive()

    @app.task
    def add(x, y):
        return x + y

    first, second = explosive.delay(), add.delay(1, 2)
    child_of(app).run()
    found = stored(app, first.id)
    assert found is not None and found.status == "FAILURE"
    assert second.get(timeout=1) == 3


def test_arguments_that_a_task_has_spoilt_do_not_hide_its_failure(app: App, child_of: Make) -> None:
    app.conf.result_extended = True

    @app.task
    def spoil(things):
        things.append(object())
        raise ValueError("the reason")

    result = spoil.delay([1])
    child_of(app).run()
    found = stored(app, result.id)
    assert found is not None and found.status == "FAILURE"


@pytest.mark.parametrize(
    ("error", "state", "letters"),
    [
        (Ignore(), None, []),
        (Reject("not for me"), "FAILURE", [("reject", ("not for me",))]),
        (ValueError("wrong"), "FAILURE", []),
        (SoftTimeLimitExceeded(), "FAILURE", []),
        (SystemExit(3), "FAILURE", []),
    ],
)
def test_what_a_task_raises_decides(
    app: App, child_of: Make, error: BaseException, state: str | None, letters: list[Any]
) -> None:
    @app.task
    def work():
        raise error

    result = work.delay()
    child_of(app).run()
    found = stored(app, result.id)
    assert (None if found is None else found.status) == state
    assert dead(app) == letters


@pytest.mark.parametrize("error", [Reject("later", requeue=True), Interrupted("leaving")])
def test_a_message_may_go_back_to_its_queue(app: App, child_of: Make, error: BaseException) -> None:
    seen: list[int] = []

    @app.task(bind=True)
    def work(self):
        seen.append(1)
        if len(seen) == 1:
            raise error
        return self.request.redelivered

    result = work.delay()
    child_of(app).run()
    assert result.get(timeout=1) is True


def test_a_soft_limit_that_gives_back_is_no_failure_yet(app: App, child_of: Make) -> None:
    seen: list[int] = []

    @app.task
    def sorry(task_id):
        return task_id

    @app.task(acks_on_timeout=False)
    def work():
        seen.append(1)
        if len(seen) == 1:
            raise SoftTimeLimitExceeded
        return "at last"

    result = work.apply_async(link_error=sorry.s().set(queue="sorry"))
    child_of(app).run()
    assert result.get(timeout=1) == "at last"
    assert sent(app, "sorry") == []


def test_a_retry_may_change_arguments_and_queue(app: App, child_of: Make) -> None:
    @app.task(bind=True)
    def work(self, x):
        raise self.retry(args=(x + 1,), queue="elsewhere", countdown=60)

    result = work.delay(1)
    child = child_of(app)
    child.run()
    (again,) = sent(app, "elsewhere")
    assert (again.id, again.retries, payload(app, again)[0]) == (result.id, 1, [2])
    found = stored(app, result.id)
    assert found is not None and found.status == "RETRY"
    assert counters(child) == (0, 0, 1)


def test_a_retry_that_cannot_be_sent_is_a_failure(app: App, child_of: Make) -> None:
    @app.task(bind=True)
    def work(self):
        raise self.retry(args=(object(),))

    result = work.delay()
    child_of(app).run()
    found = stored(app, result.id)
    assert found is not None and found.status == "FAILURE"


def test_error_callbacks_that_fail_do_not_hide_the_failure(app: App, child_of: Make) -> None:
    @app.task
    def sorry(request, exc, traceback):
        sys.exit(4)

    @app.task
    def work():
        raise ValueError("the reason")

    result = work.apply_async(link_error=sorry.s())
    child_of(app).run()
    found = stored(app, result.id)
    assert found is not None and found.result["exc_message"] == ["the reason"]


def test_error_callbacks_that_are_no_signatures_do_not_hide_the_failure(app: App, child_of: Make) -> None:
    @app.task(name="proj.work")
    def work():
        raise ValueError("the reason")

    parts = good_parts()
    parts["headers"].update(task="proj.work", id="id-1")
    body = b'[[], {}, {"errbacks": [{"task": "x", "options": 3, "args": 4}], "callbacks": null}]'
    app.client.transport.send([Outgoing("celery", document_of(parts, body))])
    child_of(app).run()
    found = stored(app, "id-1")
    assert found is not None and found.result["exc_message"] == ["the reason"]
    assert app.client.transport.depth("celery").in_work == 0


# --- messages that do not run ----------------------------------------------------------------------------


def test_bytes_that_are_no_message_become_a_dead_letter(app: App, child_of: Make) -> None:
    seen: list[Any] = []

    def receiver(message, exc, **_):
        seen.append((message.body, message.headers, message.delivery_info["routing_key"], exc.reason.value))

    signals.task_rejected.connect(receiver, weak=False)
    app.client.transport.send([Outgoing("celery", b"\xff\x00 nothing")])
    try:
        child_of(app).run()
    finally:
        signals.task_rejected.disconnect(receiver)
    assert len(dead(app)) == 1
    assert seen == [(b"\xff\x00 nothing", {}, "celery", "not-json")]


@pytest.mark.parametrize("extra", ["", '"nan": NaN, ', '"lone": "\\ud800", '])
def test_an_unknown_task_is_told_of_once_waits_then_becomes_a_dead_letter(
    app: App, child_of: Make, extra: str
) -> None:
    app.conf.task_unknown_grace = 0.2
    app.conf.task_unknown_retry_delay = 0.05
    seen: list[Any] = []

    def receiver(message, name, **_):
        seen.append((name, message.headers["task"], message.payload[0]))

    document = good_document(task="proj.nowhere", id="id-1").decode()
    document = document.replace('"headers": {', '"headers": {' + extra).replace(
        '"headers":{', '"headers":{' + extra
    )
    app.client.transport.send([Outgoing("celery", document.encode())])
    signals.task_unknown.connect(receiver, weak=False)
    child = child_of(app)
    try:
        child.idle._before = lambda: not dead(app)
        child.run()
    finally:
        signals.task_unknown.disconnect(receiver)
    assert [reason for reason, _ in dead(app)] == ["unknown-task"]
    assert seen == [("proj.nowhere", "proj.nowhere", [2, 2])]
    found = stored(app, "id-1")
    assert found is not None and found.result["exc_type"] == "NotRegistered"


def test_a_header_can_be_added_to_any_message_that_can_be_read(app: App) -> None:
    table = app.client.table
    strange = good_document(id="a").replace(b'"id"', b'"x": "\\ud800", "y": NaN, "id"', 1)
    assert b"NaN" in strange
    for document in (good_document(id="a"), strange):
        before = parse(document, table)
        after = parse(with_header(document, UNKNOWN_SINCE_HEADER, 12.5), table)
        headers = {**before.all_headers(table), UNKNOWN_SINCE_HEADER: 12.5}
        assert repr(after.all_headers(table)) == repr(headers)  # NaN is not equal to itself
        assert after.payload(table) == before.payload(table)


def test_an_expired_task_is_revoked_and_said_so(app: App, child_of: Make) -> None:
    seen: list[Any] = []

    def receiver(request, expired, **_):
        assert request.expires.tzinfo is not None
        seen.append((request.id, request.task_name, request.args, request.kwargs, expired))

    @app.task
    def never(x, y):
        raise AssertionError

    result = never.apply_async((1,), {"y": 2}, expires=-1)
    signals.task_revoked.connect(receiver, weak=False)
    try:
        child_of(app).run()
    finally:
        signals.task_revoked.disconnect(receiver)
    found = stored(app, result.id)
    assert found is not None and found.status == "REVOKED"
    assert seen == [(result.id, never.name, [1], {"y": 2}, True)]


def test_a_part_of_a_chord_runs_and_it_is_said_once_that_nobody_counts_it(
    app: App, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="proj.add")
    def add(x, y):
        return x + y

    parts = good_parts()
    chord = {"task": "proj.sum", "args": [], "kwargs": {}, "options": {"task_id": "body"}}
    body = json.dumps([[2, 2], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": chord}])
    for _ in range(2):
        app.client.transport.send([Outgoing("celery", document_of(parts, body.encode()))])
    child = child_of(app)
    child.run()
    found = stored(app, parts["headers"]["id"])
    assert found is not None and found.result == 4
    assert caplog.text.count("part of a chord") == 1
