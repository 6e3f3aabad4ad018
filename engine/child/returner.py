"""Returns what a child has not started while one of its tasks runs longer than anybody expected.

Elsewhere the agent does it (design §4). On AMQP only the connection that took a message can return
it, so a thread of the child does, as soon as the supervisor has moved the recall mark and the agent
has woken it. While a task holds the GIL the thread cannot run: then the rest waits until it lets go,
at most until its time limit.
"""

from __future__ import annotations

import logging
import signal
import threading
from typing import Final

import msgspec

from ...transports.errors import TransportError
from ..linux import Linux
from ..process_link import ProcessLink
from ..scoreboard import C_BATCH, C_HELD, S_MARK, Slot
from ..settling import decode_outcome
from .parts import Parts

_SAFETY_S: Final = 30.0

_log = logging.getLogger("prefork.child")


class Returner:
    """Sleeps on the slot's futex; looks at the recall mark whenever it changes."""

    def __init__(self, link: ProcessLink, slot: Slot, parts: Parts) -> None:
        self._slot = slot
        self._words = slot.words
        self._parts = parts
        self._futex = Linux().futex(link.scoreboard.buffer, slot.wake_address())
        self._stopped = False  # written by the main thread

    def start(self) -> None:
        """Start the thread. Signals go to the main thread alone: a time limit must interrupt the task."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        threading.Thread(target=self._run, name="prefork-returner", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stop(self) -> None:
        """End the thread, when it next wakes."""
        self._stopped = True
        self._futex.wake()

    def _run(self) -> None:
        while not self._stopped:
            token = self._futex.value()
            try:
                self.look()
            except TransportError as error:
                _log.warning("what was recalled waits for the running task: %s", error)
            self._futex.wait(token, _SAFETY_S)

    def look(self) -> int:
        """Settle what is finished and return what was recalled; how many went back.

        The main thread may do the same: whatever is settled or returned already answers False.

        :raises TransportError: the broker cannot be reached.
        """
        words = self._words
        mark, batch, held = words[S_MARK], words[C_BATCH], words[C_HELD]
        index = mark & 0xFFFF
        if mark >> 16 != batch or index >= held:
            return 0
        tags = self._slot.read_tags(index, held)
        records = self._slot.read_outcomes()
        if (words[C_BATCH], words[C_HELD]) != (batch, held):
            return 0  # the child has gone on, and has seen the mark
        try:
            finished = [decode_outcome(record) for record in records]
        except msgspec.DecodeError as error:
            _log.error("the outcome area is damaged: %s", error)
            finished = []
        consumer = self._parts.consumer
        if finished:
            self._parts.settler.settle(consumer, finished)
        return consumer.give_back(tags)
