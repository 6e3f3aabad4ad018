from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.serializers.depth import LEVELS_MAX, nests_deeper, overflows

_values = st.recursive(
    st.none() | st.text(alphabet='[]{}"\\ab'),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(alphabet='[]{}"\\'), part, max_size=3),
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


@given(_values, st.integers(0, 8))
def test_the_depth_found_is_the_depth_there_is(value: Any, levels: int) -> None:
    assert nests_deeper(json.dumps(value).encode(), levels) == (_depth(value) > levels)


@given(st.binary())
def test_any_bytes_are_answered(data: bytes) -> None:
    assert nests_deeper(data, 0) in (True, False)


def test_a_wide_text_is_not_taken_for_a_deep_one() -> None:
    assert not nests_deeper(b"[" + b"[]," * 20_000 + b"[]]", LEVELS_MAX)


def test_nothing_is_scanned_while_the_recursion_limit_guards() -> None:
    assert sys.getrecursionlimit() <= LEVELS_MAX
    assert not overflows(b"[" * 100_000)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_bomb_does_not_kill_a_process_that_raised_its_recursion_limit(opening: str) -> None:
    script = f"""
        import sys
        from prefork.engine.message import MalformedMessage, parse
        from prefork.serializers.base import DecodeError
        from prefork.serializers.registry import SerializerTable
        sys.setrecursionlimit(10**6)
        bomb, table = {opening!r}.encode() * 100_000, SerializerTable()
        for read in (table.json.loads, lambda data: parse(data, table)):
            try:
                read(bomb)
            except (DecodeError, MalformedMessage) as error:
                print(error.reason.value)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["too-deep", "too-deep"])
