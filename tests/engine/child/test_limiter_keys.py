"""Limits with a key in one child: who waits, who has booked a token, and whom workers share it with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.child import keyed as keyed_module
from prefork.engine.exceptions import Snooze
from support.apps import sent
from support.limiter_scene import Ran, delayed
from support.one_child import WORKER, OneChild
from support.tokens import none_before_its_token

Make = Callable[..., OneChild]


def test_a_key_without_a_token_waits_until_it_has_booked_one(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(rate_limit="1/m", key="tenant")
    def keyed(number: int, tenant: str) -> None:
        ran((tenant, number))

    for number in range(3):
        keyed.delay(number, "a")
    keyed.delay(0, "b")
    child = child_of(app)
    child.run()
    assert ran.numbers == [("a", 0), ("b", 0)]
    waiting = app.client.transport.peek("celery", delayed=True)
    assert len(waiting) == 2
    notes = [message.all_headers(app.client.table).get(keyed_module.GRANT_HEADER) for message in sent(app)]
    # The third is beyond the horizon: it asks again.
    ((booked, due_wall_s),) = [
        (note, one.due_wall_s) for note, one in zip(notes, waiting, strict=True) if note is not None
    ]
    assert booked.startswith("0.0:")
    assert due_wall_s is not None
    assert 58 <= due_wall_s - time.time() <= 60


def test_who_stands_still_while_it_books_has_its_message_come_no_earlier_than_its_token(
    app: App, child_of: Make, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(rate_limit="1/m", key="tenant")
    def keyed(number: int, tenant: str) -> None:
        ran(number)

    child = child_of(app)
    booked_wall_s: list[float] = []

    def late_ns() -> int:
        time.sleep(0.3)
        booked_wall_s.append(time.time())
        return time.monotonic_ns()

    monkeypatch.setattr(keyed_module, "mono_ns", late_ns)
    for number in range(2):
        keyed.delay(number, "a")
    child.run()
    assert ran.numbers == [0]
    (waiting,) = app.client.transport.peek("celery", delayed=True)
    assert waiting.due_wall_s is not None
    # The bucket was full for the first one, and makes up for 50 ms.
    assert waiting.due_wall_s - booked_wall_s[0] >= 60.0 - 0.05 - 0.001


def test_who_has_booked_runs(app: App, child_of: Make, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task(rate_limit="20/s", key="tenant")
    def keyed(number: int, tenant: str) -> None:
        ran(number)

    for number in range(6):
        keyed.delay(number, "a")
    child = child_of(app)
    child.idle._before = lambda: time.sleep(0.01) or len(ran.numbers) < 6  # type: ignore[func-returns-value]
    child.run()
    assert ran.numbers == [0, 1, 2, 3, 4, 5]


def test_what_is_put_off_takes_a_token_again(app: App, child_of: Make) -> None:
    started: list[float] = []

    @app.task(rate_limit="4/s", key="tenant")
    def keyed(tenant: str) -> None:
        started.append(time.monotonic())
        if 1 < len(started) < 4:
            raise Snooze(0)

    keyed.delay("a")
    keyed.delay("a")
    child = child_of(app)
    child.idle._before = lambda: time.sleep(0.01) or len(started) < 4  # type: ignore[func-returns-value]
    begun_s = time.monotonic()
    child.run()
    assert len(started) == 4
    none_before_its_token(started, begun_s, 4)


@pytest.mark.parametrize("note", ["nonsense", "0.0:soon", 7, "1.0:1", "0.0:1", "0.0:nan", None])
def test_a_note_that_is_no_grant_admits_nobody(app: App, child_of: Make, ran: Ran, note: Any) -> None:
    @app.task(rate_limit=0, key="tenant")
    def keyed(number: int, tenant: str) -> None:
        ran(number)

    keyed.apply_async((0, "a"), headers={keyed_module.GRANT_HEADER: note})
    child_of(app).run()
    assert ran.numbers == []
    assert delayed(app) == 1


def test_a_key_that_cannot_be_made_is_one_of_all(
    app: App, child_of: Make, ran: Ran, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(rate_limit="1/m", key=lambda number: 1 / number)
    def keyed(number: int) -> None:
        ran(number)

    for _ in range(3):
        keyed.delay(0)
    keyed.delay(1)
    with caplog.at_level(logging.ERROR, "prefork.child"):
        child_of(app).run()
    assert ran.numbers == [0, 1]
    assert caplog.text.count("cannot be made") == 1


def test_keys_share_with_other_workers(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(global_rate_limit="1/m", max_concurrency=1, key="tenant")
    def keyed(number: int, tenant: str) -> None:
        ran((tenant, number))

    for tenant in ("a", "b", "c"):
        keyed.delay(1, tenant)
        keyed.delay(2, tenant)
    child = child_of(app)
    transport: Any = child.parts.storage.transport
    transport.heartbeat(WORKER, 60)
    transport.heartbeat("elsewhere", 60)
    assert transport.take_slot(f"slots:{keyed.name}:b", 1, "elsewhere", "elsewhere.1.1/1")
    child.run()
    assert ran.numbers == [("a", 1), ("c", 1)]
    assert delayed(app) == 4


def test_a_global_rate_of_nothing_pauses_every_key(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(global_rate_limit=0, key="number")
    def keyed(number: int) -> None:
        ran(number)

    keyed.delay(1)
    child_of(app).run()
    assert (ran.numbers, delayed(app)) == ([], 1)
