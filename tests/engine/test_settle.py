"""The table of settlements, as it is documented and as it is carried out."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.scoreboard import Policy
from prefork.engine.settle import (
    AckPolicy,
    Ending,
    Settlement,
    bits_of_policy,
    policy_of_bits,
    settlement,
)
from prefork.transports.base import Verdict

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "acknowledgement.md"
FLAGS = {"yes": (True,), "no": (False,), "*": (True, False)}
POLICIES = st.builds(AckPolicy, st.booleans(), st.booleans(), st.booleans(), st.booleans())


def documented() -> dict[tuple[Ending, AckPolicy], Settlement]:
    """The table of the page, every asterisk written out."""
    table: dict[tuple[Ending, AckPolicy], Settlement] = {}
    text = PAGE.read_text().partition("<!-- settlement table")[2]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 8 or cells[0] in ("what happened", "---"):
            continue
        verdict = None if cells[5] == "-" else Verdict[cells[5]]
        state = None if cells[6] == "-" else cells[6]
        for flags in product(*(FLAGS[cell] for cell in cells[1:5])):
            key = (Ending(cells[0]), AckPolicy(*flags))
            assert key not in table, f"documented twice: {line}"
            table[key] = Settlement(verdict, state, cells[7] == "yes")
    return table


def test_the_documented_table_is_complete() -> None:
    every = {(ending, AckPolicy(*flags)) for ending in Ending for flags in product((True, False), repeat=4)}
    assert set(documented()) == every


@pytest.mark.parametrize("ending", Ending, ids=lambda ending: ending.value)
def test_what_is_documented_is_what_is_done(ending: Ending) -> None:
    for (documented_ending, policy), expected in documented().items():
        if documented_ending is ending:
            assert settlement(ending, policy) == expected, policy


@given(policy=POLICIES, ending=st.sampled_from(Ending))
def test_nothing_is_requeued_that_was_acknowledged_before(policy: AckPolicy, ending: Ending) -> None:
    decided = settlement(ending, policy)
    ran = not ending.value.startswith(("expired", "revoked", "not due", "unknown", "content", "malformed"))
    assert (decided.verdict is None) == (ran and not policy.late)
    if decided.charged:
        assert decided.verdict is Verdict.REQUEUE


@given(policy=POLICIES, ending=st.sampled_from(Ending))
def test_whoever_waits_is_told_unless_the_message_comes_again_or_the_task_says_nothing(
    policy: AckPolicy, ending: Ending
) -> None:
    decided = settlement(ending, policy)
    if decided.state is None:
        comes_again = decided.verdict in (Verdict.REQUEUE, Verdict.DEFER)
        assert comes_again or ending in (Ending.IGNORE, Ending.SNOOZE, Ending.MALFORMED)


def test_an_ending_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="add it to the table"):
        settlement("something else", AckPolicy())  # type: ignore[arg-type]


@given(policy=POLICIES, store_errors=st.booleans())
def test_the_scoreboard_carries_a_policy(policy: AckPolicy, store_errors: bool) -> None:
    bits = bits_of_policy(policy, store_errors=store_errors)
    assert policy_of_bits(bits) == policy._replace(on_failure=True)
    assert bool(bits & Policy.STORE_ERRORS) is store_errors
    assert not bits & Policy.IGNORE_RESULT
