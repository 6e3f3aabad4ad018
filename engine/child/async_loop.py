"""The worker loop of a child that runs several ``async def`` tasks at once. It reads from message to outcome.

Two threads: the main one has the event loop, on which the tasks run (`async_runs`), and where signals
are handled. The other one, the courier, is alone with the broker, so that waiting for it holds up no task:
it reserves, decides, hands over what may run, and settles what has ended. It works as the loop of `loop`
does, of which it is one.

What cannot run beside others runs alone in the main thread, while the courier waits: plain functions, which
would hold up the event loop anyhow (and must find none running, since they may run their own), and what
the slot of the scoreboard must show while it runs, because nobody could say afterwards what became of it
if the process died.
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

from ...transports.base import Delivery, Outcome
from ..clock import mono_ns
from ..coroutines import KeptLoop, Runner
from ..execution import Interrupted
from ..scoreboard import (
    BATCH_MAX,
    C_LOOP_NS,
    C_STATE,
    S_HIGH_SLOT,
    S_PID,
    S_STOP,
    SLOTS,
    State,
    Stop,
)
from ..settling import encode_outcome
from .async_runs import Ready, Runs
from .idle import Idle
from .loop import EXIT_AS_TOLD, EXIT_OWNER_LOST, Opened, WorkerLoop
from .parts import Parts
from .plan import RunPlan

_JOIN_S: Final = 10.0
# So long a child that runs something gives way to one that is idle, which was woken for what came.
_COURTESY_S: Final = 0.002

_log = logging.getLogger("prefork.child")


class AsyncLoop(WorkerLoop):
    """Runs messages until told to leave, up to so many at once.

    :param concurrency: how many.
    """

    def __init__(self, parts: Parts, idle: Idle, concurrency: int) -> None:
        super().__init__(parts, idle)
        self._kept = KeptLoop()
        self._runner = Runner(self._kept)
        self._runs = Runs(parts, self._outcomes, self._kept.loop, self._ended, self._broken)
        self._room = Room(concurrency, parts.tasks_left)
        self._ahead = self._room  # type: ignore[assignment]  # asked as the read-ahead is
        # What runs alone in the main thread, next or now. Written by the courier, cleared by the main thread.
        self._alone: Callable[[], None] | None = None
        self._is_alone = False  # written by the main thread
        # Under the lock: what has ended and was not settled yet, and the outcome area.
        self._lock = threading.Lock()
        self._fresh: list[tuple[Outcome, bytes]] = []
        # What the courier, or the event loop's part of the work, has died of; and that the courier is done.
        self._failure: BaseException | None = None
        self._left = False
        self._beside: dict[str, bool] = {}
        parts.driver.share(self._runner, self.interrupt)

    # --- the main thread --------------------------------------------------------------------------

    def stream(self) -> None:
        """Nothing is pushed: what runs beside others is not short."""

    def run(self) -> int:
        """As `WorkerLoop.run`."""
        courier = threading.Thread(target=self._courier, name="prefork-courier", daemon=True)
        # Signals are the main thread's: a time limit must interrupt the task.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        courier.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        while self._failure is None and (self._turn() or not self._left):
            pass
        if self._left:
            courier.join(_JOIN_S)
        if self._failure is not None:
            raise self._failure
        return self._exit_code

    def _turn(self) -> bool:
        """Run the loop until the courier asks for the main thread; whether something ran alone in it."""
        try:
            self._kept.loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            # Of a task in the background: asyncio lets these through, and whoever runs here goes on.
            _log.error("an asyncio task in the background wanted to end the process: %r", error)
        alone, self._alone = self._alone, None
        if alone is None:
            return False
        self._runs.hide()
        self._is_alone = True
        alone()
        self._is_alone = False
        self._runs.show_again()
        return True

    def interrupt(self, error: BaseException) -> bool:
        """See `coroutines.Runner.interrupt`; called by the handlers of signals."""
        if self._is_alone:
            return self._runner.interrupt(error)
        if isinstance(error, Interrupted):
            self._runs.interrupt_all(error)
            return True
        # One that waits is cancelled by its own timer.
        return not self._runs.is_stepping()

    def _broken(self, error: BaseException) -> None:
        self._failure = error
        self._kept.loop.stop()

    def _ended(self, outcome: Outcome) -> None:
        """Keep an outcome, where it survives this process, and have the courier settle it."""
        encoded = encode_outcome(outcome)
        with self._lock:
            self._fresh.append((outcome, encoded))
            self._slot.append_outcome(encoded)  # if there is no room, it is settled as soon as the others
        self._room.freed()
        self._idle.nudge()

    # --- the courier ------------------------------------------------------------------------------

    def _courier(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._failure = error
        finally:
            self._left = True
            self._kept.loop.call_soon_threadsafe(self._kept.loop.stop)

    def _work(self) -> None:
        words, room = self._words, self._room
        words[C_STATE] = State.IDLE
        os.eventfd_write(self._parts.doorbell_fd, 1)
        while words[S_STOP] == Stop.RUN and self._exit_code == EXIT_AS_TOLD:
            token = self._idle.before_looking()
            words[C_LOOP_NS] = mono_ns()
            self._settle()
            if self._parts.retired():
                if not room.taken:
                    self._announce(State.RETIRING)
                self._idle.rest(token)
                continue
            if room.taken and self._sibling_is_idle():
                self._parts.pause(_COURTESY_S)
            deliveries = self._reserve() if room.limit() else []
            if self._exit_code != EXIT_AS_TOLD:
                break
            if deliveries:
                words[C_STATE] = State.WORKING
                self._idle.worked()
                self._batch(deliveries)
                continue
            room.nothing_came()
            state = State.WORKING if not room.limit() else State.HAS_ROOM if room.taken else State.IDLE
            if words[C_STATE] != state:
                # Announce first, look once more, and only then sleep: as in `WorkerLoop.run`.
                self._announce(state)
            elif not self._fresh:
                (self._idle.wait if room.limit() else self._idle.rest)(token)
        self._drain()

    def _sibling_is_idle(self) -> bool:
        """Whether another child has nothing to do: what comes is for that one first."""
        board = self._parts.scoreboard
        if board is None:
            return False
        slots = (board.slot(index) for index in range(min(board.words[S_HIGH_SLOT], SLOTS)))
        return any(slot.words[C_STATE] == State.IDLE and slot.words[S_PID] for slot in slots)

    def _drain(self) -> None:
        """Wait for what still runs; what was taken over by others is ended."""
        if self._exit_code == EXIT_OWNER_LOST:
            self._runs.interrupt_all(Interrupted("its message was taken over"))
        while True:
            token = self._idle.before_looking()
            self._words[C_LOOP_NS] = mono_ns()
            if self._exit_code == EXIT_AS_TOLD:
                self._settle()
            if not self._room.taken and (not self._fresh or self._exit_code != EXIT_AS_TOLD):
                return
            if not self._fresh:
                self._idle.rest(token)

    def _start(
        self, delivery: Delivery, opened: Opened, batch: list[Delivery], index: int, held: int
    ) -> RunPlan | None:
        """Hand one message over to the main thread; returns its plan if it has run meanwhile."""
        message, plan, payload = opened
        beside = self._beside.get(plan.name)
        if beside is None:
            beside = self._beside[plan.name] = runs_beside_others(plan)
        if delivery.suspect or not beside:
            start = super()._start
            return self._run_alone(lambda: start(delivery, opened, batch, index, held))
        if self._may_start(delivery, message, plan):
            self._room.take()
            ready = Ready(delivery, message, plan, payload, *self._limits(message, plan))
            self._kept.loop.call_soon_threadsafe(self._runs.start, ready)
        return None

    def _run_alone(self, job: Callable[[], RunPlan | None]) -> RunPlan | None:
        """Have the main thread do something, and wait for it."""
        done = threading.Event()
        results: list[RunPlan | None] = []
        errors: list[BaseException] = []

        def do() -> None:
            try:
                results.append(job())
            except BaseException as error:
                errors.append(error)
            finally:
                done.set()

        self._alone = do
        self._kept.loop.call_soon_threadsafe(self._kept.loop.stop)
        done.wait()
        if errors:
            raise errors[0]
        return results[0]

    # --- settling; whoever is at it, the other one waits -------------------------------------------

    def _done(self, outcome: Outcome, more: bool) -> None:
        if not self._pending:
            self._pending_since_ns = mono_ns()
        self._pending.append(outcome)
        if more:
            with self._lock:
                self._slot.append_outcome(encode_outcome(outcome))

    def _settle(self) -> None:
        with self._lock:
            fresh, self._fresh = self._fresh, []
        self._pending += [outcome for outcome, _ in fresh]
        super()._settle()

    def _clear_outcomes(self) -> None:
        with self._lock:
            self._slot.clear_outcomes()
            for _, encoded in self._fresh:  # ended while the others were being settled
                self._slot.append_outcome(encoded)

    def _leave_to_agent(self) -> None:
        with self._lock:
            super()._leave_to_agent()


class Room:
    """How many may start. The courier takes, and asks; whoever runs them frees.

    It asks for one message first, then for twice as many each time, so that siblings get their share.

    :param size: how many at once.
    :param left: how many more may end in this process.
    """

    def __init__(self, size: int, left: Callable[[], int] = lambda: 1 << 30) -> None:
        self._size = size
        self._left = left
        self._lock = threading.Lock()
        self._next = 1
        # Written under the lock.
        self.taken = 0

    def limit(self) -> int:
        """How many messages to reserve now."""
        return max(0, min(self._next, min(self._size, self._left()) - self.taken, BATCH_MAX))

    def batch_done(self, names: int, all_short: bool, slowest_average_s: float) -> None:
        """Some have come: there may be more."""
        self._next = min(self._next * 2, self._size)

    def nothing_came(self) -> None:
        """Begin anew."""
        self._next = 1

    def take(self) -> None:
        """One more runs."""
        with self._lock:
            self.taken += 1

    def freed(self) -> None:
        """One less runs."""
        with self._lock:
            self.taken -= 1


def runs_beside_others(plan: RunPlan) -> bool:
    """Whether executions of a task may run at the same time as others in one child.

    Not if somebody has to say what became of it should the process die (it was acknowledged, or is not to
    run again), nor if it is counted across workers: there each child counts as one.
    """
    function: Any = plan.task.run
    return (
        inspect.iscoroutinefunction(function)
        and plan.acks.late
        and plan.acks.requeue_if_lost
        and plan.limits.max_concurrency is None
    )
