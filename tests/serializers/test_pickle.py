from __future__ import annotations

import os
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from prefork.serializers.base import DecodeError, DecodeFault, EncodeError, Serializer
from prefork.serializers.pickle import WARNING, PickleSerializer
from prefork.serializers.registry import SerializerTable


class Marker:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


class Unpicklable:
    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError("not me")


def test_it_is_a_serializer() -> None:
    assert isinstance(PickleSerializer(), Serializer)
    assert PickleSerializer().content_type == "application/x-python-serialize"


def test_values_come_back_once_reading_is_allowed() -> None:
    serializer = PickleSerializer()
    serializer.allow_unpickling()
    value = ((1, {2}), {"d": timedelta(1)}, {})
    written = serializer.dumps(value)
    assert written[:2] == b"\x80\x04"
    assert serializer.loads(written) == value


def test_a_process_that_was_not_allowed_executes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    data = pickle.dumps(Marker(str(target)))
    with pytest.raises(DecodeError) as caught:
        PickleSerializer().loads(data)
    assert caught.value.reason is DecodeFault.REFUSED_HERE
    assert not target.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_table_that_does_not_name_it_refuses_every_pickle_unread(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "executed"
    table = SerializerTable(("json", "msgpack"), ("json", "msgpack"))
    table.allow_unpickling()
    data = pickle.dumps(Marker(str(target)), protocol=protocol)
    for content_type in ("application/x-python-serialize", "application/data", "application/json"):
        with pytest.raises(Exception, match=r"not accepted|undecodable"):
            table.decode(data, content_type, "binary")
    assert not target.exists()


def test_a_table_lets_its_process_read_pickles_when_told() -> None:
    table = SerializerTable(("pickle",), ("pickle",))
    encoded = table.encode({1, 2}, "pickle")
    with pytest.raises(DecodeError, match="never reads pickles"):
        table.decode(*encoded)
    table.allow_unpickling()
    assert table.decode(*encoded) == {1, 2}


@pytest.mark.parametrize("data", [b"", b"\x80\x04", b"garbage", b"cnowhere\nnothing\n.", b"\x80\x09."])
def test_what_cannot_be_unpickled_is_refused(data: bytes) -> None:
    serializer = PickleSerializer()
    serializer.allow_unpickling()
    with pytest.raises(DecodeError) as caught:
        serializer.loads(data)
    assert caught.value.reason is DecodeFault.MALFORMED


def test_an_encoding_error_names_the_place() -> None:
    with pytest.raises(EncodeError, match=r"\[0\]\[5\]: <class Unpicklable>"):
        PickleSerializer().dumps([{5: Unpicklable()}])


def test_a_pickle_nested_too_deeply_is_refused() -> None:
    class Deep:
        def __reduce__(self) -> tuple[Any, ...]:
            return _recurse, ()

    serializer = PickleSerializer()
    serializer.allow_unpickling()
    with pytest.raises(DecodeError) as caught:
        serializer.loads(pickle.dumps(Deep()))
    assert caught.value.reason is DecodeFault.TOO_DEEP


def _recurse() -> None:
    raise RecursionError


def test_the_warning_says_what_it_means_and_what_to_do() -> None:
    assert "run any code" in WARNING and "use json" in WARNING
