"""Carries out what the supervisor reports: a child died, or its unstarted messages are recalled.

Everything here may be asked twice (by a supervisor that got no answer) and may find that a
predecessor did half of it; every step is checked by the broker, message by message.
"""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

import msgspec

from ...transports.base import Consumer, Delivery, Entombs, Outcome, Outgoing, Recovery, StoredResult, Verdict
from ...transports.coordination import Coordinates
from .. import states
from ..linux import Linux
from ..loaded_app import Loaded
from ..obituary import TERMINATED, error_of, note_of
from ..process_link import ProcessLink
from ..scoreboard import (
    A_MOVED,
    C_BATCH,
    C_CURSOR,
    C_HELD,
    C_POLICY,
    C_RUNNING,
    S_GENERATION,
    Policy,
    Slot,
)
from ..settle import Ending, policy_of_bits, settlement
from ..settling import decode_outcome
from ..storage import Storage
from ..worker_names import owner as owner_name
from .failures import Failures

_ENDINGS = {
    "crash": Ending.LOST,
    "exit": Ending.LOST,
    "boot": Ending.LOST,
    "timeout": Ending.HARD_LIMIT,
    "memory": Ending.MEMORY,
    "shutdown": Ending.SHUTDOWN,
    TERMINATED: Ending.TERMINATED,
}


class Recoverer:
    """Takes back what dead children held and recalls what stuck ones have not started."""

    def __init__(self, link: ProcessLink, loaded: Loaded, storage: Storage, log: logging.Logger) -> None:
        self._link = link
        self._storage = storage
        self._max_crashes: int = loaded.config.task_max_crashes
        self._shares_slots = any(task.max_concurrency is not None for task in loaded.app.tasks.values())
        self._failures = Failures(loaded, storage, log)
        self._log = log
        # Of each slot, the execution whose end receivers of signals were told of last: its generation and
        # number. The supervisor may ask again.
        self._told: dict[int, tuple[int, int]] = {}

    def carry_out(self, message: dict[str, Any]) -> dict[str, Any]:
        """Do what the supervisor asks; returns the answer.

        :raises TransportError: the broker cannot be reached; ask again.
        """
        if message["op"] == "recall":
            return self._recall(message)
        if message["op"] == "dead":
            return self._dead(message)
        raise ValueError(f"unknown request of the supervisor: {message!r}")

    def report_lapsed(self, recovery: Recovery) -> None:
        """Say, and store, what came of the messages of workers whose lease ran out."""
        if recovery.returned or recovery.dead:
            self._log.warning(
                "took over from lost workers: %d messages returned, %d suspects, %d dead letters",
                recovery.returned,
                recovery.suspects,
                len(recovery.dead),
            )
        for letter in recovery.dead:
            self._failures.of_dead_letter(letter)

    # --- recall -----------------------------------------------------------------------------------

    def _recall(self, message: dict[str, Any]) -> dict[str, Any]:
        """Take back what a child has not started. It runs on meanwhile, and may do the same itself."""
        slot = self._link.scoreboard.slot(message["slot"])
        batch, index = message["batch"], message["index"]
        moved = 0
        if slot.words[S_GENERATION] == message["generation"]:
            with closing(self._storage.transport.attach(self._owner(message))) as consumer:
                self._settle_finished(consumer, slot)
                tags = _recalled_tags(slot, batch, index)
                if tags:
                    moved = consumer.give_back(tags)
            slot.words[A_MOVED] = batch
            if not self._storage.transport.capabilities.recall_by_others:
                # Only the child itself can: a thread of it, which sleeps until it is told.
                Linux().futex(self._link.scoreboard.buffer, slot.wake_address()).wake()
        answer = {"op": "moved", "slot": message["slot"], "generation": message["generation"]}
        return answer | {"batch": batch, "moved": moved}

    def _settle_finished(self, consumer: Consumer, slot: Slot) -> None:
        """Settle what the child finished and could not settle itself."""
        outcomes = []
        for record in slot.read_outcomes():
            try:
                outcomes.append(decode_outcome(record))
            except msgspec.DecodeError as error:
                # A task that scribbled over shared memory: its messages run again.
                self._log.error("outcome area of slot %d is damaged: %s", slot.index, error)
                break
        if outcomes:
            self._storage.settler.settle(consumer, outcomes)

    # --- death ------------------------------------------------------------------------------------

    def _dead(self, message: dict[str, Any]) -> dict[str, Any]:
        slot = self._link.scoreboard.slot(message["slot"])
        owner = self._owner(message)
        charged = None
        # Else the slot is somebody else's by now, and says nothing about this child.
        if slot.words[S_GENERATION] == message["generation"]:
            if message["verdict"] == TERMINATED and message["execution"] != slot.words[C_RUNNING]:
                # It went on to another one in the very last moment, and that is not to blame.
                message = message | {"verdict": "shutdown"}
            with closing(self._storage.transport.attach(owner)) as consumer:
                self._settle_finished(consumer, slot)
                charged = self._charged(consumer, slot, message)
        recovery = self._storage.transport.recover(
            owner,
            running=charged,
            cause=message["cause"] if charged is not None else "",
            max_crashes=self._max_crashes,
        )
        self._free_slots(owner)
        for letter in recovery.dead:
            self._failures.of_dead_letter(letter)
        return {
            "op": "recovered",
            "slot": message["slot"],
            "generation": message["generation"],
            "returned": recovery.returned,
            "dead": len(recovery.dead),
        }

    def _free_slots(self, owner: str) -> None:
        """Let others have what the child held of max_concurrency."""
        transport = self._storage.transport
        if self._shares_slots and isinstance(transport, Coordinates):
            transport.free_slots_of(owner)

    def _charged(self, consumer: Consumer, slot: Slot, message: dict[str, Any]) -> bytes | None:
        """The tag of the message that the death is charged to, if there is one."""
        if slot.words[C_RUNNING]:
            return self._end_running(consumer, slot, message)
        cursor = slot.words[C_CURSOR]
        if message["verdict"] == "crash" and 0 < cursor <= slot.words[C_HELD]:
            # It died between two executions: of the message it was decoding, if of any. Should
            # that one be settled already, the charge has no effect.
            return slot.read_tags(cursor - 1, cursor)[0]
        return None

    def _end_running(self, consumer: Consumer, slot: Slot, message: dict[str, Any]) -> bytes | None:
        """Settle the message that was running, by the table; returns its tag if it is charged."""
        texts = slot.read_texts()
        bits = slot.words[C_POLICY]
        decided = settlement(_ENDINGS[message["verdict"]], policy_of_bits(bits))
        if decided.verdict is Verdict.REQUEUE:
            # Of several that ran beside each other, the one is charged whose code ran last.
            tag = slot.read_last() if bits & Policy.BESIDE else texts.tag
            return tag if decided.charged and message.get("charge", True) else None
        if decided.verdict is None and consumer.fetch(texts.tag) is not None:
            return None  # it died before the acknowledgement: the task has not begun
        results: tuple[StoredResult, ...] = ()
        follow_ups: tuple[Outgoing, ...] = ()
        # An early acknowledged message is no longer there to be read; its id is on the scoreboard.
        delivery = consumer.fetch(texts.tag)
        if decided.state is not None:
            results, follow_ups = self._failures.of_running(
                texts.task_id, delivery, bits, error_of(message), state=decided.state
            )
        is_settled = True
        transport = self._storage.transport
        if decided.verdict is not None and isinstance(transport, Entombs):
            # The broker has given the message to somebody else by now, who settles by this word.
            transport.entomb(texts.task_id, note_of(message))
            self._failures.keep(results, ())
            is_settled = False
        elif decided.verdict is not None:
            outcome = Outcome(
                tag=texts.tag,
                verdict=decided.verdict,
                reason="lost",
                results=results,
                follow_ups=follow_ups,
            )
            is_settled = self._storage.settler.settle(consumer, [outcome])[0]
        else:
            self._failures.keep(results, follow_ups)
        # If it is not settled here, it is told by who does that, or it runs again.
        self._announce(message, slot, delivery, is_settled and decided.state == states.FAILURE)
        return None

    def _announce(
        self, message: dict[str, Any], slot: Slot, delivery: Delivery | None, has_failed: bool
    ) -> None:
        """Have receivers of signals told of the end of an execution, once."""
        execution = (int(message["generation"]), slot.words[C_RUNNING])
        if self._told.get(slot.index) == execution:
            return
        self._told[slot.index] = execution
        texts = slot.read_texts()
        if message["verdict"] == TERMINATED:
            self._failures.announce_terminated(texts, delivery, int(message.get("signum", 0)))
        elif has_failed:
            self._failures.announce_lost(texts.task_id, texts.task_name, delivery, error_of(message))

    def announce_some(self) -> bool:
        """Tell receivers of signals of what ended, for a moment; True if some are left."""
        return self._failures.announce_some()

    def retry_unstored(self) -> None:
        """Store and send what could not be before."""
        self._failures.retry()

    def _owner(self, message: dict[str, Any]) -> str:
        return owner_name(self._link.worker_id, message["slot"], message["generation"])


def _recalled_tags(slot: Slot, batch: int, index: int) -> list[bytes]:
    """The tags of a batch from an index on; none when the child has gone on to another batch.

    The child runs. It sets C_HELD to 0 before it writes the tags of its next batch, and counts
    C_BATCH up before C_HELD bears a number again: as long as neither has changed, neither have
    the tags.
    """
    words = slot.words
    held = words[C_HELD]
    tags = slot.read_tags(index, held)
    return tags if (words[C_BATCH], words[C_HELD]) == (batch, held) else []
