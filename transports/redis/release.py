"""The way back: what waits in our own structures returns to the lists that kombu's workers read.

Schedules, messages with a record, and what dead owners held. Documents stay byte for byte what they
were, so a delayed task has its ``eta`` header still and is waited for by whoever takes it. Each step
moves a bounded number of messages in one call; cut short at any point, it is simply done again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..base import Released
from ..errors import LeasesHeld, TransportError
from .faults import WrongKeyType
from .keys import Keys, decode, encode
from .link import Link
from .owners import read_registered
from .recovery import recover_owner
from .scripts import FORGET_WORKER, RELEASE

MOVED_PER_STEP = 100
MOVED_BYTES_PER_STEP = 8 << 20


class _Chunks(NamedTuple):
    """Sums of what release.lua answers."""

    moved: int = 0
    crashed: int = 0
    damaged: int = 0


def leases(link: Link, keys: Keys, queue: str | None = None) -> dict[str, float]:
    """Workers whose lease goes on, and for how many seconds; see `Releases.leases`."""
    entries, (seconds, micros), owners = link.many(
        [("ZRANGE", keys.workers, 0, -1, "WITHSCORES"), ("TIME",), ("HGETALL", keys.owners)]
    )
    now_wall_s = int(seconds) + int(micros) / 1e6
    ends = {decode(name): float(end) for name, end in zip(entries[::2], entries[1::2], strict=True)}
    found = {worker: end - now_wall_s for worker, end in ends.items() if end > now_wall_s}
    if queue is None:
        return found
    registered = [read_registered(entry) for entry in owners[1::2]]
    concerned = {one.worker for one in registered if one is not None and queue in one.queues}
    return {worker: left_s for worker, left_s in found.items() if worker in concerned}


def release(link: Link, keys: Keys, queue: str | None, *, force: bool) -> Released:
    """Return everything, or all of one queue; see `Releases.release`.

    :raises LeasesHeld: a worker may be at it still, and `force` is false.
    """
    held_leases = leases(link, keys, queue)
    if held_leases and not force:
        raise LeasesHeld(held_leases)
    returned, problems = _take_back(link, keys, queue, alive=leases(link, keys) if not force else {})
    schedules = marked = _Chunks()
    for name in _named(link, keys.due_queues, encode(queue) if queue is not None else None):
        lists = [keys.list_of_step(name, step) for step in keys.steps]
        request = [keys.due(decode(name)), keys.due_queues, keys.dead, *lists]
        schedules = _sum(schedules, _emptied(link, request, [b"schedule", name], keys.steps, problems))
    for source in _marked(link, keys, queue):
        request = [keys.marked(source), keys.marked_lists, keys.dead, source]
        marked = _sum(marked, _emptied(link, request, [b"marked", source], (), problems))
    both = _sum(schedules, marked)
    if both.crashed:
        problems.append(f"{both.crashed} messages lost the record of the crashes that they were charged with")
    if both.damaged:
        problems.append(f"{both.damaged} damaged entries are dead letters now; see `prefork dead list`")
    return Released(
        delayed=schedules.moved - schedules.damaged,
        recorded=marked.moved - marked.damaged,
        held=returned,
        problems=tuple(problems),
    )


def _take_back(
    link: Link, keys: Keys, queue: str | None, *, alive: dict[str, float]
) -> tuple[int, list[str]]:
    """Return what owners hold whose worker has no lease; how many messages, and what went wrong."""
    entries = link.call("HGETALL", keys.owners)
    returned = 0
    problems: list[str] = []
    workers: set[str] = set()
    for owner, entry in zip(map(decode, entries[::2]), entries[1::2], strict=True):
        registered = read_registered(entry)
        if registered is not None and (
            registered.worker in alive or (queue is not None and queue not in registered.queues)
        ):
            continue
        try:
            returned += recover_owner(link, keys, owner).returned
        except TransportError as error:
            problems.append(str(error))
            continue
        if registered is not None:
            workers.add(registered.worker)
    for worker in sorted(workers):
        link.run(FORGET_WORKER, [keys.workers, keys.worker(worker)], [encode(worker), 0])
    return returned, problems


def _named(link: Link, names: bytes, only: bytes | None) -> list[bytes]:
    if only is not None:
        return [only]
    return sorted(link.call("SMEMBERS", names))


def _marked(link: Link, keys: Keys, queue: str | None) -> Iterator[bytes]:
    """The lists whose messages with a record are to return to them."""
    if queue is None:
        yield from _named(link, keys.marked_lists, None)
    else:
        for step in keys.steps:
            yield keys.list_of_step(encode(queue), step)


def _emptied(
    link: Link, named: list[bytes], what: list[bytes], steps: tuple[int, ...], problems: list[str]
) -> _Chunks:
    total = _Chunks()
    while True:
        try:
            answer = link.run(RELEASE, named, [*what, MOVED_PER_STEP, MOVED_BYTES_PER_STEP, *steps])
        except WrongKeyType as error:
            problems.append(str(error))
            return total
        total = _sum(total, _Chunks(*answer))
        if not answer[0]:
            return total


def _sum(one: _Chunks, other: _Chunks) -> _Chunks:
    return _Chunks(*(a + b for a, b in zip(one, other, strict=True)))
