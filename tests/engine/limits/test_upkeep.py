"""Lanes are dropped with their queue, and handed back to it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.engine.app import App
from prefork.engine.cli.main import main
from prefork.engine.limits.lanes import lane_of
from prefork.engine.limits.upkeep import hand_back, lanes_of_queue, purge_with_lanes
from prefork.transports.base import Outgoing, Transport
from support.apps import memory_app


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app() as made:
        yield made


@pytest.fixture
def transport(app: App) -> Transport:
    return app.client.transport


def park(app: App, queue: str, task: str, count: int) -> str:
    """Put messages where a worker would have."""
    lane = lane_of(queue, task)
    for _ in range(count):
        app.send_task(task, queue=lane)
    return lane


def test_a_purge_takes_the_lanes_along(app: App, transport: Transport) -> None:
    app.send_task("a", queue="celery")
    park(app, "celery", "a", 2)
    park(app, "celery", "b", 3)
    other = park(app, "orders", "a", 1)
    assert purge_with_lanes(transport, "celery", ()) == 6
    assert transport.depth(other).ready == 1


def test_the_lanes_of_a_queue_are_known_by_name(app: App, transport: Transport) -> None:
    first = park(app, "celery", "a", 1)
    park(app, "celerybeat", "a", 1)
    assert lanes_of_queue(transport, "celery", ()) == [first]


@pytest.mark.parametrize("task", ["shop.pay", "x" * 300])
def test_what_waits_is_handed_back_to_its_queue(app: App, transport: Transport, task: str) -> None:
    lane = park(app, "orders", task, 250)
    queues = ["celery", "orders", *transport.queues()]
    assert hand_back(transport, lane, queues, app.client.table) == 250
    assert transport.depth("orders").ready == 250
    assert transport.depth(lane).ready == 0
    assert hand_back(transport, lane, queues, app.client.table) == 0


def test_a_malformed_message_is_handed_back_by_the_name_of_the_lane(app: App, transport: Transport) -> None:
    transport.send([Outgoing("orders.limited.a", b"no message")])
    assert hand_back(transport, "orders.limited.a", [], app.client.table) == 1
    assert transport.depth("orders").ready == 1


def test_the_commands_show_and_drop_lanes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"filesystem://{tmp_path}/broker"
    app = App(uuid.uuid4().hex, broker=url)
    park(app, "celery", "a", 4)
    app.close()
    assert main(["-b", url, "queues", "-Q", "celery"]) == 0
    assert "celery.limited.a" in capsys.readouterr().out
    assert main(["-b", url, "purge", "-f", "-Q", "celery"]) == 0
    assert "celery: 4 dropped" in capsys.readouterr().out
    assert main(["-b", url, "queues"]) == 0
    assert "limited" not in capsys.readouterr().out
