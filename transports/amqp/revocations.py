"""Revocations: messages in one queue that drops its oldest; read by taking and returning them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from ..coordination import REVOKED_MAX
from .publisher import Parcel, Publisher
from .session import Counts, Got, Session
from .turns import Turns

QUEUE: Final = "prefork.revoked"
_ARGUMENTS: Final[Mapping[str, Any]] = MappingProxyType(
    {"x-queue-type": "classic", "x-max-length": REVOKED_MAX, "x-expires": 40 * 86_400_000}
)
_AT_ONCE = 500
# RabbitMQ takes the square of the time to take back more: 20 ms for a thousand, 2 s for five, 11 s for ten.
_FEW: Final = 1_000
_MANY: Final = "many"
_LIFETIME_MS_MAX = (1 << 32) - 1


class _Revoked(msgspec.Struct, array_like=True):
    key: str
    ends_wall_s: float
    given_s: float


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Revoked).decode


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
        properties = {
            "content_type": "application/json",
            "delivery_mode": 2,
            "expiration": str(max(1, min(int(lifetime_s * 1000) + 1, _LIFETIME_MS_MAX))),
        }
        self._publisher.publish(
            [Parcel("", QUEUE, properties, _encode(_Revoked(key, ends_wall_s, lifetime_s))) for key in keys]
        )

    def read(self) -> list[str]:
        """What is revoked, as in `Coordinates.revoked`.

        In turn, since what one has taken nobody else sees.
        """
        found: dict[str, float] = {}
        session = self._session
        with self._turns.turn("revoked") as end_mono_s:
            got = self._first(end_mono_s)
            tag, left, taken = got.tag, got.left, int(got.tag > 0)
            if tag:
                _note(found, got.body)
            while left > 0:
                gets = [session.get(QUEUE)] * min(left, _AT_ONCE)
                for one in session.ask(gets, len(gets), end_mono_s):
                    assert isinstance(one, Got)
                    tag, left = one.tag or tag, one.left if one.tag else 0
                    if one.tag:
                        taken += 1
                        _note(found, one.body)
            self._put_back(tag, end_mono_s)
            self._counted = taken
        now_wall_s = self._wall()
        return [key for key, ends_wall_s in found.items() if ends_wall_s > now_wall_s][-REVOKED_MAX:]

    def mark(self) -> str:
        """How many there are, as in `Coordinates.revoked_mark`; it stays while there are more than a few.

        While one reads, fewer are counted. So what differs is counted in turn before it is believed: else
        readers would have each other read again for ever. Where there are many, they had better not be read
        whenever one is added.
        """
        session = self._session
        if self._counted > _FEW:
            return _MANY
        with session.use() as end_mono_s:
            (counts,) = session.ask([session.declare(QUEUE, _ARGUMENTS)], 1, end_mono_s)
        assert isinstance(counts, Counts)
        count = counts.messages
        if count > _FEW:
            self._counted = count
            return _MANY
        if count != self._counted:
            with self._turns.turn("revoked") as end_mono_s:
                got = self._first(end_mono_s)
                self._put_back(got.tag, end_mono_s)
            count = self._counted = got.left + 1 if got.tag else 0
        return str(count)

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


def _note(found: dict[str, float], body: bytes) -> None:
    """The last of several for one key counts, and its place."""
    try:
        one = _decode(body)
    except msgspec.MsgspecError:
        return  # not written by prefork; it expires, or is the oldest one day
    found.pop(one.key, None)
    found[one.key] = one.ends_wall_s
