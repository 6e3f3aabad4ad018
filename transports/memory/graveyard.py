"""Dead letters of a memory broker. Every method is called under the lock of the broker."""

from __future__ import annotations

from itertools import count

from ..base import DeadLetter
from .messages import Stored


class Graveyard:
    """Letters by key, oldest first."""

    def __init__(self) -> None:
        self._letters: dict[str, DeadLetter] = {}
        self._keys = count(1)

    def bury(self, message: Stored, reason: str, causes: tuple[str, ...], now_wall_s: float) -> DeadLetter:
        """Write a letter about a message, with its crashes as the first causes."""
        letter = DeadLetter(
            key=str(next(self._keys)),
            queue=message.queue,
            reason=reason,
            causes=message.causes + causes,
            document=message.document,
            priority=message.priority,
            crashes=message.crashes,
            died_wall_s=now_wall_s,
        )
        self._letters[letter.key] = letter
        return letter

    def letters(self, limit: int) -> list[DeadLetter]:
        """The oldest letters."""
        return list(self._letters.values())[:limit]

    def get(self, key: str) -> DeadLetter | None:
        """One letter."""
        return self._letters.get(key)

    def remove(self, key: str) -> DeadLetter | None:
        """Take one letter out."""
        return self._letters.pop(key, None)
