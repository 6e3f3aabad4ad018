from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.serializers.base import UnknownSerializer
from prefork.transports.memory.results import MemoryResults
from support.apps import memory_app


def test_broker_and_results_are_opened_once_and_closed() -> None:
    with memory_app() as app:
        client = app.client
        assert client.transport is client.transport
        assert isinstance(client.results, MemoryResults)
        assert app.client is client
        client.close()
        client.close()


def test_a_client_is_made_anew_when_the_configuration_changes() -> None:
    with memory_app() as app:
        before = app.client
        app.conf.task_default_queue = "other"
        assert app.client is not before


def test_what_a_process_has_opened_already_is_shared() -> None:
    with memory_app() as app, memory_app() as other:
        other.client.adopt(app.client.transport, app.client.results)
        assert other.client.transport is app.client.transport


def test_no_result_store_is_opened_when_results_are_disabled() -> None:
    with memory_app(backend="disabled") as app:
        assert app.client.results is None
        assert app.backend.as_uri() == "disabled://"
        assert app.client.results is None


def test_a_serializer_of_one_call_is_found_and_pickle_only_when_configured() -> None:
    with memory_app() as app:
        task = app.task(name="t")(lambda x: x)
        task.apply_async((1,), serializer="msgpack")
        with pytest.raises(UnknownSerializer, match="pickle"):
            task.apply_async((1,), serializer="pickle")
        with pytest.raises(UnknownSerializer, match="nonsense"):
            task.apply_async((1,), serializer="nonsense")
        with pytest.raises(UnknownSerializer, match="json"):
            app.task(name="u", serializer="nonsense")(lambda: None).delay()


def in_child(work: Any) -> bytes:
    """Run something in a forked child and return what it wrote."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, work())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        told = stream.read()
    os.waitpid(pid, 0)
    return told


def test_after_a_fork_everything_is_opened_anew(broker_root: Path) -> None:
    with App("forked", broker=f"filesystem://{broker_root}", set_as_current=False) as app:
        task = app.task(name="t")(lambda x: x)
        task.delay(1)
        transport, origin = app.client.transport, app.client.origin

        def child() -> bytes:
            task.delay(2)
            return repr((app.client.transport is transport, app.client.origin == origin)).encode()

        assert in_child(child) == b"(False, False)"
        assert app.client.transport is transport
        assert transport.depth("celery").ready == 2


def test_messages_can_be_collected_instead_of_sent() -> None:
    with memory_app() as app:
        task = app.task(name="t")(lambda x: x)
        with app.client.collecting() as collected:
            task.delay(1)
            task.apply_async((2,), queue="q")
        task.delay(3)
        assert [message.queue for message in collected] == ["celery", "q"]
        assert app.client.transport.depth("celery").ready == 1
        assert app.client.transport.depth("q").ready == 0
