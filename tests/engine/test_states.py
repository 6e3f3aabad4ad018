from __future__ import annotations

from prefork.engine import states
from prefork.engine.states import state


def test_the_sets_are_those_of_the_wire() -> None:
    assert frozenset({"SUCCESS", "FAILURE", "REVOKED"}) == states.READY_STATES
    assert frozenset({"RETRY", "FAILURE", "REVOKED"}) == states.EXCEPTION_STATES
    assert frozenset({"FAILURE", "REVOKED"}) == states.PROPAGATE_STATES
    assert not states.READY_STATES & states.UNREADY_STATES


def test_states_compare_by_precedence() -> None:
    assert state("PENDING") < state("SUCCESS")
    assert state("SUCCESS") > state("FAILURE") >= state("FAILURE")
    assert state("RETRY") <= state("STARTED")


def test_a_state_of_ones_own_ranks_below_failure_and_above_revoked() -> None:
    assert state("FAILURE") > state("PROGRESS") > state("REVOKED")
    assert states.precedence("PROGRESS") == states.precedence("ANYTHING")
