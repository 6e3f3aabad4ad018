"""What a task sees as its request, beyond the fields that every request has."""

from __future__ import annotations

import copy
import pickle

import pytest

from prefork.engine.request import Context


def test_a_custom_header_is_an_attribute_as_in_celery() -> None:
    request = Context(id="a", headers={"tenant": "t1", "x-death": []})
    assert request.tenant == "t1"
    assert request.get("tenant") == "t1"
    assert request.get("nothing") is None
    assert request.get("nothing", 3) == 3


def test_a_field_stands_before_a_header_of_its_name() -> None:
    assert Context(id="a", headers={"id": "other", "retries": 9}).id == "a"
    assert Context(headers={"retries": 9}).retries == 0


@pytest.mark.parametrize("headers", [None, {}, {"tenant": "t1"}])
def test_what_is_neither_is_an_attribute_error_that_names_it(headers: dict[str, str] | None) -> None:
    with pytest.raises(AttributeError, match="'region'"):
        _ = Context(headers=headers).region


def test_copies_have_the_headers_too() -> None:
    request = Context(id="a", headers={"tenant": "t1"})
    assert copy.copy(request).tenant == "t1"
    assert pickle.loads(pickle.dumps(request)).tenant == "t1"
