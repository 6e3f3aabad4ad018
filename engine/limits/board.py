"""The buckets of one worker, in the mapping that all its processes share.

The first half of the table is for task kinds, by a digest of their name, and holds whatever was ever
entered; the second half is for keys (`keyed`), where an entry whose bucket is full again is free.

Nothing here survives the worker, and nothing has to: the messages themselves are in the broker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Final, NamedTuple

from ..clock import mono_ns
from ..exceptions import ImproperlyConfigured, PreforkError
from ..scoreboard import RATE_BUCKETS, W_PARKED, W_RATES, Scoreboard
from . import gcra
from .gcra import Shape
from .locks import ByteLocks
from .rates import rate_per_s

WORDS: Final = 8
KINDS_MAX: Final = RATE_BUCKETS // 2
_TABLE_LOCK: Final = RATE_BUCKETS  # the locks below it are those of the buckets
_KEYS_LOCK: Final = RATE_BUCKETS + 1
_KEYS_PROBED: Final = 16

# The words of a bucket, each with who writes it.
_DIGEST: Final = 0  # of the name; whoever enters it, under the lock of the table
_FULL_AT: Final = 1  # the state (`gcra`); whoever takes, under the lock of the bucket
_INTERVAL: Final = 2  # ns per token, 0 unlimited, _PAUSED; whoever sets the rate
_CAPACITY: Final = 3  # ns; likewise
_DECLARED: Final = 4  # burst (thousandths), and digest, of what the code said; whoever loads the code
_PARKED: Final = 5  # changes when messages were parked; whoever parks (only a change matters)
_EMPTIED: Final = 6  # the value of _PARKED when the lanes were found empty; whoever looked
_NOT_BEFORE: Final = 7  # ns; what is shared with other workers has nothing before; whoever asked

_PAUSED: Final = (1 << 64) - 1
_MASK: Final = (1 << 64) - 1
_BURST_MASK: Final = (1 << 32) - 1
BUSY_NS: Final = 10_000_000
"""How long to wait when the lock of a bucket could not be had."""
NEVER_NS: Final = 1 << 62
# How often the lock of the table is asked for, each time for some 10 ms: about two seconds. The lease of a
# worker is renewed by a thread that may stand here.
_ENTER_TRIES: Final = 200


class TableBusy(PreforkError):
    """Nothing can be entered now: another process of this worker was stopped while it did the same.

    Raised by `RateBoard.enter` and whatever calls it; to be tried again later.

    :ivar name: of the task kind that was to be entered.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"task {self.name!r} cannot be entered in the table of limits: another process of this worker "
            "keeps its lock. Is one of them stopped? Continue it (SIGCONT) or end it, and try again"
        )


class Bucket:
    """The bucket of one task kind, seen from one process."""

    __slots__ = ("_at", "_clock_ns", "_header", "_locks", "_words", "index")

    def __init__(
        self,
        header: memoryview,
        words: memoryview,
        index: int,
        locks: ByteLocks,
        clock_ns: Callable[[], int] = mono_ns,
    ) -> None:
        self._clock_ns = clock_ns
        self._header = header
        self._words = words
        self._at = index * WORDS
        self._locks = locks
        self.index = index

    # --- the rate ----------------------------------------------------------------------------------

    def set_shape(self, per_s: float | None, burst: float) -> None:
        """Give it a rate, a new one or the first; 0 pauses, None does not limit."""
        words, at = self._words, self._at
        # Paused while both words change: nobody takes by an interval and a capacity that do not match.
        words[at + _INTERVAL] = _PAUSED
        if per_s is None:
            words[at + _INTERVAL] = 0
        elif per_s > 0:
            shape = gcra.shape_of(per_s, burst)
            words[at + _CAPACITY] = shape.capacity_ns
            words[at + _INTERVAL] = shape.interval_ns

    def shape(self) -> Shape | None:
        """The rate that it has; None when nothing is limited. An interval of 0 pauses."""
        words, at = self._words, self._at
        interval_ns = words[at + _INTERVAL]
        shape = Shape(interval_ns, words[at + _CAPACITY])
        if interval_ns == _PAUSED or words[at + _INTERVAL] != interval_ns:
            return Shape(0, 0)
        return shape if interval_ns else None

    @property
    def per_s(self) -> float | None:
        """Tokens a second; 0 when paused, None when unlimited."""
        shape = self.shape()
        if shape is None:
            return None
        return 1e9 / shape.interval_ns if shape.interval_ns else 0.0

    # --- tokens ------------------------------------------------------------------------------------

    def take(self, want: int, now_ns: int, *, overdraft: int = 0) -> int:
        """Take up to `want` tokens; how many there were.

        :raises OSError: a task has closed descriptors that are not its own.
        """
        shape = self.shape()
        if shape is None:
            return want
        if not shape.interval_ns:
            return 0
        words, at = self._words, self._at + _FULL_AT
        seen = gcra.take(words[at], shape, now_ns, want, overdraft=overdraft)
        if not seen.tokens and not gcra.is_left_over(words[at], shape, now_ns):
            return 0  # no need for the lock
        with self._locks.held(self.index) as ours:
            if not ours:
                return 0
            if gcra.is_left_over(words[at], shape, now_ns):
                # Or the asker's moment is long past, and others have taken since: only the present tells.
                now_ns = max(now_ns, self._clock_ns())
            taken = gcra.take(words[at], shape, now_ns, want, overdraft=overdraft)
            words[at] = taken.full_at_ns
            return taken.tokens

    def give_back(self, tokens: int) -> None:
        """Return tokens that were taken for nothing; they are lost when the lock cannot be had."""
        shape = self.shape()
        if shape is None or not shape.interval_ns or tokens <= 0:
            return
        with self._locks.held(self.index) as ours:
            if ours:
                at = self._at + _FULL_AT
                self._words[at] = gcra.give_back(self._words[at], shape, tokens)

    def due_ns(self, now_ns: int) -> int:
        """From when on something may be taken, as far as this worker knows; `NEVER_NS` when paused."""
        words, at = self._words, self._at
        shape = self.shape()
        if shape is None:
            return int(words[at + _NOT_BEFORE])
        if not shape.interval_ns:
            return NEVER_NS
        return max(gcra.due_ns(words[at + _FULL_AT], shape, now_ns), words[at + _NOT_BEFORE])

    def not_before(self, at_ns: int) -> None:
        """Nobody in this worker need ask others before then."""
        self._words[self._at + _NOT_BEFORE] = max(0, at_ns)

    # --- the lanes ---------------------------------------------------------------------------------

    @property
    def parked(self) -> int:
        """A value that changes when messages are parked."""
        return int(self._words[self._at + _PARKED])

    def park(self) -> None:
        """Messages were put into a lane, or are about to be, or were seen there."""
        at = self._at + _PARKED
        self._words[at] = (self._words[at] + 1) & _MASK
        self._header[W_PARKED] = (self._header[W_PARKED] + 1) & _MASK

    def emptied(self, parked: int) -> None:
        """The lanes were empty, when nothing had been parked since `parked` was read."""
        self._words[self._at + _EMPTIED] = parked

    @property
    def holds(self) -> bool:
        """Whether the lanes may hold messages. They do not when it says so, but for a second at most."""
        words, at = self._words, self._at
        return bool(words[at + _PARKED] != words[at + _EMPTIED])


class Booked(NamedTuple):
    """A token of a key.

    :param wait_ns: until it is there; 0 for at once.
    :param booked: whether it is the asker's own; False: the wait is so long that nothing was booked, and
        the asker must ask again.
    """

    wait_ns: int
    booked: bool


class RateBoard:
    """All buckets of a worker, seen from one process, which makes one of these for all of its threads.

    :param clock_ns: the monotonic clock.
    :ivar header: has `changes` and `parks`, as W_RATES and W_PARKED, for whoever looks at each message.
    """

    def __init__(self, scoreboard: Scoreboard, clock_ns: Callable[[], int] = mono_ns) -> None:
        self._clock_ns = clock_ns
        self._scoreboard = scoreboard  # whose descriptors are used
        self._header = self.header = scoreboard.words
        self._words = scoreboard.rates
        self._locks = ByteLocks(scoreboard.locks_fd)
        self._bell_fd = scoreboard.agent_bell_fd
        self._buckets: dict[str, Bucket] = {}

    @property
    def changes(self) -> int:
        """A value that changes when a bucket is made or gets another rate."""
        return int(self._header[W_RATES])

    @property
    def parks(self) -> int:
        """A value that changes when messages of any kind are parked."""
        return int(self._header[W_PARKED])

    def bucket(self, name: str) -> Bucket | None:
        """The bucket of a task kind; None when it never had a limit in this worker."""
        found = self._buckets.get(name)
        if found is None:
            index = self._find(digest(name))
            if index is None or not self._words[index * WORDS + _DIGEST]:
                return None
            found = self._buckets[name] = self._bucket(index)
        return found

    def _bucket(self, index: int) -> Bucket:
        return Bucket(self._header, self._words, index, self._locks, self._clock_ns)

    def enter(self, name: str) -> Bucket:
        """The bucket of a task kind, made if need be.

        :raises ImproperlyConfigured: there are too many.
        :raises TableBusy: another process keeps the lock of the table.
        """
        found = self.bucket(name)
        for _ in range(_ENTER_TRIES):
            if found is not None:
                return found
            with self._locks.held(_TABLE_LOCK) as ours:
                if ours:
                    index = self._find(digest(name))
                    if index is None:
                        raise ImproperlyConfigured(
                            f"task {name!r} cannot be limited: a worker keeps at most {KINDS_MAX} limits"
                        )
                    self._words[index * WORDS + _DIGEST] = digest(name)
                    self._changed()
            found = self.bucket(name)
        if found is None:
            raise TableBusy(name)
        return found

    def declare(self, name: str, per_s: float | None, burst: float) -> Bucket:
        """Enter what the code says of a task kind.

        A rate that was set at run time stays, until the code says something else than before.

        :raises ImproperlyConfigured: as in `enter`; TableBusy likewise.
        """
        bucket = self.enter(name)
        said = digest(f"{per_s!r} {burst!r}") & ~_BURST_MASK | min(round(burst * 1000), _BURST_MASK)
        at = bucket.index * WORDS + _DECLARED
        if self._words[at] != said:
            self._words[at] = said
            bucket.set_shape(per_s, burst)
            self._changed()
        return bucket

    def set_rate(self, name: str, rate: str | float | None) -> float | None:
        """Give a task kind another rate from now on, in every process of this worker. Its burst stays.

        :param rate: as in the task option; 0 pauses, None does not limit.
        :returns: the rate, in tasks a second.
        :raises ImproperlyConfigured: it is no rate, or there are too many limits.
        :raises TableBusy: as in `enter`.
        """
        per_s = rate_per_s(rate, f"rate_limit of task {name!r}")
        bucket = self.enter(name)
        burst = (self._words[bucket.index * WORDS + _DECLARED] & _BURST_MASK) / 1000
        bucket.set_shape(per_s, max(1.0, burst))
        bucket.not_before(0)
        bucket.park()  # whatever waits is looked at now
        self._changed()
        return per_s

    def rate(self, name: str) -> float | None:
        """The rate of a task kind in this worker; None when it is not limited."""
        bucket = self.bucket(name)
        return None if bucket is None else bucket.per_s

    def tell_agent(self) -> None:
        """Have the agent look at the lanes at once."""
        os.eventfd_write(self._bell_fd, 1)

    def _changed(self) -> None:
        self._header[W_RATES] = (self._header[W_RATES] + 1) & _MASK
        self.tell_agent()

    def _find(self, wanted: int) -> int | None:
        """The place of a digest, or the free one that it would get; None when the table is full."""
        words = self._words
        for step in range(KINDS_MAX):
            index = (wanted + step) % KINDS_MAX
            if words[index * WORDS + _DIGEST] in (0, wanted):
                return index
        return None

    # --- keys --------------------------------------------------------------------------------------

    def take_keyed(self, name: str, key: str, shape: Shape, now_ns: int, horizon_ns: int) -> Booked:
        """Take a token of one key, or book the one that comes next."""
        wanted = digest(f"{name}\0{key}")
        words = self._words
        with self._locks.held(_KEYS_LOCK) as ours:
            if not ours:
                return Booked(BUSY_NS, booked=False)
            at = self._keyed(wanted) * WORDS
            full_at_ns = max(words[at + _FULL_AT] if words[at + _DIGEST] == wanted else 0, now_ns)
            longest_ns = horizon_ns + shape.capacity_ns
            if full_at_ns - now_ns > longest_ns:
                now_ns = max(now_ns, self._clock_ns())  # as in `Bucket.take`
            if full_at_ns - now_ns > longest_ns:
                full_at_ns = now_ns + shape.capacity_ns  # nobody booked that at this rate
            wait_ns = max(0, full_at_ns + shape.interval_ns - shape.capacity_ns - now_ns)
            if wait_ns > horizon_ns:
                return Booked(horizon_ns, booked=False)
            words[at + _FULL_AT] = full_at_ns + shape.interval_ns
            words[at + _DIGEST] = wanted
            return Booked(wait_ns, booked=True)

    def _keyed(self, wanted: int) -> int:
        """The place of a key: its own, else one that is free, else the one that will be free first."""
        places = list(self._key_places(wanted))
        words = self._words
        for index in places:
            if words[index * WORDS + _DIGEST] == wanted:
                return index
        return min(places, key=lambda index: words[index * WORDS + _FULL_AT])

    def _key_places(self, wanted: int) -> Iterator[int]:
        keys = RATE_BUCKETS - KINDS_MAX
        for step in range(_KEYS_PROBED):
            yield KINDS_MAX + (wanted + step) % keys


def digest(text: str) -> int:
    """What stands for a text in a word of shared memory; never 0."""
    found = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(found, "little") or 1
