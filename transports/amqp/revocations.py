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
            declare = session.declare(QUEUE, _ARGUMENTS)
            (counts,) = session.ask([declare], 1, end_mono_s)
            assert isinstance(counts, Counts)
            tag, left = 0, counts.messages
            while left > 0:
                gets = [session.get(QUEUE)] * min(left, _AT_ONCE)
                for got in session.ask(gets, len(gets), end_mono_s):
                    assert isinstance(got, Got)
                    tag, left = got.tag or tag, got.left if got.tag else 0
                    if got.tag:
                        _note(found, got.body)
            if tag:
                session.ask([session.put_back(tag), declare], 1, end_mono_s)
        now_wall_s = self._wall()
        return [key for key, ends_wall_s in found.items() if ends_wall_s > now_wall_s][-REVOKED_MAX:]


def _note(found: dict[str, float], body: bytes) -> None:
    """The last of several for one key counts, and its place."""
    try:
        one = _decode(body)
    except msgspec.MsgspecError:
        return  # not written by prefork; it expires, or is the oldest one day
    found.pop(one.key, None)
    found[one.key] = one.ends_wall_s
