"""One application for both makes: the same tasks, below Celery or below prefork.

FLEET_CONFIG holds its settings as JSON, FLEET_MAKE says who runs it, FLEET_LEDGER where executions
are noted. A program that imports it for `make_app` alone needs none of them.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import celery
from kombu import Exchange, Queue
from kombu.common import Broadcast

from prefork.engine import App
from support import ledger

MAKES = ("celery", "prefork")


class FleetError(Exception):
    """What tasks of the fleet fail with; both makes can import it."""


def make_app(make: str, config: dict[str, Any]) -> Any:
    """The application, with its tasks.

    :param config: settings as in Celery; `task_queues` as a list of (name, exchange, type, key) and, where
        there are any, arguments; of the type broadcast, each worker gets copies.
    """
    settings = dict(config)
    queues = [
        Broadcast(name)
        if kind == "broadcast"
        else Queue(
            name,
            Exchange(exchange, kind),
            routing_key=key,
            queue_arguments=arguments[0] if arguments else None,
        )
        for name, exchange, kind, key, *arguments in settings.pop("task_queues", ())
    ]
    if queues:
        settings["task_queues"] = queues
    if make == "prefork":
        app: Any = App("fleet", set_as_current=False, **settings)
    else:
        app = celery.Celery("fleet", set_as_current=False)
        app.conf.update(settings)
    _add_values(app)
    _add_behaviour(app)
    return app


def _note(kind: int, task_id: str, attempt: int) -> None:
    where = os.environ.get("FLEET_LEDGER")
    if where:
        ledger.note(where, kind, task_id, attempt)


def _add_values(app: Any) -> None:
    @app.task(name="fleet.echo", shared=False)
    def echo(value: Any) -> Any:
        return value

    @app.task(name="fleet.add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="fleet.when", shared=False)
    def when() -> float:
        return time.time()

    @app.task(name="fleet.request", shared=False, bind=True)
    def request(self: Any) -> dict[str, Any]:
        seen = self.request
        info = seen.delivery_info or {}
        return {
            "args": list(seen.args or ()),
            "correlation_id": seen.correlation_id,
            "expires": bool(seen.expires),
            "eta": bool(seen.eta),
            "exchange": info.get("exchange"),
            "id": seen.id,
            "priority": info.get("priority"),
            "retries": seen.retries,
            "root_id": seen.root_id,
            "routing_key": info.get("routing_key"),
            "timelimit": list(seen.timelimit or (None, None)),
            "custom": seen.get("custom"),
        }


def _add_behaviour(app: Any) -> None:
    @app.task(name="fleet.fail", shared=False)
    def fail(text: str) -> None:
        raise FleetError(text, 3)

    @app.task(name="fleet.again", shared=False, bind=True, max_retries=5)
    def again(self: Any, times: int, countdown: float) -> tuple[int, float]:
        if self.request.retries < times:
            raise self.retry(countdown=countdown, args=(times, countdown))
        return (self.request.retries, time.time())

    @app.task(name="fleet.give_up", shared=False, bind=True, max_retries=1)
    def give_up(self: Any) -> None:
        raise self.retry(exc=FleetError("at last"), countdown=0)

    @app.task(name="fleet.work", shared=False, bind=True, ignore_result=True)
    def work(self: Any, s: float = 0.0) -> None:
        _note(ledger.START, self.request.id, self.request.retries)
        try:
            time.sleep(s)
        finally:
            _note(ledger.END, self.request.id, self.request.retries)

    @app.task(name="fleet.hold", shared=False, bind=True, ignore_result=True)
    def hold(self: Any, path: str) -> None:
        _note(ledger.START, self.request.id, self.request.retries)
        while not os.path.exists(path):
            time.sleep(0.005)
        _note(ledger.END, self.request.id, self.request.retries)

    @app.task(name="fleet.told", shared=False)
    def told(path: str, *args: Any) -> None:
        with open(path, "a") as file:
            file.write(f"{args!r}\n")


if "FLEET_CONFIG" in os.environ:
    app = make_app(os.environ["FLEET_MAKE"], json.loads(os.environ["FLEET_CONFIG"]))
