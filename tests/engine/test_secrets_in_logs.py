"""Arguments hold secrets: whatever goes wrong, no log line shows them unless the task's own words do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine import App
from prefork.engine.exceptions import Ignore, Reject, Retry
from prefork.engine.follow_ups import name_of
from prefork.engine.testing import start_worker, temporary_app

TOKEN = "hunter2-of-somebody"


@pytest.fixture(params=["in a worker", "eagerly"])
def app(request: pytest.FixtureRequest) -> Iterator[App]:
    config = {"task_always_eager": request.param == "eagerly", "task_unknown_grace": 0.0}
    with temporary_app(config=config) as made:

        @made.task(name="fail", bind=True, max_retries=1)
        def fail(self: Any, token: str, how: str) -> Any:
            if how == "return":
                return None
            if how == "opaque":
                return {"it": object()}
            if how == "retry":
                raise self.retry(countdown=0)
            if how == "bad retry":
                raise self.retry(args=(object(), token))
            raise {"raise": ValueError, "ignore": Ignore, "reject": Reject, "by hand": Retry}[how]()

        @made.task(name="bad")
        def bad(request: Any, exc: BaseException, trace: str, token: str) -> None:
            raise LookupError("the callback itself")

        @made.task(name="plain")
        def plain(value: Any, token: str) -> None:
            raise LookupError("the callback itself")

        yield made


WAYS = ["return", "opaque", "retry", "bad retry", "raise", "ignore", "reject", "by hand"]


@pytest.mark.parametrize("how", WAYS)
def test_no_argument_is_logged(app: App, how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    fail, bad, plain = (app.tasks[name] for name in ("fail", "bad", "plain"))
    options = {"link": plain.s(TOKEN), "link_error": [bad.s(TOKEN), plain.s(TOKEN)]}
    if app.conf.task_always_eager:
        fail.apply_async((TOKEN, how), {}, **options)
    else:
        with start_worker(app) as worker:
            fail.apply_async((TOKEN, how), {}, **options)
            app.send_task("unknown", (TOKEN,), {"token": TOKEN})
            worker.drain()
    assert TOKEN not in caplog.text
    assert how in ("return", "ignore", "reject", "by hand") or "error callback bad of fail" in caplog.text


def test_a_callback_is_named_by_its_task_alone() -> None:
    assert name_of({"task": "x", "args": (TOKEN,)}) == "x"
    assert name_of({"task": [TOKEN]}) == "<dict>"
    assert name_of(TOKEN) == "<str>"
