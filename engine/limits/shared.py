"""What a child asks of all workers together: tokens of global rates, slots of max_concurrency."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from ...transports.coordination import Coordinates
from ...transports.errors import TransportError
from ..clock import mono_ns
from .kinds import Limited
from .lanes import NAME_BYTES_MAX

# As `gcra.CATCH_UP_NS`; between workers it takes longer until somebody has come.
_CATCH_UP_S: Final = 0.1
# Above some rate, tokens are taken for so long ahead, so that not each of them costs a round trip.
_AHEAD_S: Final = 0.02
_AHEAD_MAX: Final = 64
# So long such a token is good; then it is nobody's.
_CREDIT_NS: Final = 100_000_000
# So long the others of a worker wait for the answer to one of them.
_ASKING_NS: Final = 50_000_000
# How often a slot is asked for that others hold: they free it without telling.
SLOT_AGAIN_NS: Final = 250_000_000
PAUSED_NS: Final = 1_000_000_000


class Sharing:
    """The shared limits of one child. Used by the loop's thread only.

    :param coordinates: None on a broker that shares nothing.
    :param owner: of the child's consumer: its slots are freed with it.
    """

    def __init__(self, coordinates: Coordinates | None, worker: str, owner: str) -> None:
        self._coordinates = coordinates
        self._worker = worker
        self._owner = owner
        self._credit: dict[str, tuple[int, int]] = {}  # kind -> tokens, good until (monotonic ns)
        self._number = 0
        # Slots that are held, by what they are of (a kind, or a key of it): name and holder. The one that
        # was asked for last is the last.
        self.holding: dict[str, tuple[str, str]] = {}
        # Those that could not be freed when that was due.
        self.late: list[tuple[str, str]] = []

    @property
    def possible(self) -> bool:
        """Whether the broker can do it."""
        return self._coordinates is not None

    def take(self, kind: Limited, want: int, now_ns: int) -> int:
        """Take up to `want` tokens of a kind's global rate, and a slot; how many messages may run.

        A child runs one after the other, so one slot serves all of a batch.

        :raises TransportError: the broker cannot be asked.
        """
        tokens = want
        if kind.limits.global_per_s is not None:
            tokens = self._tokens(kind, kind.limits.global_per_s, want, now_ns)
        if tokens and kind.limits.max_concurrency is not None:
            if not self._slot(kind.name, bounded_name("slots", kind.name), kind.limits.max_concurrency):
                self.give_back(kind, tokens)
                kind.bucket.not_before(now_ns + SLOT_AGAIN_NS)
                return 0
        return tokens

    def _tokens(self, kind: Limited, per_s: float, want: int, now_ns: int) -> int:
        credit, good_until_ns = self._credit.pop(kind.name, (0, 0))
        have = credit if good_until_ns > now_ns else 0
        if have < want:
            have += self._ask(kind, per_s, want - have, now_ns)
        tokens = min(have, want)
        if have > tokens:
            self._credit[kind.name] = (have - tokens, now_ns + _CREDIT_NS)
        return tokens

    def _ask(self, kind: Limited, per_s: float, want: int, now_ns: int) -> int:
        assert self._coordinates is not None  # refused at the start otherwise
        if per_s == 0:
            kind.bucket.not_before(now_ns + PAUSED_NS)
            return 0
        more = max(want, min(int(per_s * _AHEAD_S), _AHEAD_MAX))
        burst = kind.limits.burst + per_s * _CATCH_UP_S
        # One child of a worker asks at a time: all of them would wake for the same token.
        kind.bucket.not_before(now_ns + _ASKING_NS)
        grant = self._coordinates.take_tokens(bounded_name("rate", kind.name), per_s, burst, more)
        kind.bucket.not_before(0 if grant.tokens else mono_ns() + int(grant.retry_after_s * 1e9))
        return grant.tokens

    def give_back(self, kind: Limited, tokens: int) -> None:
        """Keep tokens that were not needed, for a moment."""
        if kind.limits.global_per_s:
            credit, _ = self._credit.get(kind.name, (0, 0))
            self._credit[kind.name] = (credit + tokens, mono_ns() + _CREDIT_NS)

    # --- keys ---------------------------------------------------------------------------------------

    def keyed_token(self, kind: Limited, key: str) -> float:
        """Take a token of a key's global rate; 0, or in how many seconds to ask again.

        :raises TransportError: the broker cannot be asked.
        """
        assert self._coordinates is not None
        per_s = kind.limits.global_per_s
        assert per_s  # neither unlimited nor paused
        burst = kind.limits.burst + per_s * _CATCH_UP_S
        grant = self._coordinates.take_tokens(bounded_name("rate", kind.name, key), per_s, burst, 1)
        return 0.0 if grant.tokens else max(grant.retry_after_s, 0.001)

    def keyed_slot(self, kind: Limited, key: str) -> bool:
        """Take a slot of a key, or keep it.

        :raises TransportError: the broker cannot be asked.
        """
        limit = kind.limits.max_concurrency
        assert limit is not None
        return self._slot(f"{kind.name}\0{key}", bounded_name("slots", kind.name, key), limit)

    # --- slots --------------------------------------------------------------------------------------

    def _slot(self, what: str, name: str, limit: int) -> bool:
        assert self._coordinates is not None
        if what in self.holding:
            self.holding[what] = self.holding.pop(what)
            return True
        if limit == 0:
            return False
        holder = self._holder(name)
        try:
            taken = self._coordinates.take_slot(name, limit, self._worker, holder)
        except TransportError:
            self.late.append((name, holder))  # the answer that is lost may have been a yes
            raise
        if taken:
            self.holding[what] = (name, holder)
        return taken

    def _holder(self, name: str) -> str:
        """A new holder; or one who may have a slot already, since nobody knows whether he gave it back."""
        for index, (doubtful, holder) in enumerate(self.late):
            if doubtful == name:
                del self.late[index]
                return holder
        self._number += 1
        return f"{self._owner}/{self._number}"

    def free(self, kind: Limited) -> None:
        """Give the slot of a kind back.

        :raises TransportError: the broker cannot be asked; it is freed by `free_late`.
        """
        held = self.holding.pop(kind.name, None)
        if held is not None:
            self.late.append(held)
            self.free_late()

    def free_all(self, but: int = 0) -> None:
        """Give every slot back.

        :param but: so many of those that were asked for last stay.
        :raises TransportError: the broker cannot be asked; the rest is freed by `free_late`.
        """
        for what in list(self.holding)[: len(self.holding) - but]:
            self.late.append(self.holding.pop(what))
        self.free_late()

    def free_late(self) -> None:
        """Give back what could not be given back before.

        :raises TransportError: the broker cannot be asked.
        """
        while self.late:
            assert self._coordinates is not None
            self._coordinates.free_slot(*self.late[0])
            del self.late[0]


def bounded_name(what: str, *parts: str) -> str:
    """A name that every broker takes: at most 255 bytes."""
    name = ":".join((what, *parts))
    data = name.encode("utf-8", "surrogatepass")
    return name if len(data) <= NAME_BYTES_MAX else f"{what}:{blake2b(data, digest_size=16).hexdigest()}"
