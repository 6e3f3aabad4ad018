from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from typing import Any

import pytest

from prefork.serializers.base import (
    ContentDisallowed,
    DecodeError,
    DecodeFault,
    EncodeError,
    UnknownSerializer,
    path_text,
)
from prefork.serializers.compression import compress
from prefork.serializers.registry import SerializerTable, load_serializer


def test_a_table_writes_by_name_and_reads_by_content_type() -> None:
    table = SerializerTable(("json", "msgpack"), ("json", "application/x-msgpack"))
    assert table.names == ("json", "msgpack")
    assert table.accepted == ("application/json", "application/x-msgpack")
    for name in table.names:
        body, content_type, content_encoding = table.encode([1, "x"], name)
        assert table.decode(body, content_type, content_encoding) == [1, "x"]
        assert table.by_name(content_type) is table.by_name(name)


def test_json_is_the_same_instance_wherever_it_is_used() -> None:
    table = SerializerTable()
    assert table.json is table.by_name("json") is table.decoder("application/json")


@pytest.mark.parametrize("content_type", ["application/data", "application/text", "text/plain", "", "json"])
def test_nothing_is_trusted_unless_it_is_listed(content_type: str) -> None:
    with pytest.raises(ContentDisallowed) as caught:
        SerializerTable().decode(b"[]", content_type)
    assert caught.value.content_type == content_type
    assert "application/json" in str(caught.value) and "accept_content" in str(caught.value)


def test_raw_bytes_and_text_are_read_when_they_are_listed() -> None:
    table = SerializerTable((), ("application/data", "text"))
    assert table.decode(b"\xff", "application/data", "binary") == b"\xff"
    assert table.decode("é".encode(), "text/plain") == "é"
    assert table.encode(b"x", "raw") == (b"x", "application/data", "binary")
    assert table.encode("é", "text") == ("é".encode(), "text/plain", "utf-8")
    with pytest.raises(DecodeError):
        table.decode(b"\xff", "text/plain")


@pytest.mark.parametrize(("name", "value"), [("raw", "text"), ("text", b"bytes"), ("text", "\ud800")])
def test_raw_and_text_refuse_what_is_neither(name: str, value: Any) -> None:
    with pytest.raises(EncodeError, match=name):
        SerializerTable((name,)).encode(value, name)


def test_an_empty_list_accepts_nothing_and_says_so() -> None:
    with pytest.raises(ContentDisallowed, match="accepted: nothing"):
        SerializerTable(accept=()).decode(b"[]", "application/json")


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "binary", "us-ascii", "ascii-8bit"])
def test_the_charsets_of_peers_are_read(charset: str) -> None:
    assert SerializerTable().decode(b"[1]", "application/json", charset) == [1]


@pytest.mark.parametrize("charset", ["zip", "idna", "unicode_escape", "utf-16", "bz2", "", "latin-1"])
def test_no_other_codec_of_python_is_ever_used(charset: str) -> None:
    with pytest.raises(DecodeError) as caught:
        SerializerTable().decode(b"[1]", "application/json", charset)
    assert caught.value.reason is DecodeFault.CHARSET


def test_a_body_that_is_too_large_is_not_looked_at() -> None:
    with pytest.raises(DecodeError) as caught:
        SerializerTable(input_bytes_max=10).decode(b"x" * 11, "application/json")
    assert caught.value.reason is DecodeFault.TOO_LARGE


def test_a_compressed_body_is_bounded_by_the_table() -> None:
    packed, value = compress(b'"' + b"x" * 1000 + b'"', "zlib")
    assert SerializerTable().decode(packed, "application/json", "utf-8", value) == "x" * 1000
    with pytest.raises(DecodeError) as caught:
        SerializerTable(output_bytes_max=100).decode(packed, "application/json", "utf-8", value)
    assert caught.value.reason is DecodeFault.TOO_LARGE


@pytest.mark.parametrize("name", ["yaml", "application/x-yaml", "JSON", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    for make in (lambda: SerializerTable((name,)), lambda: SerializerTable(accept=(name,))):
        with pytest.raises(UnknownSerializer, match=r"known: json, msgpack, pickle, raw, text"):
            make()
    with pytest.raises(UnknownSerializer):
        SerializerTable().encode(1, name)


def test_a_serializer_that_the_configuration_does_not_name_cannot_be_written_with() -> None:
    with pytest.raises(UnknownSerializer, match=r"'pickle' \(known: json\)"):
        SerializerTable().by_name("pickle")


class Shout:
    """A serializer of somebody else."""

    name = "shout"
    content_type = "application/x-shout"
    content_encoding = "utf-8"

    def dumps(self, value: Any) -> bytes:
        return str(value).upper().encode()

    def loads(self, data: bytes) -> Any:
        return data.decode()


def test_somebody_elses_serializer_is_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "shout"

        def load(self) -> type[Shout]:
            return Shout

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [Entry()])
    table = SerializerTable(("shout",), ("shout",))
    assert table.decode(*table.encode("hi", "shout")) == "HI"
    assert table.by_name("application/x-shout") is table.by_name("shout")
    with pytest.raises(UnknownSerializer, match="shout, text"):
        load_serializer("whisper")


def test_pickle_and_msgpack_are_not_even_imported_unless_named() -> None:
    script = (
        "import sys\n"
        "from prefork.serializers.registry import SerializerTable\n"
        "SerializerTable()\n"
        "loaded = {'prefork.serializers.pickle', 'prefork.serializers.msgpack'} & set(sys.modules)\n"
        "print(sorted(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_long_path_loses_its_middle() -> None:
    text = path_text([0] * 100)
    assert text.count("[0]") == 32 and "[…]" in text


def test_an_encode_error_survives_being_pickled() -> None:
    import pickle

    error = EncodeError([1, "user"], "<class User>", "pass an id", serializer="json", root="args")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(error).startswith("args[1]['user']: <class User>")


@pytest.mark.parametrize(
    "error",
    [
        DecodeError(DecodeFault.MALFORMED, "why"),
        ContentDisallowed("a/b", ("c/d",)),
        UnknownSerializer("a", ("b",)),
    ],
)
def test_other_errors_survive_being_pickled(error: Exception) -> None:
    import pickle

    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back)) == (type(error), str(error))
