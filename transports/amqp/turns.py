"""Taking turns, and tables that are changed in turn, by what every RabbitMQ has.

A turn is being the only consumer of an empty queue: the queue counts its consumers one after the other,
and forgets one together with its connection. Nothing has to be made first, and nothing is left behind
by who dies. Who finds that there are others steps back, waits a moment, and tries again.

A table is one message, taken, changed, published anew and only then acknowledged, in a turn. Whoever
dies in between leaves two; the one with the higher number holds.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic, sleep
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec

from ..errors import BrokerUnavailable
from .parcels import Parcel
from .publisher import Publisher
from .session import Counts, Got, Session

SHARDS: Final = 64
"""How many tables there are of one kind: so many can be changed at the same time."""

TURN_ARGUMENTS: Final[Mapping[str, Any]] = MappingProxyType({"x-queue-type": "classic", "x-expires": 600_000})
TABLE_ARGUMENTS: Final[Mapping[str, Any]] = MappingProxyType(
    {"x-queue-type": "classic", "x-expires": 40 * 86_400_000}
)
_PAUSE_S_MIN, _PAUSE_S_MAX = 0.0005, 0.01
_LIFETIME_MS_MAX = (1 << 32) - 1

_log = logging.getLogger("prefork.amqp")

_Result = TypeVar("_Result")


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """A line of a table.

    :param ends_wall_s: when it is forgotten, Unix time.
    :param given_s: for how long it was made, so that a clock that is set back prolongs nothing for ever.
    """

    ends_wall_s: float
    given_s: float
    text: str = ""
    number: float = 0.0
    at_wall_s: float = 0.0


class _Table(msgspec.Struct):
    version: int = 0
    entries: dict[str, Entry] = {}


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Table).decode


def digest(name: str) -> str:
    """A short name for any text."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def shard_of(name_digest: str) -> int:
    """Which table (or turn) it belongs to."""
    return int(name_digest[:4], 16) % SHARDS


class Turns:
    """Takes turns on one session. The lock of the session is held meanwhile."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._count = 0  # written under the lock of the session

    @contextmanager
    def turn(self, name: str) -> Iterator[float]:
        """Be the only one in the block, of all who use the broker; gives the end of the time for it.

        :raises BrokerUnavailable: the broker is away, or others did not finish in time.
        """
        session, queue = self._session, f"prefork.turn.{name}"
        with session.use() as end_mono_s:
            self._count += 1
            tag = f"t{self._count}"
            try:
                self._enter(queue, tag, end_mono_s)
                yield end_mono_s
                session.ask([session.cancel(tag)], 0, max(end_mono_s, monotonic() + 0.1))
            except BaseException:
                # With the connection the broker has the turn back, and every message that was taken in it.
                session.link.drop()
                raise

    def _enter(self, queue: str, tag: str, end_mono_s: float) -> None:
        """Become the only consumer. Who comes while others wait waits as well, so that none starves."""
        session, waiters = self._session, f"{queue}.wait"
        frames = [
            session.declare(queue, TURN_ARGUMENTS, wait=False),
            session.declare(waiters, TURN_ARGUMENTS),
            session.consume(queue, tag),
            session.declare(queue, TURN_ARGUMENTS),
        ]
        waiting, inside = map(_consumers, session.ask(frames, 2, end_mono_s))
        if (waiting, inside) == (0, 1):
            return
        session.ask([session.cancel(tag), session.consume(waiters, f"{tag}w")], 0, end_mono_s)
        self._wait(queue, tag, end_mono_s)
        session.ask([session.cancel(f"{tag}w")], 0, end_mono_s)

    def _wait(self, queue: str, tag: str, end_mono_s: float) -> None:
        session, pause_s = self._session, _PAUSE_S_MIN
        declare = session.declare(queue, TURN_ARGUMENTS)
        while True:
            sleep(random.uniform(0, pause_s))
            if _consumers(session.ask([declare], 1, end_mono_s)[0]) == 0:
                if _consumers(session.ask([session.consume(queue, tag), declare], 1, end_mono_s)[0]) == 1:
                    return
                session.ask([session.cancel(tag)], 0, end_mono_s)
            if monotonic() > end_mono_s:
                raise BrokerUnavailable(
                    f"others have been at {queue!r} for too long; should none be there, end the "
                    "connections that consume it"
                )
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)


def _consumers(answer: Counts | Got) -> int:
    assert isinstance(answer, Counts)
    return answer.consumers


class Tables:
    """The tables of one kind.

    :param publisher: publishes with confirms; not the session, so that an alarm of the broker, which
        stops connections that publish, leaves turns alone.
    :param persistent: they outlive a restart of the broker.
    """

    def __init__(
        self,
        kind: str,
        session: Session,
        turns: Turns,
        publisher: Publisher,
        *,
        wall: Callable[[], float],
        persistent: bool,
    ) -> None:
        self._kind = kind
        self._session = session
        self._turns = turns
        self._publisher = publisher
        self._wall = wall
        self._persistent = persistent

    def change(
        self, name: str, decide: Callable[[Entry | None, float], tuple[Entry | None, _Result]]
    ) -> _Result:
        """Replace what the table says of a name.

        :param decide: gets what it says (None: nothing, or its time is over) and the Unix time; returns
            what it shall say and the answer. What was given, returned, changes nothing.
        """
        key = digest(name)
        shard = f"{self._kind}.{shard_of(key)}"
        queue = f"prefork.table.{shard}"
        with self._turns.turn(shard) as end_mono_s:
            table, tag = self._take(queue, end_mono_s)
            now_wall_s = self._wall()
            entries = _living(table.entries, now_wall_s)
            present = entries.pop(key, None)
            following, result = decide(present, now_wall_s)
            session = self._session
            if following is present:
                # The count that is asked for comes after it has been put back.
                frames = [session.put_back(tag)] if tag else []
                session.ask([*frames, session.declare(queue, TABLE_ARGUMENTS)], 1, end_mono_s)
                return result
            if following is not None:
                entries[key] = following
            if entries:
                self._publisher.publish([self._parcel(queue, _Table(table.version + 1, entries), now_wall_s)])
            if tag:
                frames = [session.acknowledge(tag), session.declare(queue, TABLE_ARGUMENTS)]
                session.ask(frames, 1, end_mono_s)
            return result

    def _take(self, queue: str, end_mono_s: float) -> tuple[_Table, int]:
        """The table, and the tag up to which messages were taken; 0 when there was none."""
        session, table, tag = self._session, _Table(), 0
        frames = [session.declare(queue, TABLE_ARGUMENTS, wait=False), session.get(queue)]
        while True:
            (got,) = session.ask(frames, 1, end_mono_s)
            assert isinstance(got, Got)
            if not got.tag:
                return table, tag
            tag = got.tag
            found = _read(queue, got.body)
            if found.version >= table.version:
                table = found
            if not got.left:
                return table, tag

    def _parcel(self, queue: str, table: _Table, now_wall_s: float) -> Parcel:
        lifetime_s = max(one.ends_wall_s for one in table.entries.values()) - now_wall_s
        properties = {
            "content_type": "application/json",
            "delivery_mode": 2 if self._persistent else 1,
            "expiration": str(max(1, min(int(lifetime_s * 1000) + 1, _LIFETIME_MS_MAX))),
        }
        return Parcel("", queue, properties, _encode(table))


def _read(queue: str, body: bytes) -> _Table:
    try:
        return _decode(body)
    except msgspec.MsgspecError as error:
        _log.error("a message in %r is none of prefork's and is dropped: %s", queue, error)
        return _Table()


def _living(entries: Mapping[str, Entry], now_wall_s: float) -> dict[str, Entry]:
    """What has not ended. A clock that was set back gives nothing more time than it was made for."""
    living = {}
    for key, entry in entries.items():
        left_s = entry.ends_wall_s - now_wall_s
        if left_s > entry.given_s:
            entry = msgspec.structs.replace(entry, ends_wall_s=now_wall_s + entry.given_s)
        if left_s > 0:
            living[key] = entry
    return living
