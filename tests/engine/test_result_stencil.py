"""A document that is filled in is the one that would have been encoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine import states
from prefork.engine.message import fresh_id
from prefork.engine.result_document import encode
from prefork.engine.result_stencil import stencil
from prefork.serializers.registry import SerializerTable

META = {"pid": 4711, "hostname": "worker@host"}
NAMES = ("json", "msgpack", "pickle")


def encoder(name: str) -> Callable[[str], bytes]:
    serializer = SerializerTable({"json", name}, NAMES).by_name(name)
    return lambda task_id: encode(states.STARTED, META, task_id=task_id, serializer=serializer)


@pytest.mark.parametrize("name", NAMES)
@given(
    task_id=st.one_of(st.uuids().map(str), st.text(max_size=40), st.text('a0-"\\é', min_size=36, max_size=36))
)
def test_it_answers_as_the_encoder_does(name: str, task_id: str) -> None:
    encoded = encoder(name)
    try:
        expected = encoded(task_id)
    except ValueError as error:  # a lone surrogate has no form in some serializers
        with pytest.raises(type(error)):
            stencil(encoded)(task_id)
        return
    assert stencil(encoded)(task_id) == expected


def test_ids_of_this_engine_are_not_encoded_again() -> None:
    asked: list[str] = []

    def count(task_id: str) -> bytes:
        asked.append(task_id)
        return encoder("json")(task_id)

    fill = stencil(count)
    asked.clear()
    task_id = fresh_id()
    assert task_id.encode() in fill(task_id)
    assert asked == []
    fill("short")
    assert asked == ["short"]


@pytest.mark.parametrize("twice", [lambda task_id: f"{task_id}{task_id}".encode(), lambda task_id: b"hidden"])
def test_a_form_that_shows_the_id_not_exactly_once_is_encoded_each_time(twice: Any) -> None:
    assert stencil(twice) is twice
