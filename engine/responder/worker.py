"""The control plane of one worker: who answers, what is kept over restarts; made and ended in one place."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from ..clock import mono_s
from ..control.lamport import LamportClock
from ..limits.board import RateBoard
from ..loaded_app import Loaded
from ..process_link import ProcessLink
from ..state_file import ForeignStateFile, State, StateFile
from ..storage import Storage
from .node import Node, start_node
from .side import Revokes, SupervisorSocket, WorkerSide

SAVE_S: Final = 2.0

_log = logging.getLogger("prefork.control")


class WorkerControl:
    """Remote control and state file of a worker. Used by the thread of its duties.

    :param rates: the buckets of this process.
    :param stop: has a worker of one process leave; None where a supervisor does it.
    """

    def __init__(
        self,
        link: ProcessLink,
        loaded: Loaded,
        storage: Storage,
        revoker: Revokes,
        rates: RateBoard,
        *,
        stop: Callable[[], Any] | None = None,
    ) -> None:
        supervisor = SupervisorSocket(loaded.node, link.supervisor_pid) if stop is None else None
        self._side = WorkerSide(
            loaded=loaded,
            storage=storage,
            scoreboard=link.scoreboard,
            worker_id=link.worker_id,
            clock=LamportClock(),
            revoker=revoker,
            rates=None if loaded.config.worker_disable_rate_limits else rates,
            supervisor=supervisor,
            started_mono_s=mono_s(),
            stop=stop if supervisor is None else supervisor.stop,
        )
        self._mingle = not link.spec.without_mingle
        template = link.spec.statedb or loaded.config.worker_state_db
        self._file = StateFile(template, loaded.node) if template else None
        self._node: Node | None = None

    def load(self) -> None:
        """Know again what a worker before this one knew. Call it before any message is taken."""
        if self._file is None:
            return
        try:
            state = self._file.load()
        except (ForeignStateFile, OSError) as error:
            _log.error("%s", error)
            self._file = None
            return
        self._side.revoker.load(state.revoked)
        self._side.clock.adjust(state.clock)

    def start(self) -> None:
        """Answer from now on."""
        self._node = start_node(self._side, mingle=self._mingle)

    def save(self, *, anyway: bool = False) -> None:
        """Write down what is revoked, if that has changed, or the clock, too."""
        if self._file is not None:
            self._file.save(State(self._side.revoker.revoked(), self._side.clock.value), anyway=anyway)

    def close(self) -> None:
        """Answer no longer."""
        if self._node is not None:
            self._node.close()
        self.save(anyway=True)
