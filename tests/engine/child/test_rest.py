"""A retry that another make sent rests once; all others start at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prefork.engine.child.rest import REST_S, needs_rest, rest
from prefork.engine.message import parse
from prefork.engine.message_retry import retry_of
from prefork.serializers.registry import SerializerTable
from prefork.transports.base import Delivery, Verdict
from support.corpus import good_document

TABLE = SerializerTable(["json"])


def rests(document: bytes) -> bool:
    message = parse(document, TABLE)
    return needs_rest(message, message.all_headers(TABLE))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retries": 0}, False),
        ({"retries": 2}, True),
        ({"retries": 2, "eta": "2030-03-17T17:46:40+00:00"}, False),
        ({"retries": 2, "prefork_retry": 2}, False),
        ({"retries": 3, "prefork_retry": 2}, True),
        ({"retries": 3, "prefork_retry": 2, "prefork_rested": 2}, True),
        ({"retries": 3, "prefork_retry": 2, "prefork_rested": 3}, False),
    ],
)
def test_a_retry_rests_unless_we_made_it_or_it_has_rested(headers: dict[str, Any], expected: bool) -> None:
    assert rests(good_document(**headers)) is expected


def test_what_comes_back_has_rested_and_is_otherwise_the_same() -> None:
    document = good_document(retries=2, mine=1)
    delivery = Delivery(tag=b"t", queue="q", document=document, priority=4)
    outcome = rest(delivery, parse(document, TABLE), 100.0)
    (later,) = outcome.follow_ups
    assert (outcome.verdict, outcome.tag) == (Verdict.ACK, b"t")
    assert (later.queue, later.priority, later.due_wall_s) == ("q", 4, 100.0 + REST_S)
    assert not rests(later.document)
    again, before = json.loads(later.document), json.loads(document)
    assert again["headers"].pop("prefork_rested") == 2
    assert again == before


def test_our_own_retries_of_a_foreign_retry_do_not_rest() -> None:
    assert not rests(retry_of(parse(good_document(retries=4), TABLE), TABLE))
