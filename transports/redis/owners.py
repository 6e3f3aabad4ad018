"""What an owner is: which lists it reserves from, and how its deliveries are named.

A tag is ``<number>:<source>:<fence>``, and with a record
``r<number>:<source>:<crashes>:<flags>:<fence>``. The number rises within the owner, the source is the
index of a list among all lists of the owner, the fence is a digest of the owner's name. So a tag says
where its message came from, and finds nothing once it was settled or taken back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import sha1
from typing import NamedTuple

from .keys import Keys, encode

_TAG = re.compile(rb"(?:r(\d{1,15}):(\d{1,6}):(\d{1,9}):(\d):|(\d{1,15}):(\d{1,6}):)([0-9a-f]{8})")
_FENCED = b"!"


class Tag(NamedTuple):
    """What a tag says."""

    number: int
    source: int
    crashes: int
    flags: int
    fence: bytes


def read_tag(tag: bytes) -> Tag | None:
    """Take a tag apart; None for what is none."""
    found = _TAG.fullmatch(tag)
    if found is None:
        return None
    number, source, crashes, flags, plain_number, plain_source, fence = found.groups()
    if number is None:
        return Tag(int(plain_number), int(plain_source), 0, 0, fence)
    return Tag(int(number), int(source), int(crashes), int(flags), fence)


class Source(NamedTuple):
    """One list that messages are taken from, with the list of those that have a record."""

    queue: str
    queue_bytes: bytes
    step: int
    list: bytes
    marked: bytes


class Sources:
    """The lists of an owner: for each step, for each queue; then those of other queues. Immutable.

    :param others: queues that are only reserved from when one of them is named: for each, its steps.
    """

    def __init__(
        self, keys: Keys, queues: Sequence[str], steps: Sequence[int], others: Sequence[str] = ()
    ) -> None:
        self.queues = tuple(queues)
        self.steps = tuple(steps)
        self.others = tuple(others)
        own = [_source(keys, queue, step) for step in self.steps for queue in self.queues]
        self._own = len(own)
        more = [_source(keys, queue, step) for queue in self.others for step in self.steps]
        self.all = (*own, *more)

    def extended(self, keys: Keys, queue: str) -> Sources:
        """With one more of the others; the numbers of all that were there before stay."""
        return Sources(keys, self.queues, self.steps, (*self.others, queue))

    def first_of(self, other: str) -> int:
        """The number of the first list of one of the others."""
        return self._own + self.others.index(other) * len(self.steps)

    def of(self, tag: Tag) -> Source | None:
        """Where the message of a tag came from; None if not from any list of this owner."""
        return self.all[tag.source] if tag.source < len(self.all) else None

    def pairs(self) -> list[bytes]:
        """Each list, followed by its marked list; without those of the others."""
        return [key for source in self.all[: self._own] for key in (source.list, source.marked)]

    def pairs_of(self, other: str) -> list[bytes]:
        """The same for one of the others."""
        first = self.first_of(other)
        found = self.all[first : first + len(self.steps)]
        return [key for source in found for key in (source.list, source.marked)]


def _source(keys: Keys, queue: str, step: int) -> Source:
    name = encode(queue)
    place = keys.list_of_step(name, step)
    return Source(queue, name, step, place, keys.marked(place))


class Registered(NamedTuple):
    """An owner as it is entered in the broker.

    :param others: queues that it reserves from besides, when one of them is named.
    """

    worker: str
    queues: tuple[str, ...]
    steps: tuple[int, ...]
    others: tuple[str, ...] = ()

    def encoded(self) -> bytes:
        """As JSON, in ASCII."""
        others = [list(self.others)] if self.others else []
        return json.dumps([self.worker, list(self.queues), list(self.steps), *others]).encode("ascii")

    def sources(self, keys: Keys) -> Sources:
        """Its lists."""
        return Sources(keys, self.queues, self.steps, self.others)


def read_registered(data: bytes) -> Registered | None:
    """Read an entry, fenced or not; None if it is damaged."""
    try:
        worker, queues, steps, *more = json.loads(data.removeprefix(_FENCED))
        others = more[0] if more else ()
        return Registered(
            str(worker), tuple(map(str, queues)), tuple(map(int, steps)), tuple(map(str, others))
        )
    except (ValueError, TypeError):
        return None


def fence_of(owner: str) -> bytes:
    """What marks the tags of an owner."""
    return sha1(encode(owner), usedforsecurity=False).hexdigest()[:8].encode("ascii")
