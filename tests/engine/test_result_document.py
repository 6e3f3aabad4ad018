from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine import result_document
from prefork.engine.einfo import TEXT_LIMIT, ExceptionInfo, bounded, safe_text, traceback_text
from prefork.engine.exceptions import RemoteTaskError, Retry, TaskRevokedError
from prefork.engine.result_document import (
    ARG_TEXT_MAX,
    ARGS_MAX,
    MalformedResult,
    decode,
    encode,
    exception_value,
    rebuild_exception,
)
from prefork.serializers.base import DecodeError, EncodeError
from prefork.serializers.json import JsonSerializer

JSON = JsonSerializer()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: not (isinstance(value, dict) and set(value) == {"__type__", "__value__"}))


class Nested:
    class Inner(ValueError):
        pass


class NeedsTwo(Exception):
    def __init__(self, one: Any, two: Any) -> None:
        super().__init__(one)


class Poisonous(BaseException):
    pass


# --- documents --------------------------------------------------------------------------------------


def test_a_success_is_written_as_peers_write_it() -> None:
    document = encode(
        "SUCCESS", {"a": 1}, task_id="t1", serializer=JSON, parent_id="p1", date_done_wall_s=0.0
    )
    assert json.loads(document) == {
        "status": "SUCCESS",
        "result": {"a": 1},
        "traceback": None,
        "children": [],
        "date_done": "1970-01-01T00:00:00+00:00",
        "parent_id": "p1",
        "task_id": "t1",
    }


def test_a_failure_is_written_as_peers_write_it() -> None:
    document = encode(
        "FAILURE", ValueError("bad", 3), task_id="t3", serializer=JSON, traceback="Traceback", group_id="g"
    )
    written = json.loads(document)
    assert written["result"] == {
        "exc_type": "ValueError",
        "exc_message": ["bad", 3],
        "exc_module": "builtins",
    }
    assert (written["traceback"], written["group_id"]) == ("Traceback", "g")


def test_only_an_ended_task_has_a_date() -> None:
    written = json.loads(encode("STARTED", None, task_id="t", serializer=JSON, date_done_wall_s=5.0))
    assert written["date_done"] is None


def test_our_exceptions_are_named_as_peers_know_them() -> None:
    value = exception_value(TaskRevokedError("terminated"), JSON)
    assert value == {
        "exc_type": "TaskRevokedError",
        "exc_message": ["terminated"],
        "exc_module": "celery.exceptions",
    }
    assert isinstance(rebuild_exception(value), TaskRevokedError)
    assert exception_value(RemoteTaskError("a.b"), JSON)["exc_module"] != "celery.exceptions"


def test_extended_fields_come_back() -> None:
    document = encode("SUCCESS", 1, task_id="t", serializer=JSON, extended={"name": "proj.add", "args": [1]})
    read = decode(document, JSON)
    assert read.extended == {"name": "proj.add", "args": [1]}


@given(value=json_values, children=st.none() | st.lists(json_values, max_size=2))
def test_what_was_encoded_is_decoded(value: Any, children: Any) -> None:
    read = decode(encode("SUCCESS", value, task_id="t", serializer=JSON, children=children), JSON)
    assert (read.status, read.result, read.children, read.task_id) == ("SUCCESS", value, children, "t")


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused_with_one_of_two_errors(data: bytes) -> None:
    try:
        read = decode(data, JSON)
    except (MalformedResult, DecodeError):
        return
    assert isinstance(read.status, str)


@pytest.mark.parametrize("data", [b"[]", b"3", b"{}", b'{"status": 3}'])
def test_a_document_of_another_shape_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedResult, match="cannot be read"):
        decode(data, JSON)


def test_a_value_without_a_form_is_named() -> None:
    with pytest.raises(EncodeError, match=r"^result\['a'\]\[1\]: <class object>"):
        encode("SUCCESS", {"a": [1, object()]}, task_id="t", serializer=JSON)


def test_a_monstrous_document_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_document, "DOCUMENT_BYTES_MAX", 10)
    with pytest.raises(MalformedResult, match="at most 10"):
        decode(encode("SUCCESS", 1, task_id="t", serializer=JSON), JSON)


# --- exceptions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("exc", [ValueError("x", 1), KeyError("k"), Nested.Inner("deep"), OSError(2, "gone")])
def test_a_known_exception_comes_back_as_the_same_class(exc: Exception) -> None:
    back = rebuild_exception(json.loads(json.dumps(exception_value(exc, JSON))))
    assert type(back) is type(exc)
    assert back.args == exc.args


def test_an_argument_without_a_form_becomes_its_repr() -> None:
    value = exception_value(ValueError({"a"}, b"\xff", object), JSON)
    assert value["exc_message"][0] == "{'a'}"
    assert value["exc_message"][1] == b"\xff"


def test_a_repr_that_raises_is_survived() -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError("no")

        def __json__(self) -> Any:
            raise SystemError("no")

    value = exception_value(ValueError(Bad()), JSON)
    assert value["exc_message"] == ["<Bad: repr() raised RuntimeError>"]


def test_sizes_are_bounded() -> None:
    value = exception_value(ValueError("x" * 10**6, ["y" * 10**6], *range(1000)), JSON)
    assert len(value["exc_message"]) == ARGS_MAX
    assert len(value["exc_message"][0]) < ARG_TEXT_MAX + 100
    assert len(value["exc_message"][1]) < ARG_TEXT_MAX + 100
    document = encode("FAILURE", ValueError(), task_id="t", serializer=JSON, traceback="t" * 10**7)
    assert len(document) < TEXT_LIMIT + 1000


def test_args_that_are_no_tuple_are_left_out() -> None:
    class Odd(Exception):
        args = property(lambda self: 3)  # type: ignore[assignment]

    assert exception_value(Odd(), JSON)["exc_message"] == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "SystemExit"),
        ("builtins", "KeyboardInterrupt"),
        ("builtins", "eval"),
        ("builtins", "object"),
        ("builtins", "ValueError.mro"),
        ("os", "system"),
        ("os", "path.join"),
        ("sys", "modules"),
        ("", "ValueError"),
        (None, "ValueError"),
        (3, "ValueError"),
        ("no_such_module_here", "Error"),
        ("builtins", ""),
        ("builtins", "."),
        (__name__, "Poisonous"),
        (__name__, "Nested"),
        (__name__, "NoSuch"),
    ],
)
def test_a_poisoned_record_makes_a_generic_error_and_nothing_else(module: Any, name: str) -> None:
    before = set(sys.modules)
    made = rebuild_exception({"exc_type": name, "exc_message": ["x"], "exc_module": module}, "Traceback")
    assert type(made) is RemoteTaskError
    assert made.type_name.endswith(name[:500])
    assert made.traceback == "Traceback"
    assert set(sys.modules) == before


def test_a_module_that_is_not_imported_is_not_imported() -> None:
    assert "antigravity" not in sys.modules
    rebuild_exception({"exc_type": "Error", "exc_message": [], "exc_module": "antigravity"})
    assert "antigravity" not in sys.modules


def test_a_constructor_that_wants_something_else_gives_a_generic_error() -> None:
    made = rebuild_exception(exception_value(NeedsTwo(1, 2), JSON))
    assert isinstance(made, RemoteTaskError)
    assert made.type_name == f"{__name__}.NeedsTwo"


def test_a_constructor_that_returns_something_else_gives_a_generic_error() -> None:
    class Strange(Exception):
        def __new__(cls, *args: Any) -> Any:
            return 3

    module = sys.modules[__name__]
    module.Strange = Strange  # type: ignore[attr-defined]
    try:
        made = rebuild_exception({"exc_type": "Strange", "exc_message": [], "exc_module": __name__})
    finally:
        del module.Strange  # type: ignore[attr-defined]
    assert isinstance(made, RemoteTaskError)


@pytest.mark.parametrize("value", [None, 3, "text", [], {}, {"exc_type": 3}, {"exc_type": None}])
def test_a_record_of_another_shape_gives_a_generic_error(value: Any) -> None:
    assert isinstance(rebuild_exception(value), RemoteTaskError)


def test_an_exception_object_is_itself() -> None:
    exc = ValueError()
    assert rebuild_exception(exc) is exc


def test_a_single_message_is_one_argument() -> None:
    assert rebuild_exception(
        {"exc_type": "ValueError", "exc_message": "m", "exc_module": "builtins"}
    ).args == ("m",)
    assert (
        rebuild_exception({"exc_type": "ValueError", "exc_message": None, "exc_module": "builtins"}).args
        == ()
    )


@given(json_values)
def test_any_record_gives_an_exception(value: Any) -> None:
    assert isinstance(rebuild_exception(value), Exception)


def test_a_record_written_by_celery_is_rebuilt() -> None:
    import celery.exceptions

    assert isinstance(celery.exceptions.Ignore(), Exception)
    made = rebuild_exception({"exc_type": "Retry", "exc_message": ["m"], "exc_module": "celery.exceptions"})
    assert type(made) is Retry


# --- texts ------------------------------------------------------------------------------------------


def test_a_long_text_keeps_both_ends() -> None:
    text = bounded("a" * 100 + "b" * 100, 50)
    assert text.startswith("a" * 25) and text.endswith("b" * 25)
    assert "150 characters left out" in text
    assert bounded("short", 50) == "short"


def test_a_deep_recursion_is_stored_bounded() -> None:
    def recurse() -> None:
        recurse()

    try:
        recurse()
    except RecursionError as exc:
        text = traceback_text(exc, exc.__traceback__)
    assert len(text) <= TEXT_LIMIT + 100
    assert "RecursionError" in text


def test_an_exception_whose_text_cannot_be_had_is_still_reported() -> None:
    class Bad(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

        @property
        def __cause__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("no")

    try:
        raise Bad
    except Bad as exc:
        text = traceback_text(exc, exc.__traceback__)
    assert "Bad" in text


def test_exception_info_shows_the_traceback() -> None:
    try:
        raise ValueError("x")
    except ValueError as exc:
        einfo = ExceptionInfo(exc, skip_frames=5)
    assert einfo.type is ValueError
    assert "ValueError: x" in str(einfo)
    assert einfo.traceback is einfo.traceback
    assert "ValueError" in repr(einfo)
    assert safe_text("x" * 10**6, 10).startswith("'xxxx")
    assert result_document.iso_utc(1.5) == "1970-01-01T00:00:01.500000+00:00"


def test_a_time_limit_comes_back_as_itself_in_a_process_that_never_met_one() -> None:
    code = (
        "import sys\n"
        "from prefork.engine.result_document import rebuild_exception\n"
        "assert 'billiard' not in sys.modules\n"
        "value = {'exc_type': 'TimeLimitExceeded', 'exc_message': [3], 'exc_module': 'billiard.exceptions'}\n"
        "made = rebuild_exception(value)\n"
        "from prefork.engine.exceptions import TimeLimitExceeded\n"
        "assert type(made) is TimeLimitExceeded, type(made)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


def test_a_compressed_document_that_cannot_be_read_says_why() -> None:
    with pytest.raises(MalformedResult, match="how it is compressed"):
        decode(b"\0celery-compressed\0", JSON)
    with pytest.raises(DecodeError, match="application/x-nothing"):
        decode(b"\0celery-compressed\0application/x-nothing\0abc", JSON)
    with pytest.raises(DecodeError):
        decode(b"\0celery-compressed\0application/x-gzip\0abc", JSON)
