"""Every value of the ports survives msgpack unchanged: outcomes lie encoded in shared memory."""

from __future__ import annotations

import inspect

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports import values
from prefork.transports.base import (
    Capabilities,
    DeadLetter,
    Delivery,
    Depth,
    Message,
    Outcome,
    Outgoing,
    QueueDeclaration,
    Recovery,
    Released,
    StoredResult,
    Verdict,
    Waiting,
)

counts = st.integers(0, 2**31)
seconds = st.floats(allow_nan=False, allow_infinity=False)
maybe_seconds = st.none() | seconds
texts = st.text(max_size=20)
documents = st.binary(max_size=64)
lines = st.lists(texts, max_size=3).map(tuple)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | seconds | texts | documents,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
headers = st.dictionaries(texts, plain, max_size=4)

outgoing = st.builds(
    Outgoing, texts, documents, st.integers(-(2**63), 2**63 - 1), maybe_seconds, texts, texts
)
results = st.builds(StoredResult, texts, documents, maybe_seconds, st.booleans())
letters = st.builds(DeadLetter, texts, texts, texts, lines, documents, counts, counts, seconds)

VALUES: dict[type[msgspec.Struct], st.SearchStrategy[msgspec.Struct]] = {
    Message: st.builds(Message, documents, texts, texts, headers, headers),
    Outgoing: outgoing,
    Delivery: st.builds(
        Delivery, st.binary(max_size=64), texts, documents, counts, counts, st.booleans(), st.booleans()
    ),
    StoredResult: results,
    Outcome: st.builds(
        Outcome,
        tag=st.binary(max_size=64),
        verdict=st.sampled_from(Verdict),
        due_wall_s=maybe_seconds,
        reason=texts,
        causes=lines,
        follow_ups=st.lists(outgoing, max_size=3).map(tuple),
        results=st.lists(results, max_size=3).map(tuple),
        crashed=st.booleans(),
    ),
    Depth: st.builds(Depth, counts, counts, counts),
    DeadLetter: letters,
    Waiting: st.builds(Waiting, texts, documents, counts, maybe_seconds, counts),
    Recovery: st.builds(
        Recovery,
        counts,
        counts,
        st.lists(documents, max_size=3).map(tuple),
        st.lists(letters, max_size=2).map(tuple),
    ),
    Released: st.builds(Released, counts, counts, counts, lines),
    Capabilities: st.builds(
        Capabilities,
        name=texts,
        gaps=lines,
        hold_s_max=maybe_seconds,
        **{
            name: st.booleans()
            for name in Capabilities.__struct_fields__
            if name not in ("name", "gaps", "hold_s_max")
        },
    ),
    QueueDeclaration: st.builds(
        QueueDeclaration,
        texts,
        texts,
        texts,
        texts,
        *[st.booleans()] * 3,
        headers,
        st.booleans(),
        st.booleans(),
        headers,
    ),
}


def test_every_value_of_the_ports_is_tested_here() -> None:
    declared = {
        value
        for _name, value in inspect.getmembers(values, inspect.isclass)
        if issubclass(value, msgspec.Struct) and value.__module__ == values.__name__
    }
    assert declared == set(VALUES)


@pytest.mark.parametrize("kind", list(VALUES), ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_value_survives_msgpack_unchanged(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    value = data.draw(VALUES[kind])
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)
    assert again == value
    assert type(again) is kind


@pytest.mark.parametrize("kind", list(VALUES), ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_value_cannot_be_changed(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    value = data.draw(VALUES[kind])
    with pytest.raises(AttributeError):
        setattr(value, value.__struct_fields__[0], None)


def test_an_unknown_verdict_is_not_decoded() -> None:
    encoded = msgspec.msgpack.encode([b"tag", 17])
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(encoded, type=Outcome)
