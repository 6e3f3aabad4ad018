"""Looks at queues without taking anything."""

from __future__ import annotations

from collections.abc import Sequence

from ..base import Depth, Waiting
from .keys import Keys, decode, encode
from .link import Link
from .owners import Sources, read_registered, read_tag
from .scripts import PURGE

_PAGE = 50


def queues(link: Link, keys: Keys) -> list[str]:
    """Names of the queues that somebody of ours has used."""
    return sorted(decode(name) for name in link.call("SMEMBERS", keys.queues))


def depth(link: Link, keys: Keys, queue: str) -> Depth:
    """How many messages of a queue are where."""
    lists = Sources(keys, [queue], keys.steps).pairs()
    *lengths, delayed, entries = link.many(
        [*(("LLEN", key) for key in lists), ("ZCARD", keys.due(queue)), ("HGETALL", keys.owners)]
    )
    return Depth(ready=sum(lengths), delayed=delayed, in_work=_in_work(link, keys, queue, entries))


def ready(link: Link, keys: Keys, names: Sequence[str]) -> int:
    """How many messages of some queues are ready, those that are due included."""
    lists = Sources(keys, names, keys.steps).pairs()
    commands: list[tuple[bytes | str, ...]] = [("LLEN", key) for key in lists]
    if not commands:
        return 0
    *lengths, (seconds, microseconds) = link.many([*commands, ("TIME",)])
    now_wall_s = b"%b.%06d" % (seconds, int(microseconds))
    due = link.many([("ZCOUNT", keys.due(name), "-inf", now_wall_s) for name in names])
    return int(sum(lengths) + sum(due))


def peek(link: Link, keys: Keys, queue: str, limit: int) -> list[Waiting]:
    """The next messages of a queue, in the order of service."""
    found: list[Waiting] = []
    for source in Sources(keys, [queue], keys.steps).all:
        for place, recorded in ((source.marked, True), (source.list, False)):
            wanted = limit - len(found)
            if wanted > 0:
                entries = link.call("LRANGE", place, -wanted, -1)
                found += [_waiting(queue, source.step, entry, recorded) for entry in reversed(entries)]
    return found


def peek_delayed(link: Link, keys: Keys, queue: str, limit: int) -> list[Waiting]:
    """The next messages of the schedule of a queue."""
    if limit <= 0:
        return []
    entries = link.call("ZRANGE", keys.due(queue), 0, limit - 1, "WITHSCORES")
    found = []
    for member, score in zip(entries[::2], entries[1::2], strict=True):
        head, _newline, document = member.partition(b"\n")
        fields = head.split(b":", 4)
        step, crashes = (int(field) if field.isdigit() else 0 for field in [*fields[1:3], b"", b""][:2])
        found.append(Waiting(queue, document, step, float(score), crashes))
    return found


def purge(link: Link, keys: Keys, queue: str, *, forget: bool = False) -> int:
    """Drop the ready and delayed messages of a queue.

    :param forget: `queues` does not name it any more, until somebody uses it again.
    """
    lists = Sources(keys, [queue], keys.steps).pairs()
    dropped: int = link.run(
        PURGE, [keys.due(queue), keys.due_queues, keys.marked_lists, *lists], [encode(queue)]
    )
    if forget:
        link.call("SREM", keys.queues, encode(queue))
    return dropped


def _waiting(queue: str, step: int, entry: bytes, recorded: bool) -> Waiting:
    if not recorded:
        return Waiting(queue, entry, step, None, 0)
    head, _newline, document = entry.partition(b"\n")
    crashes = head.partition(b":")[0]
    return Waiting(queue, document, step, None, int(crashes) if crashes.isdigit() else 0)


def _in_work(link: Link, keys: Keys, queue: str, entries: list[bytes]) -> int:
    registered = zip(entries[::2], map(read_registered, entries[1::2]), strict=True)
    named = [
        (decode(owner), one)
        for owner, one in registered
        if one is not None and queue in (*one.queues, *one.others)
    ]
    total = 0
    for at in range(0, len(named), _PAGE):
        page = named[at : at + _PAGE]
        held = link.many([("HKEYS", keys.held(owner)) for owner, _one in page])
        for (_owner, one), fields in zip(page, held, strict=True):
            places = {at for at, source in enumerate(one.sources(keys).all) if source.queue == queue}
            tags = (read_tag(field) for field in fields)
            total += sum(tag is not None and tag.source in places for tag in tags)
    return total
