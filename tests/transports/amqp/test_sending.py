"""What is published for a document, beyond the document itself."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from prefork.transports.amqp.ladder import origin
from prefork.transports.amqp.sending import parcel_of
from prefork.transports.base import Outgoing
from prefork.transports.envelope import Message, encode


def document(headers: dict[str, Any]) -> bytes:
    return encode(Message(b"[[], {}, {}]", "application/json", "utf-8", headers, {"expiration": "60000"}))


@pytest.mark.parametrize(
    ("headers", "kept"), [({"expires": "2030-01-01T00:00:00+00:00"}, None), ({"expires": None}, "60000")]
)
def test_the_broker_drops_no_task_that_a_worker_would_answer_as_expired(
    headers: dict[str, Any], kept: str | None
) -> None:
    parcel = parcel_of(Outgoing("celery", document(headers)), 0.0)
    assert parcel.properties.get("expiration") == kept
    assert parcel.properties["headers"] == headers


def test_what_is_not_due_waits_if_its_way_is_known_and_is_sent_at_once_if_not() -> None:
    message = Outgoing("news", document({}), due_wall_s=60.0, exchange="news", routing_key="celery")
    known = parcel_of(message, 0.0, lambda exchange, key: (exchange, key) == ("news", "celery"))
    assert (known.queue, known.delayed, known.leads_from) == ("news", True, "news")
    assert origin(known.exchange, known.routing_key) == ("news", "celery")
    for unknown in (
        parcel_of(message, 0.0),
        parcel_of(message, 90.0, lambda exchange, key: True),
        parcel_of(replace(message, routing_key="k" * 250), 0.0, lambda exchange, key: True),
    ):
        assert (unknown.exchange, unknown.delayed) == ("news", False)
