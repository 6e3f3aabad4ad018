"""What a child does about messages that are revoked, and about an execution that is to be ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.engine import signals
from prefork.engine.app import App
from prefork.engine.exceptions import SoftTimeLimitExceeded
from prefork.engine.result_document import decode
from prefork.engine.revoked_board import A_STAMPS
from prefork.engine.revoked_keys import digest_of, stamp_key, task_digest
from prefork.engine.scoreboard import C_EXECUTIONS, S_TERMINATED, S_TERMINATION_SIGNAL
from prefork.transports.base import Outgoing
from support.one_child import OneChild

Make = Callable[..., OneChild]


@pytest.fixture
def heard() -> Iterator[list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []

    def receiver(sender: Any, **about: Any) -> None:
        told.append(about)

    signals.task_revoked.connect(receiver, weak=False)
    yield told
    signals.task_revoked.disconnect(receiver)


def stored(app: App, task_id: str) -> Any:
    document = app.client.results.get([task_id])[0]
    return None if document is None else decode(document, app.client.table.by_name("json"))


def test_a_revoked_message_is_dropped_before_its_body_is_read(
    app: App, child_of: Make, heard: list[dict[str, Any]]
) -> None:
    ran: list[int] = []

    @app.task(name="work")
    def work(n: int) -> None:
        ran.append(n)

    work.apply_async((1,), task_id="a")
    [waiting] = app.client.transport.peek("celery", 10)
    app.client.transport.purge("celery")
    spoilt = waiting.document.replace(b"e30sIHsi", b"AAAAAAAA")
    app.client.transport.send([Outgoing("celery", spoilt)])
    work.apply_async((2,), task_id="b")
    child = child_of(app)
    child.parts.revoked_board.add(task_digest("a"))
    child.run()
    assert ran == [2]
    assert (stored(app, "a").status, stored(app, "b").status) == ("REVOKED", "SUCCESS")
    [about] = heard
    assert (about["request"].id, about["terminated"], about["expired"]) == ("a", False, False)
    assert list(app.client.transport.dead_letters()) == []


@pytest.mark.parametrize("options", [{"countdown": 3600}, {"task_name": "nobody.knows"}])
def test_what_would_wait_is_dropped_instead(app: App, child_of: Make, options: dict[str, Any]) -> None:
    name = options.pop("task_name", "work")

    @app.task(name="work")
    def work() -> None:
        raise AssertionError("it was revoked")

    app.send_task(name, task_id="a", **options)
    found = app.client.transport.peek("celery", 10, delayed="countdown" in options)
    app.client.transport.purge("celery")
    app.client.transport.send([Outgoing("celery", found[0].document)])
    child = child_of(app)
    child.parts.revoked_board.add(task_digest("a"))
    child.run()
    assert stored(app, "a").status == "REVOKED"
    depth = app.client.transport.depth("celery")
    assert (depth.ready, depth.delayed) == (0, 0)


def test_what_is_stamped_is_looked_up_only_while_stamps_are_revoked(app: App, child_of: Make) -> None:
    @app.task(name="work")
    def work() -> None:
        """Does nothing."""

    headers = {"stamped_headers": ["tenant"], "stamps": {"tenant": ["acme"]}}
    child = child_of(app)
    child.parts.revoked_board.add(digest_of(stamp_key("tenant", "acme")))
    work.apply_async(task_id="a", headers=headers)
    child.run()
    child.parts.revoked_board.words[A_STAMPS] = 1
    work.apply_async(task_id="b", headers=headers)
    child.run()
    assert (stored(app, "a").status, stored(app, "b").status) == ("SUCCESS", "REVOKED")


@pytest.mark.parametrize("late", [True, False])
def test_what_raises_after_its_end_was_asked_for_is_revoked(
    app: App, child_of: Make, heard: list[dict[str, Any]], late: bool
) -> None:
    child = child_of(app)

    def asked(signum: int = 10) -> None:
        child.words[S_TERMINATION_SIGNAL] = signum
        child.words[S_TERMINATED] = child.words[C_EXECUTIONS]

    @app.task(name="ended", acks_late=late)
    def ended() -> None:
        asked()
        raise SoftTimeLimitExceeded

    @app.task(name="next")
    def following() -> None:
        raise ValueError("its own fault")

    @app.task(name="saved")
    def saved() -> int:
        asked()
        return 3

    @app.task(name="told")
    def told(*args: Any) -> None:
        """An error callback."""

    ended.apply_async(task_id="a", link_error=told.s().set(queue="errors"))
    following.apply_async(task_id="b")
    saved.apply_async(task_id="c")
    child.run()
    assert [stored(app, one).status for one in "abc"] == ["REVOKED", "FAILURE", "SUCCESS"]
    assert stored(app, "a").result["exc_message"] == ["terminated"]
    [about] = heard
    assert (about["request"].id, about["terminated"], about["signum"]) == ("a", True, 10)
    assert app.client.transport.depth("errors").ready == 0
    assert app.client.transport.depth("celery").ready == 0
