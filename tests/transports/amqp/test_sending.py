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
