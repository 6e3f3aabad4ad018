"""The agent's loop: one poll, a handful of duties with their intervals, bounded work each turn.

The agent may die at any moment: everything that it does can be done again by its successor, and
whatever the supervisor asked for and got no answer to is asked again.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import Callable
from typing import Any, Final

from ...transports.base import Watch
from ...transports.errors import TransportError
from .. import orphans
from ..clock import mono_ns, mono_s, wall_s
from ..process_link import ProcessLink, receive, send
from ..scoreboard import A_LOOP_NS, A_RENEWED_NS
from ..storage import Storage
from ..template.load import Loaded
from . import memory
from .recovery import Recoverer
from .waking import Waker

_TURN_S: Final = 1.0
# While every child is busy, messages that arrive need nobody's attention; a pause keeps the agent
# from being woken by each of them. It bounds what a child that just became idle can lose, too:
# nothing, since it looks once more by itself before it sleeps.
_NAP_S: Final = 0.004
_PROMOTE_S: Final = 0.25
_RETRY_S: Final = 0.2
_MAINTAIN_S: Final = 10.0


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
        self._channel = channel
        self._transport = storage.transport
        self._words = link.scoreboard.words
        self._lease_s: float = loaded.options["lease_s"]
        self._max_crashes: int = loaded.config.task_max_crashes
        self._log = log
        self._recoverer = Recoverer(link, loaded, storage, log)
        self._waker = Waker(link.scoreboard, storage.transport, loaded.options["queues"])
        self._queues: list[str] = loaded.options["queues"]
        # Requests of the supervisor that could not be carried out yet.
        self._undone: list[dict[str, Any]] = []
        limited = loaded.options["max_memory_kib"] or loaded.options["hard_memory_kib"]
        self._duties: list[Duty] = [
            Duty("lease", self._lease_s / 5, self._renew),
            Duty("schedule", _PROMOTE_S, self._promote),
            Duty("lost workers", self._lease_s / 3, self._recover_lapsed),
            Duty("memory", 1.0 if limited else 10.0, lambda: memory.sample(link.scoreboard)),
            Duty("requests", _RETRY_S, self._retry_undone),
            Duty("maintenance", _MAINTAIN_S, self._maintain),
        ]
        self._stopping = False

    def run(self) -> int:
        """Run until told to stop."""
        self._renew()
        watch = self._transport.watch(self._queues)
        send(self._channel, {"op": "ready"})
        try:
            while not self._stopping:
                self._turn(watch)
        finally:
            watch.close()
        self._transport.unregister(self._link.worker_id)
        return 0

    def _turn(self, watch: Watch) -> None:
        now_s = mono_s()
        for duty in self._duties:
            if now_s >= duty.next_s:
                self._perform(duty, now_s)
        self._words[A_LOOP_NS] = mono_ns()
        ready = self._poll(watch, min(duty.next_s for duty in self._duties) - mono_s())
        if self._link.supervisor_pidfd in ready:
            orphans.kill_process_groups(self._link.scoreboard)
            os._exit(1)
        if self._channel.fileno() in ready:
            self._serve()
        if watch.fileno() in ready:
            self._look(watch)

    def _poll(self, watch: Watch, timeout_s: float) -> set[int]:
        poller = select.poll()
        for fd in (self._channel.fileno(), self._link.supervisor_pidfd, watch.fileno()):
            poller.register(fd, select.POLLIN)
        timeout_ms = max(0.0, min(timeout_s, _TURN_S)) * 1000
        return {fd for fd, _ in poller.poll(timeout_ms)}

    def _look(self, watch: Watch) -> None:
        watch.drain()
        try:
            everybody_busy = self._waker.wake()
        except TransportError as error:
            self._log.warning("cannot look for messages: %s", error)
            everybody_busy = True
        if everybody_busy:
            select.select([self._channel.fileno(), self._link.supervisor_pidfd], [], [], _NAP_S)

    def _perform(self, duty: Duty, now_s: float) -> None:
        duty.next_s = now_s + duty.interval_s
        try:
            duty.perform()
        except TransportError as error:
            duty.failures += 1
            if duty.failures == 1:
                self._log.error("%s: %s; trying again every %.2g s", duty.name, error, duty.interval_s)
            return
        if duty.failures:
            self._log.warning("%s: works again after %d failures", duty.name, duty.failures)
            duty.failures = 0

    # --- duties --------------------------------------------------------------------------------

    def _renew(self) -> None:
        self._transport.heartbeat(self._link.worker_id, self._lease_s)
        self._words[A_RENEWED_NS] = mono_ns()

    def _promote(self) -> None:
        next_wall_s = self._transport.promote()
        if next_wall_s is not None:
            soon_s = max(0.0, next_wall_s - wall_s())
            if soon_s < _PROMOTE_S:
                self._duties[1].next_s = mono_s() + soon_s
        self._waker.wake()

    def _recover_lapsed(self) -> None:
        recovery = self._transport.recover_lapsed(max_crashes=self._max_crashes)
        self._recoverer.report_lapsed(recovery)

    def _maintain(self) -> None:
        for line in self._transport.maintain():
            self._log.warning("%s", line)

    # --- requests of the supervisor ---------------------------------------------------------------

    def _serve(self) -> None:
        message, _ = receive(self._channel)
        if message is None:
            # The supervisor has closed our channel without a word: it is going down.
            self._stopping = True
            return
        if message["op"] == "stop":
            self._retry_undone()
            self._stopping = True
        elif not self._carry_out(message):
            self._undone.append(message)

    def _retry_undone(self) -> None:
        self._undone = [message for message in self._undone if not self._carry_out(message)]

    def _carry_out(self, message: dict[str, Any]) -> bool:
        try:
            answer = self._recoverer.carry_out(message)
        except TransportError as error:
            self._log.error("%s of slot %s: %s", message["op"], message.get("slot"), error)
            return False
        send(self._channel, answer)
        return True


class Duty:
    """Something that is done again and again.

    :ivar next_s: monotonic time when it is due.
    :ivar failures: how often in a row it failed.
    """

    __slots__ = ("failures", "interval_s", "name", "next_s", "perform")

    def __init__(self, name: str, interval_s: float, perform: Callable[[], None]) -> None:
        self.name = name
        self.interval_s = interval_s
        self.perform = perform
        self.next_s = 0.0
        self.failures = 0
