"""Takes back what owners held that are dead, or leave.

Everything here may be cut short at any point and done again, by anybody: an owner is fenced first and
forgotten last, and between the two each message is moved by itself, once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..base import REASON_CRASHES, DeadLetter, Recovery
from ..errors import TransportError
from .deadletters import read_causes
from .faults import DamagedOwner, WrongKeyType
from .keys import Keys, decode, encode
from .link import Link
from .owners import Sources, Tag, read_registered, read_tag
from .scripts import FENCE, FORGET_OWNER, FORGET_WORKER, RETURN, encode_for_lua

UNTOUCHED, CHARGED, SUSPECTED = 0, 1, 2
_CHUNK = 500
_STARTED, _CAUSES = b"!", b"?"

_log = logging.getLogger("prefork.transports.redis")


class Back(NamedTuple):
    """A held message on its way back, and what it is charged with."""

    name: bytes
    tag: Tag
    how: int = UNTOUCHED


def tagged(fields: Iterable[bytes], fence: bytes | None = None) -> list[tuple[bytes, Tag]]:
    """The tags among the fields of what an owner holds."""
    found = ((field, read_tag(field)) for field in fields)
    return [(name, tag) for name, tag in found if tag is not None and fence in (None, tag.fence)]


def bring_back(
    link: Link,
    keys: Keys,
    held: bytes,
    sources: Sources,
    messages: Iterable[Back],
    *,
    max_crashes: int = 0,
    cause: str = "",
) -> Recovery:
    """Return held messages to where they came from, so that they are next, in order."""
    # The one that is to come first is returned last.
    ordered = sorted(messages, key=lambda one: one.tag.number, reverse=True)
    total = Recovery()
    for at in range(0, len(ordered), _CHUNK):
        chunk = [one for one in ordered[at : at + _CHUNK] if sources.of(one.tag) is not None]
        used = sorted({one.tag.source for one in chunk})
        pair = {source: index + 1 for index, source in enumerate(used)}
        named = [key for source in used for key in (sources.all[source].list, sources.all[source].marked)]
        items = []
        for one in chunk:
            source = sources.all[one.tag.source]
            items.append((one.name, pair[one.tag.source], source.queue_bytes, source.step, one.how))
        answers = link.run(
            RETURN,
            [held, keys.marked_lists, keys.dead, *named],
            [max_crashes, cause.encode("utf-8", "replace"), encode_for_lua(items)],
        )
        total = merged([total, *map(_told, chunk, answers, (sources.all[o.tag.source] for o in chunk))])
    return total


def recover_owner(
    link: Link,
    keys: Keys,
    owner: str,
    *,
    running: bytes | None = None,
    cause: str = "",
    max_crashes: int = 0,
    lapsed_worker: str = "",
) -> Recovery:
    """Recover one owner; see `Transport.recover`.

    :param lapsed_worker: recover only if the lease of this worker has run out, and take every message
        for a suspect, or for the culprit if its start was recorded.
    """
    held = keys.held(owner)
    found = link.run(FENCE, [keys.owners, held, keys.workers], [encode(owner), encode(lapsed_worker)])
    if not found:
        return Recovery()
    entry, fields = found
    registered = read_registered(entry)
    if registered is None:
        raise DamagedOwner(
            owner,
            f"the entry of owner {owner!r} in {decode(keys.owners)} is damaged, so nobody knows where what "
            f"it holds ({decode(held)}) came from; correct the entry",
        )
    sources = registered.sources(keys)
    names = set(fields)
    guilty = running if cause else None

    def how(name: bytes) -> int:
        if lapsed_worker:
            return CHARGED if _STARTED + name in names else SUSPECTED
        return CHARGED if name == guilty else UNTOUCHED

    messages = [Back(name, tag, how(name)) for name, tag in tagged(fields)]
    recovery = bring_back(link, keys, held, sources, messages, max_crashes=max_crashes, cause=cause)
    forgotten = link.run(FORGET_OWNER, [keys.owners, held, keys.worker(registered.worker)], [encode(owner)])
    if not forgotten:
        _log.error("%s still holds what is no message of owner %s; look at it", decode(held), owner)
    return recovery


class LapsedRecovery(NamedTuple):
    """What was recovered, and which owners could not be: one that is damaged keeps nobody else waiting.

    :param forgotten: workers of which nothing is left.
    """

    recovery: Recovery
    problems: tuple[TransportError, ...]
    forgotten: tuple[str, ...]


def recover_lapsed(link: Link, keys: Keys, *, max_crashes: int, cause: str) -> LapsedRecovery:
    """Recover every owner of every worker whose lease has run out; see `Transport.recover_lapsed`."""
    parts: list[Recovery] = []
    problems: list[TransportError] = []
    forgotten: list[str] = []
    for worker in lapsed(link, keys):
        for owner in owners(link, keys, worker):
            try:
                parts.append(
                    recover_owner(
                        link, keys, owner, cause=cause, max_crashes=max_crashes, lapsed_worker=worker
                    )
                )
            except (DamagedOwner, WrongKeyType) as error:
                problems.append(error)
        if link.run(FORGET_WORKER, [keys.workers, keys.worker(worker)], [encode(worker), 1]):
            forgotten.append(worker)
    return LapsedRecovery(merged(parts), tuple(problems), tuple(forgotten))


def lapsed(link: Link, keys: Keys) -> list[str]:
    """The workers whose lease has run out, by the clock of the server."""
    entries, (seconds, microseconds) = link.many([("ZRANGE", keys.workers, 0, -1, "WITHSCORES"), ("TIME",)])
    now_wall_s = int(seconds) + int(microseconds) / 1e6
    return [
        decode(name)
        for name, ends in zip(entries[::2], entries[1::2], strict=True)
        if float(ends) <= now_wall_s
    ]


def owners(link: Link, keys: Keys, worker: str) -> list[str]:
    """The owners that are registered for a worker."""
    return sorted(decode(name) for name in link.call("SMEMBERS", keys.worker(worker)))


def unregister(link: Link, keys: Keys, worker: str) -> None:
    """Forget a worker; what its owners still hold returns untouched."""
    for owner in owners(link, keys, worker):
        recover_owner(link, keys, owner)
    link.run(FORGET_WORKER, [keys.workers, keys.worker(worker)], [encode(worker), 0])


def merged(recoveries: Sequence[Recovery]) -> Recovery:
    """The sum of several recoveries."""
    return Recovery(
        returned=sum(one.returned for one in recoveries),
        suspects=sum(one.suspects for one in recoveries),
        crashed=tuple(document for one in recoveries for document in one.crashed),
        dead=tuple(letter for one in recoveries for letter in one.dead),
    )


def _told(one: Back, answer: Any, source: Any) -> Recovery:
    if answer == 0:
        return Recovery()
    suspects = int(one.how == SUSPECTED or bool(one.tag.flags & 1))
    if answer == 1:
        return Recovery(returned=1, suspects=suspects)
    if answer[0] == 1:
        return Recovery(returned=1, suspects=suspects, crashed=(answer[1],))
    _two, key, causes, crashes, document, died = answer
    letter = DeadLetter(
        key=decode(key),
        queue=source.queue,
        reason=REASON_CRASHES,
        causes=read_causes(causes),
        document=document,
        priority=source.step,
        crashes=int(crashes),
        died_wall_s=float(died),
    )
    return Recovery(dead=(letter,))
