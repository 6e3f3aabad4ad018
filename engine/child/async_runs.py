"""The executions that run beside each other in one child, as coroutines on its event loop.

Everything here happens in the thread of that loop, unless it says otherwise.

A slot of the scoreboard shows one execution. Of several it shows the one whose hard limit is over first:
the supervisor kills a child that is over it. What can be done inside the process is done here before
that: an execution is cancelled at its soft limit, again every second, and once more at its hard limit.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from ...transports.base import Delivery, Outcome
from .. import signals, states
from ..async_execution import execute_async
from ..clock import mono_ns
from ..coroutines import reason_of
from ..einfo import ExceptionInfo
from ..exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from ..execution import Executed, Interrupted
from ..message import Embed, TaskMessage
from ..request import Context
from ..revoked_board import A_ENDINGS
from ..revoked_keys import slot_id
from ..scoreboard import (
    C_BODY,
    C_BUSY_NS,
    C_EXECUTIONS,
    C_HARD_LIMIT_MS,
    C_HARD_NS,
    C_POLICY,
    C_RUNNING,
    C_SOFT_LIMIT_MS,
    C_SOFT_NS,
    C_START_NS,
    Policy,
    padded_tag,
)
from ..shielding import shielded
from ..task_context import set_current
from .announcing import tell_received
from .async_follow_ups import AsyncFollowUps
from .outcomes import Outcomes
from .parts import Parts
from .plan import RunPlan

SOFT_REPEAT_S: Final = 1.0

GRACE_NS: Final = 300_000_000
"""How long a coroutine may take to end when it is cancelled, before others are told of its limits."""

BLOCKED_NS: Final = 250_000_000
"""Who holds the event loop for so long is complained of."""

_LOOK_S: Final = 0.1

_log = logging.getLogger("prefork.child")


class Ready(NamedTuple):
    """A message whose execution may start.

    :param soft_s: soft limit in seconds; None, or 0, for none. Likewise `hard_s`.
    """

    delivery: Delivery
    message: TaskMessage
    plan: RunPlan
    payload: tuple[list[Any], dict[str, Any], Embed]
    soft_s: float | None
    hard_s: float | None


class Run:
    """One execution.

    :ivar error: why it was cancelled last.
    :ivar in_body: the task's own code runs, or waits.
    :ivar on_request: somebody has asked for its end.
    """

    __slots__ = (
        "ended",
        "error",
        "hard_ns",
        "in_body",
        "number",
        "on_request",
        "padded_tag",
        "ready",
        "request",
        "soft_ns",
        "start_ns",
        "task",
        "timers",
    )

    def __init__(self, ready: Ready, request: Context, number: int, start_ns: int) -> None:
        self.ready = ready
        self.request = request
        self.number = number
        self.padded_tag = padded_tag(ready.delivery.tag)
        self.start_ns = start_ns
        self.soft_ns = start_ns + int(ready.soft_s * 1e9) if ready.soft_s else 0
        self.hard_ns = start_ns + int(ready.hard_s * 1e9) if ready.hard_s else 0
        self.error: BaseException | None = None
        self.in_body = False
        self.on_request = False
        self.ended = False
        self.task: asyncio.Task[None] | None = None
        self.timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def urgency(self) -> tuple[float, float]:
        """The smaller, the sooner somebody else has to look after it."""
        return (self.hard_ns or math.inf, self.soft_ns or math.inf)

    def cancel(self, error: BaseException) -> None:
        """Have it end, for a reason; within a `shield`, at the end of that."""
        if shielded(self.request):
            if not isinstance(error, TimeLimitExceeded):
                self.request.shields.pending = error
                return
            self.request.shields.pending = None
        self.error = error
        if self.task is not None:
            self.task.cancel()


class Steps:
    """Is told of the steps of one execution."""

    __slots__ = ("_began_ns", "_run", "_runs")

    def __init__(self, runs: Runs, run: Run) -> None:
        self._runs = runs
        self._run = run
        self._began_ns = 0

    def begin(self) -> None:
        """See `async_execution.Steps`."""
        self._runs.runs_now(self._run)
        self._began_ns = mono_ns()

    def end(self) -> None:
        """See `async_execution.Steps`."""
        held_ns = mono_ns() - self._began_ns
        if held_ns > BLOCKED_NS:
            self._runs.has_blocked(self._run, held_ns)


class Runs:
    """Starts executions, limits them, shows one of them, and passes on what came of each.

    :param done: called with the outcome of each.
    :param broken: called when one cannot be started or ended: then its message can only be recovered.
    """

    def __init__(
        self,
        parts: Parts,
        outcomes: Outcomes,
        loop: asyncio.AbstractEventLoop,
        done: Callable[[Outcome], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self._parts = parts
        self._slot = parts.slot
        self._words = parts.slot.words
        self._outcomes = outcomes
        self._follow_ups = AsyncFollowUps(parts, outcomes)
        self._loop = loop
        self._done = done
        self._broken = broken
        self._running: dict[int, Run] = {}
        self._shown: Run | None = None
        self._last: Run | None = None
        self._blocking: set[str] = set()  # tasks that were complained of
        self._looking: asyncio.TimerHandle | None = None

    # --- the life of one --------------------------------------------------------------------------

    def start(self, ready: Ready) -> None:
        """Begin an execution."""
        try:
            self._start(ready)
        except BaseException as error:
            self._broken(error)

    def _start(self, ready: Ready) -> None:
        words = self._words
        number = words[C_EXECUTIONS] + 1
        words[C_EXECUTIONS] = number
        request = self._outcomes.request(ready.delivery, ready.message, *ready.payload)
        run = self._running[number] = Run(ready, request, number, mono_ns())
        if signals.task_received.receivers:
            tell_received(self._parts, ready.plan.task, request)
        run.task = self._loop.create_task(self._execute(run), name=f"{ready.plan.name}[{ready.message.id}]")
        run.task.add_done_callback(lambda task: self._make_sure(run, task))
        if ready.soft_s:
            run.timers["soft"] = self._loop.call_later(ready.soft_s, self._over_soft, run)
        if ready.hard_s:
            run.timers["hard"] = self._loop.call_later(ready.hard_s, self._over_hard, run)
        if self._last is None:
            self.runs_now(run)
        if self._shown is None or run.urgency < self._shown.urgency:
            self._show(run)
        if self._looking is None:
            self._looking = self._loop.call_later(_LOOK_S, self._look)

    async def _execute(self, run: Run) -> None:
        message, plan = run.ready.message, run.ready.plan
        set_current(message.id, plan.name)
        try:
            run.in_body = True
            executed = await execute_async(
                plan.task, run.request, lambda: run.error, Steps(self, run), self._outcomes.storable
            )
            run.in_body = False
        except BaseException as error:
            run.in_body = False
            executed = Executed(states.FAILURE, error, ExceptionInfo(error, skip_frames=1))
        build = self._ended(run, executed)
        self._done_with(
            run, await self._follow_ups.outcome(build, lambda: self._lift_limits(run), lambda: run.error)
        )

    def runs_now(self, run: Run) -> None:
        """Show whose code it is that runs now: should the process die of it, that one is charged."""
        if self._last is not run:
            self._last = run
            self._slot.write_last(run.padded_tag)

    def has_blocked(self, run: Run, held_ns: int) -> None:
        """Say, once for each task, that it held up the others."""
        plan, message = run.ready.plan, run.ready.message
        if len(self._running) > 1 and plan.name not in self._blocking:
            self._blocking.add(plan.name)
            _log.warning(
                "%s[%s] held up the %d others of its event loop for %.3f s without awaiting anything: have "
                "it await what takes so long, or `asyncio.to_thread(...)`; this is said once per task",
                plan.name,
                message.id,
                len(self._running) - 1,
                held_ns / 1e9,
            )

    def _make_sure(self, run: Run, task: asyncio.Task[None]) -> None:
        """End what was cancelled before its first step."""
        try:
            if not run.ended:
                error = reason_of(run.error, asyncio.CancelledError())
                build = self._ended(run, Executed(states.FAILURE, error, ExceptionInfo(error)))
                self._done_with(run, build())
            elif not task.cancelled():
                task.result()
        except BaseException as error:
            self._broken(error)

    def _ended(self, run: Run, executed: Executed) -> Callable[[], Outcome]:
        """Its code has come to its end; returns what builds its outcome."""
        ready = run.ready
        runtime_ns = mono_ns() - run.start_ns
        run.ended, run.error = True, None
        for timer in run.timers.values():
            timer.cancel()
        if run.on_request:
            executed = self._outcomes.terminated(executed, ready.plan, run.request, int(signal.SIGTERM))
        self._words[C_BUSY_NS] += runtime_ns
        return partial(
            self._outcomes.executed,
            ready.delivery,
            ready.message,
            ready.plan,
            run.request,
            executed,
            runtime_ns,
        )

    def _lift_limits(self, run: Run) -> None:
        """What follows it has to wait for the broker: that is not its own time."""
        run.soft_ns = run.hard_ns = 0
        if self._shown is run:
            self.show_again()

    def _done_with(self, run: Run, outcome: Outcome) -> None:
        self._parts.executed += 1
        del self._running[run.number]
        if self._shown is run:
            self._show(min(self._running.values(), key=_urgency, default=None))
        self._done(outcome)

    # --- limits -----------------------------------------------------------------------------------

    def _over_soft(self, run: Run) -> None:
        run.timers["soft"] = self._loop.call_later(SOFT_REPEAT_S, self._over_soft, run)
        run.cancel(SoftTimeLimitExceeded())

    def _over_hard(self, run: Run) -> None:
        soft = run.timers.get("soft")
        if soft is not None:
            soft.cancel()
        run.cancel(TimeLimitExceeded(run.ready.hard_s))

    def _look(self) -> None:
        """End those that somebody wants to be ended."""
        self._looking = None
        if not self._running:
            return
        self._looking = self._loop.call_later(_LOOK_S, self._look)
        board = self._parts.revoked_board
        if not board.words[A_ENDINGS]:
            return
        for run in list(self._running.values()):
            if not run.on_request and not run.ended and board.ends(run.ready.message.id):
                run.on_request = True
                run.cancel(Interrupted("ended on request"))

    def interrupt_all(self, error: BaseException) -> None:
        """Cancel everything that was handed over, for a reason. From any thread, or a signal's handler."""
        self._loop.call_soon_threadsafe(self._cancel_all, error)

    def _cancel_all(self, error: BaseException) -> None:
        for run in list(self._running.values()):
            run.cancel(error)

    def is_stepping(self) -> bool:
        """Whether the code of the execution that is shown is what runs at this moment.

        Asked by a signal's handler: it may raise there, and nowhere else.
        """
        shown = self._shown
        return shown is not None and shown.in_body and asyncio.current_task(self._loop) is shown.task

    # --- what others see ----------------------------------------------------------------------------

    def hide(self) -> None:
        """Show none of them: the slot is needed for one that runs alone."""
        self._show(None)

    def show_again(self) -> None:
        """Show one of them again."""
        self._show(min(self._running.values(), key=_urgency, default=None))

    def _show(self, run: Run | None) -> None:
        words = self._words
        words[C_BODY] = 0
        words[C_RUNNING] = 0
        self._shown = run
        if run is None:
            return
        ready = run.ready
        plan, message = ready.plan, ready.message
        self._slot.write_texts(slot_id(message.id), plan.name_bytes, ready.delivery.tag)
        ignored = plan.ignore_result if message.ignore_result is None else message.ignore_result
        words[C_POLICY] = plan.policy_bits | Policy.BESIDE | (Policy.IGNORE_RESULT if ignored else 0)
        words[C_START_NS] = run.start_ns
        words[C_SOFT_LIMIT_MS] = int(ready.soft_s * 1000) if ready.soft_s else 0
        words[C_HARD_LIMIT_MS] = int(ready.hard_s * 1000) if ready.hard_s else 0
        words[C_SOFT_NS] = run.soft_ns + GRACE_NS if run.soft_ns else 0
        words[C_HARD_NS] = run.hard_ns + GRACE_NS if run.hard_ns else 0
        words[C_RUNNING] = run.number
        words[C_BODY] = run.number


def _urgency(run: Run) -> tuple[float, float]:
    return run.urgency
