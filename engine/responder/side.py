"""What the commands of remote control may look at and change in a worker."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..control.lamport import LamportClock
from ..control_socket import ControlError, request, runtime_directory, socket_path
from ..loaded_app import Loaded
from ..scoreboard import S_HIGH_SLOT, S_PID, SLOTS, Scoreboard, Slot
from ..storage import Storage
from ..time_limit_board import TimeLimitBoard

_ANSWER_S = 2.0


class RevokedNow(Protocol):
    """What came of a revocation."""

    @property
    def flagged(self) -> list[str]:
        """What is revoked now."""

    @property
    def ended(self) -> list[str]:
        """The ids of running tasks that are being ended."""


class Revokes(Protocol):
    """What remembers revocations, as `engine.revoker.Revoker` does. Safe to use from several threads."""

    def revoke(self, ids: Iterable[str], *, terminate: bool = ..., signal: Any = ...) -> RevokedNow:
        """Have tasks not run."""

    def revoke_by_stamped_headers(
        self, headers: Mapping[str, Any] | Iterable[str], *, terminate: bool = ..., signal: Any = ...
    ) -> RevokedNow:
        """Have tasks not run that are stamped so."""

    def may_run(self, ids: Iterable[str]) -> set[str]:
        """Those of revoked tasks that run here all the same, or may."""

    def load(self, ids: Iterable[str]) -> None:
        """Take over what others remember."""

    def revoked(self) -> list[str]:
        """The ids that are revoked, oldest first."""


class Rated(Protocol):
    """The rate of one task kind, as `engine.limits.board.Bucket` has it."""

    @property
    def per_s(self) -> float | None:
        """Tasks a second; 0 when paused, None when unlimited."""


class Rates(Protocol):
    """What sets rate limits, as `engine.limits.board.RateBoard` does."""

    def bucket(self, name: str) -> Rated | None:
        """What limits a task kind; None when nothing ever did in this worker."""

    def set_rate(self, name: str, rate: str | float | None) -> float | None:
        """Give a task kind another rate."""


class Supervises(Protocol):
    """Whoever starts and ends the processes of the worker."""

    def ask(self, op: str, **about: Any) -> dict[str, Any]:
        """Ask it; raises ControlError."""

    def stop(self) -> None:
        """Have the worker leave when what runs has ended."""


class SupervisorSocket:
    """The supervisor, through its control socket. Safe to use from several threads."""

    def __init__(self, node: str, pid: int) -> None:
        self._node = node
        self._pid = pid

    def ask(self, op: str, **about: Any) -> dict[str, Any]:
        """Ask it; raises ControlError."""
        try:
            directory = runtime_directory(os.environ)
        except FileNotFoundError as error:
            raise ControlError(str(error.filename), "there is no runtime directory") from error
        return request(socket_path(directory, self._node, self._pid), {"op": op, **about}, _ANSWER_S)

    def stop(self) -> None:
        """Have the worker leave when what runs has ended."""
        self.ask("stop", graceful_s=None)


@dataclass
class WorkerSide:
    """One worker, as its commands see it.

    :param supervisor: None in a worker of one process.
    :param stop: has the worker leave warm.
    :param counts: what became of requests, by name; written by the thread that answers.
    """

    loaded: Loaded
    storage: Storage
    scoreboard: Scoreboard
    worker_id: str
    clock: LamportClock
    revoker: Revokes
    rates: Rates | None
    supervisor: Supervises | None
    started_mono_s: float
    stop: Any
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def node(self) -> str:
        """The name of the worker."""
        return self.loaded.node

    @property
    def time_limits(self) -> TimeLimitBoard:
        """The time limits that commands have set."""
        return TimeLimitBoard(self.scoreboard.buffer, self.scoreboard.words)

    def slots(self) -> Sequence[Slot]:
        """The slots that processes hold now."""
        board = self.scoreboard
        if self.supervisor is None:
            return [board.slot(0)]
        found = [board.slot(index) for index in range(min(board.words[S_HIGH_SLOT], SLOTS))]
        return [slot for slot in found if slot.words[S_PID]]

    def count(self, what: str) -> None:
        """Count something that became of a request."""
        self.counts[what] = self.counts.get(what, 0) + 1
