"""What inspect commands show of the arguments of a task."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from prefork.engine.responder.looking import task_info
from prefork.serializers.registry import SerializerTable
from prefork.transports.base import Delivery
from support.corpus import document_of, good_document, good_parts


def shown(document: bytes, *, safe: bool) -> tuple[Any, Any]:
    side: Any = SimpleNamespace(
        node="w@here", storage=SimpleNamespace(table=SerializerTable(accept=("json", "pickle")))
    )
    info = task_info(side, Delivery(b"tag", "celery", document), safe=safe)
    return info["args"], info["kwargs"]


@pytest.mark.parametrize("safe", [True, False])
def test_what_the_caller_lets_viewers_see_is_all_that_is_shown(safe: bool) -> None:
    document = good_document(argsrepr="(2, ***)", kwargsrepr="{hidden}")
    assert shown(document, safe=safe) == ("(2, ***)", "{hidden}")
    assert shown(good_document(argsrepr="(2, ***)"), safe=safe)[1] == ("{}" if safe else {})


@pytest.mark.parametrize("told", ["", None, "(2, 2)", "[2, 2]"])
def test_arguments_that_nobody_hides_are_shown(told: str | None) -> None:
    document = good_document(argsrepr=told, kwargsrepr=told and "{}")
    assert shown(document, safe=True) == ("(2, 2)", "{}")
    assert shown(document, safe=False) == ([2, 2], {}), "Celery's clients send such a text with every message"


def test_what_cannot_be_read_here_is_shown_as_far_as_its_sender_says() -> None:
    parts = good_parts()
    parts["content-type"], parts["content-encoding"] = "application/x-python-serialize", "binary"
    body = pickle.dumps(((2, 2), {}, None))
    assert shown(document_of(parts, body), safe=False) == ("(2, 2)", "{}")
    parts["headers"] |= {"argsrepr": "", "kwargsrepr": ""}
    assert shown(document_of(parts, body), safe=False) == ([], {})
    assert shown(document_of(parts, body), safe=True) == ("", "")
