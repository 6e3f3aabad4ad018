"""The agent's loop: one poll, a handful of duties with their intervals, bounded work each turn.

The agent may die at any moment: everything that it does can be done again by its successor, and
whatever the supervisor asked for and got no answer to is asked again.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from typing import Any, Final, NoReturn

from ...transports.base import Watch
from ...transports.errors import BrokerUnavailable, TransportError
from .. import orphans, signals
from ..clock import mono_ns
from ..held_locks import living
from ..housekeeping import Duty, Housekeeping
from ..limits.board import RateBoard
from ..limits.lookout import Lookout
from ..loaded_app import Loaded
from ..process_link import ProcessLink, receive, send
from ..responder.worker import SAVE_S, WorkerControl
from ..revoker import TURN_S, Revoker
from ..scoreboard import A_ANNOUNCED, A_LOOP_NS, A_RENEWED_NS
from ..storage import Storage
from ..unique_locks import keeping
from . import memory
from .lanes import Lanes
from .patience import warn_of_long_limits
from .recovery import Recoverer
from .waking import Waker

_TURN_S: Final = 1.0
# While every child is busy, messages that arrive need nobody's attention; a pause keeps the agent
# from being woken by each of them. It bounds what a child that just became idle can lose, too:
# nothing, since it looks once more by itself before it sleeps.
_NAP_S: Final = 0.004
_RETRY_S: Final = 0.2
_STORE_S: Final = 1.0


class Agent:
    """Keeps the lease, wakes children, recovers the dead, promotes what is due."""

    def __init__(
        self,
        link: ProcessLink,
        loaded: Loaded,
        channel: socket.socket,
        storage: Storage,
        log: logging.Logger,
    ) -> None:
        self._link = link
        self._loaded = loaded
        self._channel = channel
        self._transport = storage.transport
        self._words = link.scoreboard.words
        self._log = log
        self._recoverer = Recoverer(link, loaded, storage, log)
        self._queues: list[str] = loaded.options["queues"]
        self._waker = Waker(link.scoreboard, storage.transport, self._queues)
        tasks = list(loaded.app.tasks.values())
        rates = RateBoard(link.scoreboard)
        lookout = Lookout(rates, storage, tasks, loaded.config, self._queues, log)
        self._lanes = Lanes(link.scoreboard, lookout, self._waker)
        # Requests of the supervisor that could not be carried out yet, in the order in which they came.
        self._undone: list[dict[str, Any]] = []
        # Remote control's commands call it, too.
        self.revoker = Revoker(
            link.scoreboard,
            storage,
            loaded.config,
            log,
            worker_id=link.worker_id,
            end=self._say,
        )
        self._control = WorkerControl(link, loaded, storage, self.revoker, rates)
        self._keeping = Housekeeping(
            storage.transport,
            link.worker_id,
            lease_s=loaded.options["lease_s"],
            renew_s=loaded.config.worker_lease_renew_interval,
            max_crashes=loaded.config.task_max_crashes,
            log=log,
            on_renewed=self._renewed,
            on_promoted=self._wake,
            on_lapsed=self._recoverer.report_lapsed,
            told=storage.transport.capabilities.announces_schedule,
        )
        limited = loaded.options["max_memory_kib"] or loaded.options["hard_memory_kib"]
        self._keeping.duties += [
            Duty("memory", 1.0 if limited else 10.0, lambda: memory.sample(link.scoreboard)),
            Duty("requests", _RETRY_S, self._retry_undone),
            Duty("results", _STORE_S, self._recoverer.retry_unstored),
            Duty("revocations", TURN_S, self.revoker.turn),
            Duty("state", SAVE_S, self._control.save),
            Duty("lanes", lookout.every_s, lookout.look),
            *keeping(storage.transport, lambda: living(link.scoreboard), log),
        ]
        self._stopping = False
        self._away = False  # the last request found no broker
        self._blind = False  # the last look for messages failed, and that was said

    def run(self) -> int:
        """Run until told to stop."""
        # Before any message is taken. A broker that is away does not keep the worker from starting.
        self._control.load()
        self.revoker.turn()
        self._keeping.turn()
        watch = self._transport.watch(self._queues)
        self._waker.follow(watch)
        hold_s_max = self._transport.capabilities.hold_s_max
        warn_of_long_limits(hold_s_max, self._loaded.app.tasks, self._loaded.config, self._log)
        self._control.start()
        # Who revoked something between the first look and the lease did not ask this worker, and who did so
        # before it listened was not heard.
        self.revoker.look_again()
        self._say({"op": "ready"})
        if not self._words[A_ANNOUNCED]:
            self._words[A_ANNOUNCED] = 1  # an agent that replaces a dead one says nothing
            signals.worker_ready.send(self._loaded.sender)
        try:
            while not self._stopping:
                self._turn(watch)
        finally:
            watch.close()
        self._leave()
        return 0

    def _leave(self) -> None:
        while self._recoverer.announce_some():
            self._keeping.turn()
        self._control.close()
        signals.worker_shutdown.send(self._loaded.sender)
        try:
            self._transport.unregister(self._link.worker_id)
        except TransportError as error:
            self._log.warning("the lease is left to run out: %s", error)

    def _turn(self, watch: Watch) -> None:
        due_in_s = min(self._keeping.turn(), self._lanes.turn())
        if self._recoverer.announce_some():
            due_in_s = 0.0
        self._words[A_LOOP_NS] = mono_ns()
        ready = self._poll(watch, due_in_s)
        if self._link.supervisor_pidfd in ready:
            orphans.kill_process_groups(self._link.scoreboard)
            os._exit(1)
        if self._lanes.fileno() in ready:
            self._lanes.hear()
        if self._channel.fileno() in ready:
            self._serve()
        if watch.fileno() in ready:
            self._look(watch)
        else:
            self._waker.remind()

    def _poll(self, watch: Watch, timeout_s: float) -> set[int]:
        poller = select.poll()
        own = (self._channel.fileno(), self._link.supervisor_pidfd, self._lanes.fileno())
        for fd in (*own, watch.fileno()):
            poller.register(fd, select.POLLIN)
        timeout_ms = min(timeout_s, _TURN_S) * 1000
        return {fd for fd, _ in poller.poll(timeout_ms)}

    def _look(self, watch: Watch) -> None:
        watch.drain()
        self._keeping.look_at_schedule()
        if self._wake():
            select.select([self._channel.fileno(), self._link.supervisor_pidfd], [], [], _NAP_S)

    def _wake(self) -> bool:
        """Wake idle children; True when a pause is in order: nobody is idle, or nothing can be seen."""
        try:
            nobody_idle = self._waker.wake()
        except TransportError as error:
            if not self._blind:
                self._blind = True
                self._log.warning("cannot look for messages: %s", error)
            return True
        self._blind = False
        return nobody_idle

    def _renewed(self) -> None:
        self._words[A_RENEWED_NS] = mono_ns()

    # --- requests of the supervisor ---------------------------------------------------------------

    def _serve(self) -> None:
        message, _ = receive(self._channel)
        if message is None:
            self._abandoned()
        elif message["op"] == "stop":
            self._retry_undone()
            self._stopping = True
        elif message["op"] == "stopping":
            about = {name: message[name] for name in ("sig", "how", "exitcode")}
            signals.worker_shutting_down.send(self._link.node, **about)
        elif not self._carry_out(message):
            self._undone.append(message)

    def _retry_undone(self) -> None:
        waiting, self._undone = self._undone, []
        while waiting:
            message = waiting.pop(0)
            if self._carry_out(message, again=True):
                continue
            self._undone.append(message)
            if self._away:
                # Each of the others would wait for a silent broker as long again, and the lease with it.
                self._undone += waiting
                return

    def _carry_out(self, message: dict[str, Any], *, again: bool = False) -> bool:
        """Do what the supervisor asks; False if that must be tried again, which is said only once."""
        try:
            answer = self._recoverer.carry_out(message)
        except TransportError as error:
            self._away = isinstance(error, BrokerUnavailable)
            if not again:
                self._log.error("%s of slot %s: %s; trying again", message["op"], message.get("slot"), error)
            return False
        self._away = False
        self._say(answer)
        return True

    def _say(self, message: dict[str, Any]) -> None:
        try:
            send(self._channel, message)
        except OSError:
            self._abandoned()

    def _abandoned(self) -> NoReturn:
        """The channel ended without a word: the supervisor died.

        The lease is left to run out, so that whoever takes over knows that nobody can say which of
        our messages it was that ran.
        """
        orphans.clear_up_after(self._link.supervisor_pidfd, self._link.scoreboard)
        os._exit(1)
