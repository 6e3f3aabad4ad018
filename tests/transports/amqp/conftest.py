"""Handles on the RabbitMQ of the session; every test has queues and a dead-letter queue of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.transports.amqp import AmqpTransport, open_transport
from support.rabbitmq_server import RabbitMQ, shared

Open = Callable[..., AmqpTransport]


@pytest.fixture(scope="session")
def rabbitmq() -> RabbitMQ:
    return shared()


@pytest.fixture
def queue() -> str:
    return f"q.{uuid.uuid4().hex[:12]}"


@pytest.fixture
def open_amqp(rabbitmq: RabbitMQ) -> Iterator[Open]:
    """Opens handles on the server; all of one test share a dead-letter queue."""
    opened: list[AmqpTransport] = []
    dead = f"dead.{uuid.uuid4().hex[:12]}"

    def _open(url: str | None = None, **options: Any) -> AmqpTransport:
        given = {"native_delayed_delivery_queue_type": "classic", "dead_letter_queue": dead, **options}
        transport = open_transport(url or rabbitmq.url, given)
        opened.append(transport)
        return transport

    yield _open
    for transport in opened:
        transport.close()
