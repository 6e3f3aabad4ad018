"""What makes two calls the same, what a message bears, and what is refused."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.exceptions import InvalidTaskError
from prefork.engine.signature import Signature
from prefork.engine.unique import (
    DONE,
    STARTED,
    TIME,
    Mark,
    Unique,
    digest_of,
    mark_of,
    read_mark,
    replaced_lock,
    unique_of,
)
from prefork.serializers.base import EncodeError
from prefork.serializers.json import JsonSerializer
from prefork.serializers.registry import load_serializer

JSON = JsonSerializer()


def add(x: Any, y: Any = 2, *rest: Any, tag: str = "", **more: Any) -> None:
    """The body of a task."""


def digest(*args: Any, wish: Unique = Unique(), known: bool = True, task: str = "add", **kwargs: Any) -> str:  # noqa: B008
    signature = inspect.signature(add) if known else None
    return digest_of(task, wish, args, kwargs, signature=signature, serializer=JSON)


def test_calls_are_the_same_however_their_arguments_are_given() -> None:
    assert digest(1, 3) == digest(1, y=3) == digest(x=1, y=3) == digest(y=3, x=1)
    assert digest(1, 3) != digest(3, 1)
    assert digest(1, tag="a", other=1) == digest(1, other=1, tag="a")
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest([1, 2]) == digest((1, 2)), "they arrive as the same"
    assert digest(1) != digest("1")
    assert digest(b"x") != digest("x")


def test_tasks_of_different_names_are_never_the_same() -> None:
    assert digest(1, task="add") != digest(1, task="sub")
    by = Unique(by=lambda args, kwargs: "key")
    assert digest(1, task="add", wish=by) != digest(1, task="sub", wish=by)


def test_of_a_task_that_only_its_name_is_known_of_calls_are_compared_as_given() -> None:
    assert digest(1, y=3, known=False) == digest(1, y=3, known=False)
    assert digest(1, y=3, known=False) != digest(1, 3, known=False)


def test_a_call_that_does_not_fit_is_compared_as_given() -> None:
    assert digest(known=True, y=1) == digest(known=False, y=1)


def test_arguments_can_be_named() -> None:
    by = Unique(by=("x", "tag"))
    assert digest(1, 5, wish=by) == digest(1, 6, wish=by) == digest(x=1, tag="", wish=by)
    assert digest(1, tag="a", wish=by) != digest(1, wish=by)
    assert digest(1, wish=Unique(by="x")) == digest(1, 7, tag="b", wish=Unique(by=["x"]))
    assert digest(1, tenant=7, wish=Unique(by="tenant")) == digest(2, tenant=7, wish=Unique(by="tenant"))
    assert digest(tag="a", known=False, wish=Unique(by="tag")) == digest(
        1, tag="a", known=False, wish=Unique(by="tag")
    )


@pytest.mark.parametrize("known", [True, False])
def test_a_name_that_is_no_argument_is_refused(known: bool) -> None:
    with pytest.raises(InvalidTaskError, match="nobody"):
        digest(1, known=known, wish=Unique(by="nobody"))


def test_a_function_can_say_what_is_the_same() -> None:
    by = Unique(by=lambda args, kwargs: args[0] // 10)
    assert digest(11, wish=by) == digest(19, wish=by)
    assert digest(11, wish=by) != digest(21, wish=by)


def test_an_argument_without_a_form_in_json_is_refused() -> None:
    with pytest.raises(EncodeError):
        digest(object())


@given(args=st.lists(st.one_of(st.integers(), st.text(), st.booleans(), st.none()), max_size=4))
def test_equal_arguments_have_equal_digests_and_only_they(args: list[Any]) -> None:
    mine = digest(*args, known=False)
    assert mine == digest(*list(args), known=False)
    assert mine != digest(*args, None, known=False)


marks = st.builds(
    Mark,
    digest=st.binary(min_size=20, max_size=20).map(bytes.hex),
    until=st.sampled_from([STARTED, DONE, TIME]),
    ttl_s=st.floats(min_value=1e-3, max_value=1e12),
    replaceable=st.booleans(),
)


@given(mark=marks)
def test_a_mark_reads_as_it_was_written(mark: Mark) -> None:
    assert read_mark(mark.text()) == mark
    assert len(mark.lock.encode()) <= 255


@given(value=st.one_of(st.text(), st.binary(), st.none(), st.integers(), st.lists(st.text())))
def test_somebody_elses_header_is_no_mark(value: Any) -> None:
    assert read_mark(value) is None


@given(mark=marks, where=st.integers(0, 70), byte=st.characters())
def test_a_damaged_mark_is_none_or_another_whole_one(mark: Mark, where: int, byte: str) -> None:
    text = mark.text()
    found = read_mark(text[:where] + byte + text[where + 1 :])
    assert found is None or read_mark(found.text()) == found


@pytest.mark.parametrize("ttl", ["0", "-1", "nan", "inf", "1e999", ""])
def test_a_mark_without_an_end_is_none(ttl: str) -> None:
    assert read_mark(f"done:{ttl}:0:{'ab' * 20}") is None


def test_a_mark_says_what_was_asked_for() -> None:
    assert mark_of(Unique(), "d", 60.0) == Mark("d", DONE, 60.0)
    assert mark_of(Unique(until="started", ttl_s=5), "d", 60.0) == Mark("d", STARTED, 5.0)
    assert mark_of(Unique(until=timedelta(minutes=1)), "d", 5.0) == Mark("d", TIME, 60.0)
    assert mark_of(Unique(until=30, on_conflict="replace"), "d", 5.0) == Mark("d", TIME, 30.0, True)


def test_the_option_has_a_short_form() -> None:
    key = lambda args, kwargs: "k"  # noqa: E731
    assert unique_of(None) is unique_of(False) is None
    assert unique_of(True) == Unique()
    assert unique_of(key) == Unique(by=key)
    assert unique_of({"until": "started", "by": ["x"]}) == Unique(until="started", by=["x"])
    assert unique_of(Unique(ttl_s=3)) == Unique(ttl_s=3)


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_a_wish_survives_a_message(serializer: str) -> None:
    wish = Unique(by=("x",), until=timedelta(seconds=30), ttl_s=7, on_conflict="raise")
    table = load_serializer(serializer)
    for made in (
        Signature("t", unique=wish),
        Signature("t").set(unique=wish),
        Signature("t", options={"unique": wish}),
    ):
        read = unique_of(table.loads(table.dumps(dict(made)))["options"]["unique"])
        assert read is not None
        assert (read.names(), read.until, read.ttl_s, read.on_conflict) == (("x",), 30.0, 7.0, "raise")


def test_a_function_stays_with_a_signature_of_this_process() -> None:
    by = Unique(by=lambda args, kwargs: "k")
    assert Signature("t", unique=by).options["unique"] is by
    with pytest.raises(EncodeError):
        JSON.dumps(Signature("t", unique=by))


@pytest.mark.parametrize(
    "value",
    [3, "yes", [], {"until": "ended"}, {"unknown": 1}, {"ttl_s": 0}, {"ttl_s": -1}, {"ttl_s": float("nan")}]
    + [{"until": 0}, {"until": True}, {"by": 3}, {"by": []}, {"by": [1]}, {"on_conflict": "ignore"}],
)
def test_what_is_no_wish_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidTaskError, match="unique"):
        unique_of(value)


def test_locks_of_replaced_tasks_have_bounded_names() -> None:
    assert len(replaced_lock("x" * 5000)) < 255
    assert replaced_lock("a") != replaced_lock("b")
