"""Takes back what an owner held that will never come back for it."""

from __future__ import annotations

from ..base import REASON_CRASHES, DeadLetter, Recovery
from ..errors import BrokerUnavailable
from . import outbox
from .holdings import Holdings
from .journal import Entry
from .line import Line


def recover(
    line: Line, holdings: Holdings, running: bytes | None, cause: str, max_crashes: int, now_wall_s: float
) -> Recovery:
    """Return everything that is held, oldest first.

    :param running: the message that is charged with the cause, and is buried if it is one too many.
    :raises BrokerUnavailable: call again; what was returned stays returned.
    """
    returned = 0
    crashed: list[bytes] = []
    dead: list[DeadLetter] = []
    for tag in holdings.tags():
        claim = holdings.claim(tag)
        if claim is None:
            continue  # another process recovers the same owner
        try:
            if tag != running:
                claim.give_back()
                returned += 1
                continue
            entry = outbox.charge(claim.entry, (cause,))
            if entry.crashes >= max_crashes:
                outbox.bury(line, entry, REASON_CRASHES, ())
                dead.append(_letter(tag, entry, now_wall_s))
            else:
                outbox.give_back(line, entry)
                returned += 1
                crashed.append(entry.document)
            claim.done()
        except BrokerUnavailable:
            claim.undo()
            raise
    holdings.close()
    return Recovery(returned=returned, crashed=tuple(crashed), dead=tuple(dead))


def _letter(tag: bytes, entry: Entry, now_wall_s: float) -> DeadLetter:
    return DeadLetter(
        key=tag.hex(),
        queue=entry.queue,
        reason=REASON_CRASHES,
        causes=entry.causes,
        document=entry.document,
        priority=entry.priority,
        crashes=entry.crashes,
        died_wall_s=now_wall_s,
    )
