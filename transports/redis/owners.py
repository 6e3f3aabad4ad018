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
    """The lists of an owner: for each step, for each queue. Immutable."""

    def __init__(self, keys: Keys, queues: Sequence[str], steps: Sequence[int]) -> None:
        self.queues = tuple(queues)
        self.steps = tuple(steps)
        self.all = tuple(_source(keys, queue, step) for step in self.steps for queue in self.queues)

    def of(self, tag: Tag) -> Source | None:
        """Where the message of a tag came from; None if not from any list of this owner."""
        return self.all[tag.source] if tag.source < len(self.all) else None

    def pairs(self) -> list[bytes]:
        """Each list, followed by its marked list."""
        return [key for source in self.all for key in (source.list, source.marked)]


def _source(keys: Keys, queue: str, step: int) -> Source:
    name = encode(queue)
    place = keys.list_of_step(name, step)
    return Source(queue, name, step, place, keys.marked(place))


class Registered(NamedTuple):
    """An owner as it is entered in the broker."""

    worker: str
    queues: tuple[str, ...]
    steps: tuple[int, ...]

    def encoded(self) -> bytes:
        """As JSON, in ASCII."""
        return json.dumps([self.worker, list(self.queues), list(self.steps)]).encode("ascii")


def read_registered(data: bytes) -> Registered | None:
    """Read an entry, fenced or not; None if it is damaged."""
    try:
        worker, queues, steps = json.loads(data.removeprefix(_FENCED))
        return Registered(str(worker), tuple(map(str, queues)), tuple(map(int, steps)))
    except (ValueError, TypeError):
        return None


def fence_of(owner: str) -> bytes:
    """What marks the tags of an owner."""
    return sha1(encode(owner), usedforsecurity=False).hexdigest()[:8].encode("ascii")
