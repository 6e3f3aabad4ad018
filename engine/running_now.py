"""What runs in the children of a worker now, as the scoreboard shows it."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import NamedTuple

from ..transports.errors import TransportError
from .message import MalformedMessage, TaskMessage, parse
from .revoked_keys import stamp_digests
from .scoreboard import (
    C_POLICY,
    C_RUNNING,
    S_GENERATION,
    S_HIGH_SLOT,
    S_PID,
    SLOTS,
    Policy,
    Scoreboard,
    Texts,
)
from .storage import Storage
from .worker_names import owner

_log = logging.getLogger("prefork.agent")


class Running(NamedTuple):
    """One execution.

    :param execution: its number, which no other execution of this slot and generation has.
    :param beside: others run in the same process, on one event loop; this is the one that is shown.
    """

    slot: int
    generation: int
    execution: int
    texts: Texts
    beside: bool


def running_now(scoreboard: Scoreboard) -> list[Running]:
    """What runs; what begins or ends in this moment may be missing, and is there at the next look."""
    found = []
    for index in range(min(scoreboard.words[S_HIGH_SLOT], SLOTS)):
        slot = scoreboard.slot(index)
        words = slot.words
        generation, execution = words[S_GENERATION], words[C_RUNNING]
        if not (words[S_PID] and execution):
            continue
        texts = slot.read_texts()
        beside = bool(words[C_POLICY] & Policy.BESIDE)
        # All of it is written before an execution is announced, and no number comes twice.
        if not texts.torn and (words[C_RUNNING], words[S_GENERATION]) == (execution, generation):
            found.append(Running(index, generation, execution, texts, beside))
    return found


def running_stamped(
    scoreboard: Scoreboard, storage: Storage, worker_id: str, digests: set[bytes]
) -> list[str]:
    """The ids of what runs and is stamped with one of these, as far as the broker still has the messages."""
    stamped = []
    for running in running_now(scoreboard):
        message = _message_of(running, storage, worker_id)
        if message is not None and message.stamps and digests & set(stamp_digests(message.stamps)):
            stamped.append(message.id)
    return stamped


def _message_of(running: Running, storage: Storage, worker_id: str) -> TaskMessage | None:
    try:
        with closing(storage.transport.attach(owner(worker_id, running.slot, running.generation))) as held:
            delivery = held.fetch(running.texts.tag)
        return None if delivery is None else parse(delivery.document, storage.table)
    except (TransportError, MalformedMessage) as error:
        _log.warning("cannot read the stamps of %s: %s", running.texts.task_id, error)
        return None
