"""What a task sees as its request, beyond the fields that every request has."""

from __future__ import annotations

import copy
import pickle

import pytest
from celery.app.task import Context as CeleryContext

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


def test_no_field_of_a_peers_request_is_missing() -> None:
    theirs = {name for name in dir(CeleryContext()) if not name.startswith("_")}
    assert theirs - set(dir(Context())) == set()


def test_a_copy_is_sent_with_the_options_that_a_peer_would_use() -> None:
    fields = {
        "id": "i",
        "root_id": "r",
        "parent_id": "p",
        "group": "g",
        "group_index": 1,
        "timelimit": [3, 2],
        "retries": 2,
        "stamped_headers": ["a"],
        "stamps": {"a": 1, "b": 2},
        "headers": {"x": 1, "x-death": []},
    }
    theirs = CeleryContext(fields).as_execution_options()
    assert Context(fields).as_execution_options() == theirs | {"headers": {"x": 1}}


def test_a_peer_that_retries_passes_on_what_our_workers_tell_one_another() -> None:
    told = {"prefork_first_started": 1.5, "prefork_snoozes": 2}
    theirs = CeleryContext({"id": "i", "retries": 1, **told}).as_execution_options()
    assert theirs["headers"] == told
