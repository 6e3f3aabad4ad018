"""What has come to a consumer and was not handed to anybody yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .received import Received


class Inbox(deque[Received]):
    """In the order in which the messages came."""

    def fresh(self) -> list[Received]:
        """Those that another connection lost, and that have not rested yet."""
        return [one for one in self if one.redelivered]

    def has_suspects(self) -> bool:
        """Whether one of them may have killed a process."""
        return any(one.suspect for one in self)

    def take(self, max_n: int) -> list[Received]:
        """Take up to so many that are not suspect; one suspect alone where there are no others."""
        clean = [one for one in self if not one.suspect]
        batch = clean[:max_n] or list(self)[:1]
        self.discard(batch)
        return batch

    def put_back(self, batch: list[Received]) -> None:
        """What was taken just now, and handed to nobody."""
        self.extendleft(reversed(batch))

    def discard(self, messages: Iterable[Received]) -> None:
        """Forget these, as far as they are here."""
        for one in messages:
            if one in self:
                self.remove(one)
