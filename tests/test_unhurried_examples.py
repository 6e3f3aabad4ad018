"""Hypothesis on a machine that stands still now and then: that is no fault of what is tested."""

from __future__ import annotations

import time
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

# Each longer than what Hypothesis grants by itself: one example 200 ms, the first few inputs together 1 s.
STALLED_EXAMPLE_S = 0.3
STALLED_INPUTS_S = 1.1

_examples, _inputs = count(), count()


@st.composite
def stalled_inputs(draw: st.DrawFn) -> int:
    if next(_inputs) == 1:
        time.sleep(STALLED_INPUTS_S)
    return draw(st.integers())


@given(st.integers())
def test_an_example_during_which_the_machine_stands_still_is_not_a_failure(_: int) -> None:
    if next(_examples) == 10:
        time.sleep(STALLED_EXAMPLE_S)


@given(stalled_inputs())
def test_inputs_that_came_slowly_once_are_not_a_failure(_: int) -> None:
    pass
