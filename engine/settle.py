"""The one place that decides how a delivery is settled: a table, as a pure function.

The worker loop asks it for what happened in a child, the agent for what happened to a child. The
same table is printed in the documentation (docs/explanation/acknowledgement.md), and a test
compares the two.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ..transports.base import Verdict
from . import states
from .scoreboard import Policy


class Ending(Enum):
    """How an execution, or the attempt at one, came to its end. A closed set."""

    SUCCESS = "returned"
    FAILURE = "raised"
    RETRY = "retry"
    IGNORE = "ignore"
    SNOOZE = "snooze"
    REJECT = "reject"
    REJECT_REQUEUE = "reject, requeue"
    SOFT_LIMIT = "soft time limit"
    HARD_LIMIT = "hard time limit"
    LOST = "process died"
    MEMORY = "memory limit"
    SHUTDOWN = "interrupted by shutdown"
    EXPIRED = "expired"
    REVOKED = "revoked"
    TERMINATED = "terminated on request"
    NOT_DUE = "not due yet"
    UNKNOWN_TASK = "unknown task, within grace"
    UNKNOWN_TASK_FOR_GOOD = "unknown task"
    REFUSED_CONTENT = "content type not accepted"
    MALFORMED = "malformed"


class AckPolicy(NamedTuple):
    """The options of a task that decide about acknowledgement, resolved (task > config).

    :param late: acknowledged after the run (`acks_late`).
    :param on_failure: a failure acknowledges (`acks_on_failure`).
    :param on_timeout: an exceeded time limit acknowledges (`acks_on_timeout`).
    :param requeue_if_lost: a lost process gives the message back (`reject_on_worker_lost`).
    """

    late: bool = True
    on_failure: bool = True
    on_timeout: bool = True
    requeue_if_lost: bool = True


class Settlement(NamedTuple):
    """What is done with the message, and what the result store is told.

    :param verdict: None when the message was acknowledged before its start.
    :param state: the state to store, or None for none.
    :param charged: the delivery counts as a crash of its process.
    """

    verdict: Verdict | None
    state: str | None
    charged: bool = False


def settlement(ending: Ending, policy: AckPolicy) -> Settlement:
    """The truth table of acknowledgement.

    :param ending: what happened.
    :param policy: the resolved options of the task; for a message whose task is not known, the
        defaults.
    """
    before_start = _NEVER_STARTED.get(ending)
    if before_start is not None:
        return before_start
    if ending is Ending.SHUTDOWN and policy.late:
        return Settlement(Verdict.REQUEUE, None)
    settled = _FINISHED.get(ending) or _interrupted(ending, policy)
    if not policy.late:
        # It was acknowledged just before its start: at most once is kept strictly.
        return Settlement(None, settled.state or _STATE_IF_NEVER_RUN_AGAIN.get(ending))
    return settled


_NEVER_STARTED = {
    Ending.EXPIRED: Settlement(Verdict.ACK, states.REVOKED),
    Ending.REVOKED: Settlement(Verdict.ACK, states.REVOKED),
    Ending.NOT_DUE: Settlement(Verdict.DEFER, None),
    Ending.UNKNOWN_TASK: Settlement(Verdict.DEFER, None),
    Ending.UNKNOWN_TASK_FOR_GOOD: Settlement(Verdict.DEAD, states.FAILURE),
    Ending.REFUSED_CONTENT: Settlement(Verdict.DEAD, states.FAILURE),
    Ending.MALFORMED: Settlement(Verdict.DEAD, None),
}

_FINISHED = {
    Ending.SUCCESS: Settlement(Verdict.ACK, states.SUCCESS),
    Ending.TERMINATED: Settlement(Verdict.ACK, states.REVOKED),
    Ending.RETRY: Settlement(Verdict.ACK, states.RETRY),
    Ending.IGNORE: Settlement(Verdict.ACK, None),
    Ending.SNOOZE: Settlement(Verdict.ACK, None),  # the same attempt follows, as a message of its own
    Ending.REJECT: Settlement(Verdict.DEAD, states.FAILURE),
    Ending.REJECT_REQUEUE: Settlement(Verdict.REQUEUE, None),
}

_STATE_IF_NEVER_RUN_AGAIN = {
    Ending.LOST: states.FAILURE,
    Ending.MEMORY: states.FAILURE,
    Ending.HARD_LIMIT: states.FAILURE,
    Ending.SHUTDOWN: states.FAILURE,
    Ending.SOFT_LIMIT: states.FAILURE,
    Ending.REJECT_REQUEUE: states.FAILURE,
}


def _interrupted(ending: Ending, policy: AckPolicy) -> Settlement:
    if ending is Ending.FAILURE:
        verdict = Verdict.ACK if policy.on_failure else Verdict.DEAD
        return Settlement(verdict, states.FAILURE)
    if ending in (Ending.SOFT_LIMIT, Ending.HARD_LIMIT):
        verdict = Verdict.ACK if policy.on_timeout else Verdict.REQUEUE
        # A message that will run again has no final state yet (unlike Celery, interop §4.2).
        return Settlement(verdict, states.FAILURE if policy.on_timeout else None)
    if ending in (Ending.LOST, Ending.MEMORY):
        if policy.requeue_if_lost:
            return Settlement(Verdict.REQUEUE, None, charged=True)
        return Settlement(Verdict.ACK, states.FAILURE)
    if ending is Ending.SHUTDOWN:
        return Settlement(None, states.FAILURE)
    raise ValueError(f"no settlement for {ending!r}: add it to the table in settle.py")


def bits_of_policy(policy: AckPolicy, *, store_errors: bool) -> int:
    """The options as `scoreboard.Policy` bits, for those who only see the scoreboard."""
    bits = Policy.STORE_ERRORS if store_errors else 0
    if not policy.late:
        bits |= Policy.ACKED_EARLY
    if not policy.requeue_if_lost:
        bits |= Policy.FAIL_IF_LOST
    if not policy.on_timeout:
        bits |= Policy.REQUEUE_ON_TIMEOUT
    return bits


def policy_of_bits(bits: int) -> AckPolicy:
    """The options that the scoreboard carries.

    `on_failure` is not among them: whoever reads the bits looks at an execution that never ended.
    """
    return AckPolicy(
        late=not bits & Policy.ACKED_EARLY,
        on_failure=True,
        on_timeout=not bits & Policy.REQUEUE_ON_TIMEOUT,
        requeue_if_lost=not bits & Policy.FAIL_IF_LOST,
    )
