"""Whether messages survive a restart of the broker: call > task > configuration, down to RabbitMQ."""

from __future__ import annotations

import uuid
from typing import Any

import amqp
import pytest

from prefork.engine import App
from prefork.engine.exceptions import InvalidTaskError
from support.rabbitmq_server import shared


def sent_mode(app: App, queue: str, call: dict[str, Any], **task: Any) -> int:
    """What RabbitMQ has of a call."""

    @app.task(name=f"t{uuid.uuid4().hex}", **task)
    def work() -> None:
        """Nothing."""

    work.apply_async(queue=queue, **call)
    server = shared()
    with amqp.Connection(f"127.0.0.1:{server.port}") as connection:
        message = connection.channel().basic_get(queue, no_ack=True)
    return int(message.properties["delivery_mode"])


@pytest.mark.parametrize(
    ("configured", "task", "call", "expected"),
    [
        (None, {}, {}, 2),
        ("transient", {}, {}, 1),
        (1, {}, {}, 1),
        (1, {"delivery_mode": "persistent"}, {}, 2),
        (2, {"delivery_mode": 1}, {}, 1),
        (1, {"delivery_mode": 1}, {"delivery_mode": "persistent"}, 2),
        (None, {}, {"delivery_mode": "transient", "countdown": 0}, 1),
    ],
)
def test_a_call_says_it_else_its_task_else_the_configuration(
    configured: object, task: dict[str, Any], call: dict[str, Any], expected: int
) -> None:
    settings = {} if configured is None else {"task_default_delivery_mode": configured}
    app = App("modes", broker=shared().url, result_backend="disabled://", **settings)
    assert sent_mode(app, f"q.{uuid.uuid4().hex}", call, **task) == expected
    app.close()


def test_a_task_with_no_such_mode_is_refused_when_it_is_called() -> None:
    app = App("modes", broker=f"memory://{uuid.uuid4().hex}")

    @app.task(delivery_mode="sometimes")
    def work() -> None:
        """Nothing."""

    with pytest.raises(InvalidTaskError, match="sometimes"):
        work.delay()
