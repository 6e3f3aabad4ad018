"""Revocations: messages in one queue that drops its oldest; read by taking and returning them all.

RabbitMQ takes the square of the time to take back more (docs/decisions/0015). So each message is a bundle of
what was revoked in one call, and who has to take more than `_FEW` messages, or finds more keys than are kept,
puts them back as larger bundles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

import msgspec

from ..coordination import REVOKED_MAX
from ..errors import TransportError
from .parcels import Parcel
from .publisher import Publisher
from .session import Counts, Got, Session
from .turns import Turns

QUEUE: Final = "prefork.revoked"
_ARGUMENTS: Final[Mapping[str, Any]] = MappingProxyType(
    {"x-queue-type": "classic", "x-max-length": REVOKED_MAX, "x-expires": 40 * 86_400_000}
)
_AT_ONCE = 500
_BUNDLE: Final = 500
_FEW: Final = 1_000
# More time to take more; idle brokers give ten times as many.
_TAKEN_PER_S: Final = 1_000
# So far may a clock be wrong that takes something for ended; it is forgotten for all others as well.
_DOUBT_S: Final = 86_400.0
_LIFETIME_MS_MAX = (1 << 32) - 1

_log = logging.getLogger("prefork.amqp")


class _Revoked(msgspec.Struct, array_like=True):
    key: str
    ends_wall_s: float
    given_s: float


class _Bundle(msgspec.Struct, omit_defaults=True):
    """What one message says.

    :param gathered: put together from other messages: older than all that was not, wherever it lies.
    """

    revoked: list[_Revoked]
    gathered: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Bundle).decode


class _Found:
    """What messages say is revoked.

    The last of several for one key counts, and its place.
    """

    def __init__(self) -> None:
        self._gathered: dict[str, _Revoked] = {}
        self._others: dict[str, _Revoked] = {}

    def note(self, body: bytes) -> None:
        """Take in one message."""
        try:
            bundle = _decode(body)
        except msgspec.MsgspecError:
            return  # not written by prefork; it expires, or is the oldest one day
        into = self._gathered if bundle.gathered else self._others
        for revoked in bundle.revoked:
            into.pop(revoked.key, None)
            into[revoked.key] = revoked

    def newest(self, now_wall_s: float) -> list[_Revoked]:
        """As many as are kept, oldest first; also those whose time may just be over."""
        every = [one for key, one in self._gathered.items() if key not in self._others]
        every += self._others.values()
        return [one for one in every if one.ends_wall_s + _DOUBT_S > now_wall_s][-REVOKED_MAX:]

    @property
    def too_many(self) -> bool:
        """Whether there are more keys than are kept."""
        return len(self._gathered) + len(self._others) > REVOKED_MAX


class Revocations:
    """What is revoked.

    :param publisher: publishes with confirms.
    """

    def __init__(
        self, session: Session, turns: Turns, publisher: Publisher, wall: Callable[[], float]
    ) -> None:
        self._session = session
        self._turns = turns
        self._publisher = publisher
        self._wall = wall
        self._counted = -1  # written by any thread; a wrong one is found out the next time

    def add(self, keys: Sequence[str], lifetime_s: float) -> None:
        """Remember keys, as in `Coordinates.revoke`."""
        if not keys:
            return
        session = self._session
        with session.use() as end_mono_s:
            session.ask([session.declare(QUEUE, _ARGUMENTS)], 1, end_mono_s)
        ends_wall_s = self._wall() + lifetime_s
        revoked = [_Revoked(key, ends_wall_s, lifetime_s) for key in keys]
        self._publisher.publish([_parcel(bundle, lifetime_s) for bundle in _bundles(revoked)])

    def read(self) -> list[str]:
        """What is revoked, as in `Coordinates.revoked`.

        In turn, since what one has taken nobody else sees.
        """
        found = _Found()
        with self._turns.turn("revoked") as end_mono_s:
            got = self._first(end_mono_s)
            end_mono_s += got.left / _TAKEN_PER_S
            tag, taken = self._take(got, found, end_mono_s)
            newest = found.newest(self._wall())
            if taken <= _FEW and not found.too_many:
                self._put_back(tag, end_mono_s)
                self._counted = taken
            else:
                self._counted = self._gather(newest, tag, end_mono_s)
        now_wall_s = self._wall()
        return [one.key for one in newest if one.ends_wall_s > now_wall_s]

    def mark(self) -> str:
        """How many messages there are, as in `Coordinates.revoked_mark`.

        While one reads, fewer are counted. So what differs is counted in turn before it is believed: else
        readers would have each other read again for ever.
        """
        session = self._session
        with session.use() as end_mono_s:
            (counts,) = session.ask([session.declare(QUEUE, _ARGUMENTS)], 1, end_mono_s)
        assert isinstance(counts, Counts)
        count = counts.messages
        if count != self._counted:
            with self._turns.turn("revoked") as end_mono_s:
                got = self._first(end_mono_s)
                self._put_back(got.tag, end_mono_s)
            count = self._counted = got.left + 1 if got.tag else 0
        return str(count)

    def _take(self, first: Got, found: _Found, end_mono_s: float) -> tuple[int, int]:
        """Take all that there is after the first; the last tag, and how many were taken."""
        session, tag, left, taken = self._session, first.tag, first.left, int(first.tag > 0)
        if first.tag:
            found.note(first.body)
        while left > 0:
            gets = [session.get(QUEUE)] * min(left, _AT_ONCE)
            for one in session.ask(gets, len(gets), end_mono_s):
                assert isinstance(one, Got)
                tag, left = one.tag or tag, one.left if one.tag else 0
                if one.tag:
                    taken += 1
                    found.note(one.body)
        return tag, taken

    def _gather(self, newest: Sequence[_Revoked], tag: int, end_mono_s: float) -> int:
        """Put bundles in the place of all that was taken; how many there are now, -1 if that is not known.

        The bundles come first: who dies in between leaves some of it twice, which does no harm.
        """
        session = self._session
        parcels = [
            _parcel(bundle, max(one.given_s for one in bundle), gathered=True) for bundle in _bundles(newest)
        ]
        try:
            self._publisher.publish(parcels)
        except TransportError as error:
            # What was read is known all the same. Nobody waits until the broker has taken back so much.
            _log.warning("the revocations in %r could not be put together: %s", QUEUE, error)
            session.ask([session.put_back(tag)], 0, end_mono_s)
            return -1
        session.ask([session.acknowledge(tag), session.declare(QUEUE, _ARGUMENTS)], 1, end_mono_s)
        return len(parcels)

    def _first(self, end_mono_s: float) -> Got:
        """Take the oldest, in turn, which says how many are left.

        The answer to a declaration does not: it overtakes what another has put back before.
        """
        session = self._session
        frames = [session.declare(QUEUE, _ARGUMENTS, wait=False), session.get(QUEUE)]
        (got,) = session.ask(frames, 1, end_mono_s)
        assert isinstance(got, Got)
        return got

    def _put_back(self, tag: int, end_mono_s: float) -> None:
        """Give back all that was taken, before the turn is over."""
        session = self._session
        if tag:
            session.ask([session.put_back(tag), session.declare(QUEUE, _ARGUMENTS)], 1, end_mono_s)


def _bundles(revoked: Sequence[_Revoked]) -> Iterator[list[_Revoked]]:
    rest = iter(revoked)
    while bundle := list(islice(rest, _BUNDLE)):
        yield bundle


def _parcel(bundle: list[_Revoked], lifetime_s: float, *, gathered: bool = False) -> Parcel:
    properties = {
        "content_type": "application/json",
        "delivery_mode": 2,
        "expiration": str(max(1, min(int(lifetime_s * 1000) + 1, _LIFETIME_MS_MAX))),
    }
    return Parcel("", QUEUE, properties, _encode(_Bundle(bundle, gathered)))
