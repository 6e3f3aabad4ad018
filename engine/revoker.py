"""What a worker does about revocations: shows them to its children, has the broker remember them, and has
running tasks ended.

The agent owns one; in a worker of one process its housekeeping does. `revoke` and its like touch no
network: what broker and result store are to be told is told by `turn`, which is tried again.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from signal import SIGKILL
from typing import Any, Final, NamedTuple

from ..transports.coordination import Coordinates
from ..transports.errors import TransportError
from ..transports.presence import KnowsWorkers
from .clock import mono_s
from .exceptions import ImproperlyConfigured
from .lifetimes import lifetimes
from .may_run import may_run
from .revoked_board import A_ENDINGS, A_STAMPS, REVOKED_MAX, RevokedBoard
from .revoked_keys import (
    digest_of,
    ending_digest,
    is_stamp,
    slot_id,
    stamp_keys,
    task_key,
    task_of,
)
from .revoked_set import RevokedSet
from .running_now import running_now, running_stamped
from .scoreboard import Scoreboard
from .storage import Storage
from .stored_results import StoredResults
from .terminating import SOFT, signal_of

TURN_S: Final = 0.25
# A task that is between its reservation and its start when it is to be ended is waited for so long.
SEEK_S: Final = 60.0
# A coroutine that does not heed its cancellation has so long; then its process is killed.
CANCEL_S: Final = 5.0
# What others had the broker remember is looked at so often, whatever its mark says; they say it through
# remote control as well.
LOOK_S: Final = 30.0
# Whether there is something new is asked so often.
GLANCE_S: Final = 1.0
# The same where remote control tells it: an idle worker sends less than one command a second and child.
GLANCE_HEARING_S: Final = 10.0
# To look at fifty thousand takes a while, and all workers do it: no more than this share of the time.
_LOOK_SHARE: Final = 0.05
# What is forgotten is left out of the board so often: to write it anew takes up to 0.1 s.
REBUILD_S: Final = 30.0
# A result store that did not take what it was told is told again after so long: it may keep the agent
# waiting each time.
AWAY_S: Final = 5.0

# A child that may have found a task not revoked a moment ago is waited for so long.
MAY_RUN_S: Final = 0.1

_SEEK_MAX: Final = 1_000
_AT_A_TIME: Final = 500

End = Callable[[dict[str, Any]], None]


class Sought(NamedTuple):
    """A task that is to be ended.

    :param signum: with what.
    :param until_mono_s: so long it is looked for.
    :param kill_mono_s: its process was left to end it alone, and is killed then; 0 when it was not found yet.
    """

    task_id: str
    signum: int
    until_mono_s: float
    kill_mono_s: float = 0.0


class Revoked(NamedTuple):
    """What came of a request.

    :param flagged: ids, or ``header=value`` texts, that are revoked now.
    :param ended: ids of the tasks that ran here and are being ended.
    """

    flagged: list[str]
    ended: list[str]


class Revoker:
    """The one writer of the board of the revoked.

    `revoke`, `revoke_by_stamped_headers`, `load` and `revoked` may be called from any thread, `turn` and
    `look_again` by one.

    :param end: has the supervisor end an execution; None where there is no supervisor.
    """

    def __init__(
        self,
        scoreboard: Scoreboard,
        storage: Storage,
        config: Any,
        log: logging.Logger,
        *,
        worker_id: str,
        end: End | None,
    ) -> None:
        self._scoreboard = scoreboard
        self._board = RevokedBoard(scoreboard.buffer)
        self._storage = storage
        self._log = log
        self._worker_id = worker_id
        self._end = end
        self._lifetime_s: float = config.worker_revoke_expires
        self._lock = threading.Lock()
        # Under the lock: all that is known, what the broker and the store have still to be told, and what
        # is to be ended, by the id as slots bear it.
        self._max = min(config.worker_revokes_max, REVOKED_MAX)
        self._known = RevokedSet(self._max, self._lifetime_s)
        self._unsaved: list[str] = []
        self._unmarked: list[str] = []
        self._sought: OrderedDict[bytes, Sought] = OrderedDict()
        self._looked_mono_s = self._rebuilt_mono_s = float("-inf")
        # When the mark is asked for, and what it was at the last look.
        self._glance_mono_s = float("-inf")
        self._glance_s = GLANCE_HEARING_S if config.worker_enable_remote_control else GLANCE_S
        self._mark_seen = ""
        self._stale = 0  # how many are still shown and not remembered any more
        self._away = False
        self._beside = config.worker_async_concurrency > 1
        self._mark_mono_s = float("-inf")  # when the store is told again
        self._stored = StoredResults(
            lambda: storage.store,
            storage.table.by_name(config.result_serializer),
            lifetimes(config),
        )
        transport = storage.transport
        self._memory: Coordinates | None = transport if isinstance(transport, Coordinates) else None
        now_s = mono_s()
        for digest in self._board.digests():  # of an agent that has died
            self._known.add(digest, None, now_s)

    # --- requests -----------------------------------------------------------------------------------

    def revoke(self, ids: Iterable[str], *, terminate: bool = False, signal: Any = None) -> Revoked:
        """Have these tasks not run, here and wherever the broker's memory is read.

        :param terminate: end those that run here, too.
        :param signal: with what; None is SIGTERM.
        :raises ValueError: there is no such signal.
        :raises ImproperlyConfigured: `terminate`, in a worker of one process. They are revoked all the same.
        """
        number = int(signal_of(signal))
        ids = list(dict.fromkeys(ids))
        with self._lock:
            fresh = self._add([task_key(task_id) for task_id in ids])
            self._unsaved += fresh
            if not (terminate and number in SOFT):
                # Of a task in which only something is raised, nobody knows yet how it will end.
                self._unmarked += [task_id for task_id in map(task_of, fresh) if task_id is not None]
            if not terminate:
                return Revoked(ids, [])
            self._may_end()
            until_s = mono_s() + SEEK_S
            for task_id in ids:
                self._show(ending_digest(task_id))
                self._sought[slot_id(task_id)] = Sought(task_id, number, until_s)
            self._board.words[A_ENDINGS] = 1
            while len(self._sought) > _SEEK_MAX:
                self._sought.popitem(last=False)
            return Revoked(ids, self._end_sought(mono_s()))

    def revoke_by_stamped_headers(
        self, headers: Mapping[str, Any] | Iterable[str], *, terminate: bool = False, signal: Any = None
    ) -> Revoked:
        """Have no task run that is stamped with one of these values.

        Which running task is stamped with what is read from the message, while the broker still has it:
        not on AMQP, and not of tasks that are acknowledged before their start.

        :param headers: values (or lists of values) by header, or texts ``header=value``.
        :raises ValueError: there is no such signal, or these are no stamped headers.
        :raises ImproperlyConfigured: as in `revoke`.
        """
        signal_of(signal)
        keys = stamp_keys(headers)
        with self._lock:
            self._unsaved += self._add(keys)
            self._board.words[A_STAMPS] = 1
            if terminate:
                self._may_end()
        ended: list[str] = []
        if terminate:
            digests = {digest_of(key) for key in keys}
            stamped = running_stamped(self._scoreboard, self._storage, self._worker_id, digests)
            ended = self.revoke(stamped, terminate=True, signal=signal).ended
        return Revoked([key.partition(":")[2] for key in keys], ended)

    def may_run(self, ids: Iterable[str]) -> set[str]:
        """Those of revoked tasks that run here all the same, or may. May take `MAY_RUN_S`."""
        # Of coroutines side by side only one is shown.
        return set(ids) if self._beside else may_run(self._scoreboard, ids, MAY_RUN_S)

    def load(self, ids: Iterable[str]) -> None:
        """Take over what another worker, or a file, has remembered. Nobody else is told."""
        with self._lock:
            self._add([task_key(task_id) for task_id in ids])

    def revoked(self) -> list[str]:
        """The ids that are revoked, oldest first."""
        with self._lock:
            return [task_id for task_id in map(task_of, self._known.keys()) if task_id is not None]

    def _may_end(self) -> None:
        if self._end is None:
            raise ImproperlyConfigured(
                "terminate=True needs a worker with processes of its own: with -P solo nobody can end a "
                "running task. It is revoked, and does not run again"
            )

    # --- the board ----------------------------------------------------------------------------------

    def _add(self, keys: Sequence[str]) -> list[str]:
        """Show these to the children; returns those that are new."""
        now_s = mono_s()
        fresh = [key for key in keys if self._known.add(digest_of(key), key, now_s)]
        for key in fresh:
            self._show(digest_of(key))
        if not self._board.words[A_STAMPS] and any(map(is_stamp, fresh)):
            self._board.words[A_STAMPS] = 1
        return fresh

    def _show(self, digest: bytes) -> None:
        if not self._board.add(digest):
            self._known.forget(mono_s())
            self._rebuild([digest])

    def _rebuild(self, more: Sequence[bytes] = ()) -> None:
        """Show what is remembered, and nothing else."""
        endings = [ending_digest(sought.task_id) for sought in self._sought.values()]
        self._board.replace([*more, *endings, *self._known.digests()])
        self._stale, self._rebuilt_mono_s = 0, mono_s()

    # --- what runs ----------------------------------------------------------------------------------

    def _end_sought(self, now_s: float) -> list[str]:
        """Have those ended that run now; returns their ids."""
        ended: list[str] = []
        if self._end is None or not self._sought:
            return ended
        for running in running_now(self._scoreboard):
            sought = self._sought.pop(running.texts.raw_id, None)
            if sought is None:
                continue
            if not sought.kill_mono_s:
                ended.append(sought.task_id)
                self._log.warning("%s[%s] is ended on request", running.texts.task_name, sought.task_id)
            if running.beside and sought.signum != SIGKILL and not 0 < sought.kill_mono_s <= now_s:
                # Its process looks at the board, and cancels it, and it alone. Only if that is of no use
                # all of them have to go.
                kill_mono_s = sought.kill_mono_s or now_s + CANCEL_S
                self._sought[running.texts.raw_id] = sought._replace(kill_mono_s=kill_mono_s)
                continue
            self._end(
                {
                    "op": "terminate",
                    "slot": running.slot,
                    "generation": running.generation,
                    "execution": running.execution,
                    "signal": int(SIGKILL) if running.beside else sought.signum,
                }
            )
        for raw_id in [raw_id for raw_id, one in self._sought.items() if one.until_mono_s <= now_s]:
            del self._sought[raw_id]
        return ended

    # --- broker and store -----------------------------------------------------------------------------

    def turn(self) -> None:
        """Do what is due: seek, forget, tell broker and store, look what others had remembered."""
        now_s = mono_s()
        with self._lock:
            self._end_sought(now_s)
            self._stale += self._known.forget(now_s)
            if self._stale and now_s - self._rebuilt_mono_s >= REBUILD_S:
                self._rebuild()
            for waiting in (self._unsaved, self._unmarked):
                # Of more than are remembered the oldest are given up, while nobody takes them.
                del waiting[: max(0, len(waiting) - REVOKED_MAX)]
        try:
            self._save()
            self._look_if_due(now_s)
            if self._unmarked and now_s >= self._mark_mono_s:
                self._mark()
        except TransportError as error:
            if not self._away:
                self._log.error("revocations: %s; trying again", error)
            self._away = True
        else:
            self._away = self._away and bool(self._unmarked)

    def look_again(self) -> None:
        """As `turn`, and look at all that the broker remembers, whenever that was done last."""
        self._looked_mono_s = float("-inf")
        self.turn()

    def _look_if_due(self, now_s: float) -> None:
        """Look at what others had remembered: when there is something new, and else now and then."""
        memory = self._memory
        overdue = now_s - self._looked_mono_s >= LOOK_S
        if memory is None or not (overdue or now_s >= self._glance_mono_s):
            return
        self._glance_mono_s = now_s + self._glance_s
        begun_mono_s = mono_s()
        # Before the look: what is revoked meanwhile is found the next time.
        mark = memory.revoked_mark()
        if overdue or mark != self._mark_seen:
            # The newest of them: of the others there would be no room.
            keys = memory.revoked()[-self._max :]
            with self._lock:
                self._add(keys)
            self._mark_seen, self._looked_mono_s = mark, now_s
        took_s = mono_s() - begun_mono_s
        self._glance_mono_s = now_s + max(self._glance_s, min(took_s / _LOOK_SHARE, LOOK_S))

    def _save(self) -> None:
        """Have the broker remember, so that workers which are started later know."""
        while self._unsaved:
            some = self._unsaved[:_AT_A_TIME]
            if self._memory is not None:
                self._memory.revoke(some, self._lifetime_s)
            with self._lock:
                del self._unsaved[: len(some)]

    def _mark(self) -> None:
        """Store REVOKED for those that wait, unless somebody else has.

        Only where this worker alone decides that they will not run. Else a client that asks all workers
        stores it, or whoever meets the message.
        """
        while self._unmarked:
            some = self._unmarked[:_AT_A_TIME]
            if self._storage.store is not None and self._is_alone():
                running = self.may_run(some)
                try:
                    waiting = [task_id for task_id in some if task_id not in running]
                    self._stored.revoke(waiting, waiting_only=True, announce=False)
                except TransportError:
                    self._mark_mono_s = mono_s() + AWAY_S
                    raise
            with self._lock:
                del self._unmarked[: len(some)]

    def _is_alone(self) -> bool:
        transport = self._storage.transport
        return isinstance(transport, KnowsWorkers) and set(transport.workers()) <= {self._worker_id}
