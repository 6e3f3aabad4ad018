"""The way out: stages that only go forward, each with a bound. Pure.

run -> warm (finish what runs, give the rest back) -> cold (kill what runs) -> handover (the agent
gives back what the killed held) -> parting (the agent leaves) -> done.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

COLD_S: Final = 6.0  # longer than an unkillable child takes to be counted as dead
# Together less than two seconds: with a broker that swallows everything nothing can be given back, however
# long one waits, and whoever stops a service counts on its time-out. Parting has what handover leaves.
HANDOVER_S: Final = 1.25
PARTING_S: Final = 0.5
# The program that embeds the worker has died: everything goes within a second.
HURRY_S: Final = 0.25


class Stage(enum.IntEnum):
    """How far the shutdown has come."""

    RUN = 0
    WARM = 1
    COLD = 2
    HANDOVER = 3
    PARTING = 4
    DONE = 5


class Ask(enum.Enum):
    """What somebody asks for."""

    TERM = "term"  # warm with the configured deadline; asked again: the next step
    INT = "int"  # warm without a deadline; asked again: the next step
    QUIT = "quit"  # cold
    FAIL = "fail"  # cold, because the worker cannot go on
    HOST_GONE = "host gone"  # cold, in a hurry


class Shutdown(NamedTuple):
    """Where the shutdown stands.

    :param deadline_s: monotonic end of the stage; None when it has none.
    :param exit_code: what the supervisor will exit with.
    """

    stage: Stage = Stage.RUN
    deadline_s: float | None = None
    exit_code: int = 0
    hurry: bool = False

    @property
    def begun(self) -> bool:
        """Somebody has asked to stop."""
        return self.stage is not Stage.RUN


def ask(state: Shutdown, what: Ask, now_s: float, soft_s: float, exit_code: int = 0) -> Shutdown:
    """The state after a request.

    :param soft_s: ``worker_soft_shutdown_timeout`` in seconds; 0 switches that step off, as in
        Celery: then TERM waits as INT does, and the second signal is cold.
    """
    code = state.exit_code or exit_code
    if what is Ask.HOST_GONE:
        moved = _enter(Stage.COLD, now_s, exit_code=code, hurry=True) if state.stage < Stage.COLD else state
        return moved._replace(hurry=True, deadline_s=_earlier(moved.deadline_s, now_s + HURRY_S))
    if state.stage >= Stage.COLD:
        return state._replace(exit_code=code)
    if what in (Ask.QUIT, Ask.FAIL):
        return _enter(Stage.COLD, now_s, exit_code=code)
    if state.stage is Stage.RUN:
        deadline_s = now_s + soft_s if what is Ask.TERM and soft_s > 0 else None
        return Shutdown(Stage.WARM, deadline_s, code)
    if state.deadline_s is None and soft_s > 0:
        return state._replace(deadline_s=now_s + soft_s)
    return _enter(Stage.COLD, now_s, exit_code=code)


def stop_within(state: Shutdown, now_s: float, graceful_s: float | None) -> Shutdown:
    """Warm with a deadline of the caller's: None waits for ever, 0 is cold at once."""
    if state.stage >= Stage.COLD:
        return state
    if graceful_s is not None and graceful_s <= 0:
        return _enter(Stage.COLD, now_s, exit_code=state.exit_code)
    deadline_s = None if graceful_s is None else now_s + graceful_s
    if state.stage is Stage.WARM:
        deadline_s = _earlier(state.deadline_s, deadline_s)
    return Shutdown(Stage.WARM, deadline_s, state.exit_code)


def advance(state: Shutdown, now_s: float, *, children: int, unrecovered: int, agent: bool) -> Shutdown:
    """The state after time has passed or somebody has gone; one step at most.

    :param children: processes that have not ended and are not counted as dead.
    :param unrecovered: slots whose messages the agent has not given back yet.
    :param agent: whether the agent has a process.
    """
    expired = state.deadline_s is not None and now_s >= state.deadline_s
    match state.stage:
        case Stage.WARM if children == 0:
            return _enter(Stage.HANDOVER, now_s, exit_code=state.exit_code)
        case Stage.WARM if expired:
            return _enter(Stage.COLD, now_s, exit_code=state.exit_code)
        case Stage.COLD if children == 0 or expired:
            return _enter(Stage.HANDOVER, now_s, exit_code=state.exit_code, hurry=state.hurry)
        case Stage.HANDOVER if unrecovered == 0 or expired:
            parting = _enter(Stage.PARTING, now_s, exit_code=state.exit_code, hurry=state.hurry)
            if state.hurry or state.deadline_s is None:
                return parting
            return parting._replace(deadline_s=max(now_s, state.deadline_s) + PARTING_S)
        case Stage.PARTING if not agent or expired:
            return state._replace(stage=Stage.DONE, deadline_s=None)
        case _:
            return state


def _enter(stage: Stage, now_s: float, *, exit_code: int, hurry: bool = False) -> Shutdown:
    bounds_s = {Stage.COLD: COLD_S, Stage.HANDOVER: HANDOVER_S, Stage.PARTING: PARTING_S}
    bound_s = HURRY_S if hurry else bounds_s[stage]
    return Shutdown(stage, now_s + bound_s, exit_code, hurry)


def _earlier(a_s: float | None, b_s: float | None) -> float | None:
    given = [moment_s for moment_s in (a_s, b_s) if moment_s is not None]
    return min(given, default=None)
