"""Tags, entries of owners, and the sources that a tag leads back to."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.base import TAG_BYTES_MAX
from prefork.transports.redis.keys import Keys, decode, encode
from prefork.transports.redis.owners import (
    Registered,
    Sources,
    Tag,
    fence_of,
    read_registered,
    read_tag,
)
from prefork.transports.redis.settings import read_settings

KEYS = Keys(read_settings("redis://localhost", {"global_keyprefix": "p:"}))
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


@given(
    st.integers(0, 10**15 - 1),
    st.integers(0, 10**6 - 1),
    st.integers(0, 10**9 - 1),
    st.integers(0, 3),
    st.text(max_size=60),
)
def test_a_tag_is_read_as_it_was_written(
    number: int, source: int, crashes: int, flags: int, owner: str
) -> None:
    fence = fence_of(owner)
    recorded = b"r%d:%d:%d:%d:%b" % (number, source, crashes, flags, fence)
    plain = b"%d:%d:%b" % (number, source, fence)
    assert read_tag(recorded) == Tag(number, source, crashes, flags, fence)
    assert read_tag(plain) == Tag(number, source, 0, 0, fence)
    assert max(len(recorded), len(plain)) <= TAG_BYTES_MAX


@given(st.binary(max_size=80))
def test_what_is_no_tag_is_none(data: bytes) -> None:
    read = read_tag(data)
    assert read is None or (data.split(b":")[-1], data[:1] == b"r") == (
        read.fence,
        bool(data.count(b":") == 4),
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"1:2:", b"1:2:0123456", b"r1:2:0123abcd", b"1:2:0123ABCD", b"!1:2:0123abcd", b"1:2:0123abcd\n"],
)
def test_near_misses_are_none(data: bytes) -> None:
    assert read_tag(data) is None


@given(NAMES, st.lists(NAMES, max_size=5), st.lists(st.integers(0, 255), max_size=10))
def test_an_entry_is_read_as_it_was_written_fenced_or_not(
    worker: str, queues: list[str], steps: list[int]
) -> None:
    registered = Registered(worker, tuple(queues), tuple(steps))
    assert read_registered(registered.encoded()) == registered
    assert read_registered(b"!" + registered.encoded()) == registered


@given(st.one_of(st.binary(max_size=40), st.from_type(object).map(lambda thing: repr(thing).encode())))
def test_a_damaged_entry_is_none_or_an_entry(data: bytes) -> None:
    found = read_registered(data)
    assert found is None or isinstance(found, Registered)


@pytest.mark.parametrize("value", [1, "x", [1, 2], ["w", 3, []], ["w", [], ["x"]], None, {"a": 1}])
def test_json_that_is_no_entry_is_none(value: object) -> None:
    assert read_registered(json.dumps(value).encode()) is None


@given(
    st.lists(NAMES, min_size=1, max_size=4, unique=True), st.lists(st.integers(0, 9), min_size=1, unique=True)
)
def test_every_source_of_a_tag_is_the_list_of_its_queue_and_step(queues: list[str], steps: list[int]) -> None:
    sources = Sources(KEYS, queues, sorted(steps))
    assert len({source.list for source in sources.all}) == len(queues) * len(steps)
    for index, source in enumerate(sources.all):
        assert sources.of(Tag(1, index, 0, 0, b"")) is source
        assert (source.queue, source.step) == (
            queues[index % len(queues)],
            sorted(steps)[index // len(queues)],
        )
        assert source.list == KEYS.list_of_step(encode(source.queue), source.step)
    assert sources.of(Tag(1, len(sources.all), 0, 0, b"")) is None
    assert len(sources.pairs()) == 2 * len(sources.all)


@pytest.mark.parametrize(
    ("priority", "step"), [(-5, 0), (0, 0), (2, 0), (3, 3), (5, 3), (6, 6), (8, 6), (9, 9), (255, 9)]
)
def test_a_priority_is_served_by_the_largest_step_below_it(priority: int, step: int) -> None:
    assert KEYS.step_of(priority) == step
    assert KEYS.list_of("q", priority) == b"p:q" + (b"\x06\x16%d" % step if step else b"")


@given(st.binary(max_size=30))
def test_names_of_foreigners_survive(name: bytes) -> None:
    assert encode(decode(name)) == name
