"""What is published for a document, beyond the document itself."""

from __future__ import annotations

from typing import Any

import pytest

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


def test_what_waits_for_a_fanout_exchange_has_a_key_that_no_queue_is_bound_by() -> None:
    message = Outgoing("news", document({}), due_wall_s=60.0, exchange="news", routing_key="celery")
    fanout = parcel_of(message, 0.0, lambda exchange: exchange == "news")
    assert fanout.routing_key.endswith(".prefork-fanout.news")
    assert parcel_of(message, 0.0).routing_key.endswith(".celery")
    assert parcel_of(message, 90.0, lambda exchange: True).routing_key == "celery"
