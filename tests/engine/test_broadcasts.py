"""Queues that each worker has of its own: which a worker consumes, and which a sender reaches."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Queue
from kombu.common import Broadcast

from prefork.engine import broadcasts
from prefork.engine.boot import BootSpec
from prefork.engine.broadcasts import with_copies
from prefork.engine.exceptions import ImproperlyConfigured
from prefork.engine.loaded_app import queues_to_consume
from prefork.engine.routes import Router, declaration, worker_direct
from prefork.transports.base import Capabilities, Depth
from support.apps import memory_app

NODE = "worker1@host"


class Broker:
    """Queues by name, with how many messages wait in each."""

    def __init__(self, *, lists: bool = True, **queues: int) -> None:
        self.capabilities = Capabilities(name="some", lists_queues=lists)
        self._queues = queues

    def queues(self) -> list[str]:
        return list(self._queues)

    def depth(self, queue: str) -> Depth:
        return Depth(self._queues[queue], 0, 0)


def copies(queues: tuple[str, ...], broker: Any, *names: str) -> list[str]:
    return list(with_copies(queues, frozenset(names), broker))


def consumed(*, queues: tuple[str, ...] = (), **settings: Any) -> list[str]:
    with memory_app(**settings) as app:
        return queues_to_consume(BootSpec("tests", queues=list(queues)), app.config, NODE)


def test_a_copy_goes_to_each_worker_that_has_a_queue_for_it() -> None:
    broker = Broker(**{"news~one@host": 0, "news~two@host": 5, "news": 0, "other~one@host": 0})
    assert copies(("news",), broker, "news") == ["news~one@host", "news~two@host"]
    assert copies(("plain", "news"), broker, "news") == ["plain", "news~one@host", "news~two@host"]
    assert copies(("plain",), broker, "news") == ["plain"]


def test_who_is_away_for_long_gets_no_more(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker(**{"news~one": broadcasts.WAITING_MAX, "news~two": broadcasts.WAITING_MAX - 1})
    with caplog.at_level(logging.WARNING, logger="prefork.client"):
        assert copies(("news",), broker, "news") == ["news~two"]
    assert "news~one" in caplog.text


def test_a_broker_that_cannot_say_who_is_there_refuses() -> None:
    with pytest.raises(ImproperlyConfigured, match="news"):
        copies(("news",), Broker(lists=False), "news")


def test_a_worker_consumes_its_copies() -> None:
    settings: dict[str, Any] = {"task_queues": ["plain", {"name": "news", "broadcast": True}]}
    assert consumed(**settings) == ["plain", f"news~{NODE}"]
    assert consumed(**settings, queues=("news",)) == [f"news~{NODE}"]
    assert consumed(**settings, broker_read_url="redis://host") == ["plain", "news"]
    assert consumed(**settings, broker_read_url="amqp://host") == ["plain", f"news~{NODE}"]


def test_worker_direct_adds_a_queue_whatever_else_is_consumed() -> None:
    assert consumed(worker_direct=True) == ["celery", f"{NODE}.dq2"]
    assert consumed(worker_direct=True, queues=("a",)) == ["a", worker_direct(NODE)]


def test_a_broadcast_of_kombus_is_known_by_the_name_that_it_was_given() -> None:
    news = Broadcast("news")
    with memory_app(task_queues=[Queue("plain"), news]) as app:
        router = Router(app.config)
        assert list(router.queues) == ["plain", "news"]
        assert router.broadcasts == {"news"}
        said = declaration(router.queues["news"])
        assert (said.name, said.exchange, said.exchange_type, said.broadcast) == (
            "news",
            "news",
            "fanout",
            True,
        )
        for queue in ("news", news):
            found = router.route("task", (), {}, {"queue": queue})
            assert (found.queues, found.exchange) == (("news",), "news")


def test_the_queue_of_a_worker_needs_no_configuration() -> None:
    with memory_app(task_create_missing_queues=False, task_queues=["plain"]) as app:
        router = Router(app.config)
        direct = SimpleNamespace(name="w@host.dq2", exchange=SimpleNamespace(name="C.dq2", type="direct"))
        for options in (
            {"queue": "w@host.dq2"},
            {"queue": direct},
            {"exchange": "C.dq2", "routing_key": "w@host"},
        ):
            found = router.route("task", (), {}, options)
            assert (found.queues, found.exchange, found.routing_key) == (("w@host.dq2",), "", "w@host.dq2")
