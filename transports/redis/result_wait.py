"""Waiting for results: one subscription connection per process serves every waiter of every thread.

There is no thread of our own. Of the threads that wait, one (the leader) reads the connection and
gives the others what is theirs; when its own wait is over, it makes another one the leader. Nobody
else touches the connection, so it needs no lock, and whatever an exception interrupts, be it a time
limit, costs no more than a new connection.
"""

from __future__ import annotations

import os
import random
import select
import threading
from collections.abc import Callable, Iterable, Sequence
from time import monotonic

import hiredis

from ..errors import ResultStoreUnavailable, TransportError
from ..result_state import is_final
from .faults import pause_before_reconnect_s
from .result_channel import ResultChannel

FIRST_OUTAGE_S = 5.0
"""How long connecting for the first time is tried before the waiters are told."""

OUTAGE_S = 30.0
"""How long a connection that once worked is tried to be replaced before the waiters are told."""

_LEAVING_S = 5.0
# How often those who do not lead look whether somebody does.
_LOOK_S = 1.0


class _Waiter:
    """One call of `wait`. What changes is written under the lock.

    :ivar left_mono_s: when its call began to end; 0.0 before.
    """

    __slots__ = ("error", "found", "keys", "left_mono_s", "thread", "turn")

    def __init__(self, keys: Iterable[bytes]) -> None:
        self.keys = dict.fromkeys(keys)
        self.thread = threading.get_ident()
        self.found: dict[bytes, bytes] = {}
        self.error: ResultStoreUnavailable | None = None
        self.left_mono_s = 0.0
        self.turn = threading.Event()

    @property
    def over(self) -> bool:
        return bool(self.found) or self.error is not None


class ResultWait:
    """Serves every waiter of one process. Safe to use from several threads; not across a fork.

    :param connect: opens the subscription connection, by a time of the monotonic clock, if any.
    :param read: reads documents that are too long for it.
    """

    def __init__(
        self,
        connect: Callable[[float | None], ResultChannel],
        read: Callable[[Sequence[bytes]], Sequence[bytes | None]],
        *,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._connect = connect
        self._read = read
        self._now = now
        self._lock = threading.Lock()
        # Under the lock: who waits for what; what the leader has yet to ask for, and to unsubscribe from.
        self._waiting: dict[bytes, list[_Waiter]] = {}
        self._waiters: dict[_Waiter, None] = {}
        self._fresh: list[_Waiter] = []
        self._stale: set[bytes] = set()
        self._leader: _Waiter | None = None
        self._closed = False
        # What wakes the leader, reading end first; opened by the first waiter, under the lock.
        self._pipe: tuple[int, int] | None = None
        # Of the leader alone.
        self._channel: ResultChannel | None = None
        self._heard: list[tuple[bytes, bytes]] = []
        self._worked = False
        self._failed = 0
        self._lost_mono_s = 0.0
        self._try_mono_s = 0.0
        self._last_error: Exception | None = None

    # -- waiters ------------------------------------------------------------------------------

    def wait(self, keys: Sequence[bytes], timeout_s: float | None) -> dict[bytes, bytes]:
        """Wait until at least one key has a final document.

        :param timeout_s: None waits for ever.
        :returns: the final documents found by then; none when the time is over.
        :raises ResultStoreUnavailable: the server is away for long, or at the end of the time.
        """
        end_mono_s = None if timeout_s is None else self._now() + timeout_s
        waiter = _Waiter(keys)
        try:
            self._enter(waiter)
            while not waiter.over:
                if self._leader is waiter:
                    self._lead(waiter, end_mono_s)
                    break
                left_s = _LOOK_S if end_mono_s is None else min(_LOOK_S, end_mono_s - self._now())
                if left_s <= 0.0:
                    break
                if waiter.turn.wait(left_s):
                    waiter.turn.clear()
                else:
                    self._look_for_leader(waiter)
        finally:
            self._leave(waiter)
        if waiter.found:
            return waiter.found
        if waiter.error is not None:
            raise waiter.error
        if self._channel is None and self._last_error is not None:
            # Nothing was seen because nothing could be looked at: that is not the same as no result.
            raise self._unavailable(self._last_error)
        return waiter.found

    def _enter(self, waiter: _Waiter) -> None:
        with self._lock:
            if self._pipe is None:
                self._pipe = os.pipe()
                for fd in self._pipe:
                    os.set_blocking(fd, False)
            self._closed = False
            self._waiters[waiter] = None
            for key in waiter.keys:
                self._waiting.setdefault(key, []).append(waiter)
            self._fresh.append(waiter)
            self._depose(waiter)
            if self._leader is not None:
                self._poke()
                return
            self._leader = waiter
            if len(self._waiters) == 1:
                self._failed, self._try_mono_s, self._last_error = 0, 0.0, None

    def _look_for_leader(self, waiter: _Waiter) -> None:
        with self._lock:
            self._depose(waiter)
            if self._leader is None:
                self._leader = waiter

    def _depose(self, waiter: _Waiter) -> None:
        """Forget a leader that an exception, such as a time limit, kept from handing over."""
        leader = self._leader
        if leader is None or leader is waiter:
            return
        since_s = self._now() - leader.left_mono_s if leader.left_mono_s else 0.0
        if leader.thread == waiter.thread or since_s > _LEAVING_S:
            self._forget(leader)
            self._leader = None
            self._drop()

    def _leave(self, waiter: _Waiter) -> None:
        waiter.left_mono_s = self._now()
        with self._lock:
            self._forget(waiter)
            if self._leader is not waiter:
                if self._stale:
                    self._poke()
                return
        try:
            self._unsubscribe()
        finally:
            self._hand_over()

    def _forget(self, waiter: _Waiter) -> None:
        self._waiters.pop(waiter, None)
        if waiter in self._fresh:
            self._fresh.remove(waiter)
        for key in waiter.keys:
            others = self._waiting.get(key)
            if others is not None and waiter in others:
                others.remove(waiter)
                if not others:
                    del self._waiting[key]
                    self._stale.add(key)

    def _unsubscribe(self) -> None:
        channel = self._channel
        with self._lock:
            stale = [] if channel is None else [key for key in self._stale if key in channel.listening]
            self._stale.clear()
        if channel is None or not stale:
            return
        try:
            channel.ask((), stale, ())
        except OSError as error:
            self._lost(error)
        except BaseException:
            self._drop()
            raise

    def _hand_over(self) -> None:
        with self._lock:
            heir = next((other for other in self._waiters if not other.over), None)
            self._leader = heir
            if heir is not None:
                heir.turn.set()
            elif self._closed:
                self._release()

    def _poke(self) -> None:
        if self._pipe is None:
            return
        try:
            os.write(self._pipe[1], b"\0")
        except BlockingIOError:
            pass  # the pipe is full of pokes: the leader will see one of them

    # -- the leader ---------------------------------------------------------------------------

    def _lead(self, waiter: _Waiter, end_mono_s: float | None) -> None:
        while not waiter.over:
            now_mono_s = self._now()
            if end_mono_s is not None and now_mono_s >= end_mono_s:
                self._tell()
                return
            try:
                self._turn(now_mono_s, end_mono_s)
            except (OSError, TransportError, hiredis.HiredisError) as error:
                self._lost(error)
            except BaseException:
                self._drop()
                raise

    def _turn(self, now_mono_s: float, end_mono_s: float | None) -> None:
        channel = self._channel
        if channel is None:
            if now_mono_s < self._try_mono_s:
                self._sleep(None, self._try_mono_s, end_mono_s)
                return
            channel = self._open(end_mono_s)
        elif not channel.owes:
            self._ask(channel)
        if self._sleep(channel, channel.look_mono_s, end_mono_s):
            heard = channel.receive()
            self._worked, self._failed, self._last_error = True, 0, None
            self._heard += self._final(heard)
            if not channel.owes:
                # Together, so that whoever asked for many gets all that are there.
                self._tell()
        else:
            channel.check(self._now())

    def _open(self, end_mono_s: float | None) -> ResultChannel:
        """Connect and tell the new connection everything."""
        channel = self._connect(end_mono_s)
        self._channel = channel
        with self._lock:
            self._fresh.clear()
            self._stale.clear()
            keys = list(self._waiting)
        channel.ask(keys, (), keys)
        return channel

    def _ask(self, channel: ResultChannel) -> None:
        with self._lock:
            if not self._fresh and not self._stale:
                return
            read = list(dict.fromkeys(key for waiter in self._fresh for key in waiter.keys))
            self._fresh.clear()
            stale = [key for key in self._stale if key in channel.listening and key not in self._waiting]
            self._stale.clear()
        channel.ask([key for key in read if key not in channel.listening], stale, read)

    def _sleep(self, channel: ResultChannel | None, until_mono_s: float, end_mono_s: float | None) -> bool:
        """Wait for the channel, a poke or a time; whether the channel has something."""
        until_mono_s = until_mono_s if end_mono_s is None else min(until_mono_s, end_mono_s)
        assert self._pipe is not None  # whoever leads has entered
        woken = self._pipe[0]
        poller = select.poll()
        poller.register(woken, select.POLLIN)
        if channel is not None:
            poller.register(channel.fileno(), select.POLLIN)
        # Rounded up to the next millisecond by the poller: never a moment too early.
        ready = {fd for fd, _ in poller.poll(max(0.0, until_mono_s - self._now()) * 1000)}
        if woken in ready:
            os.read(woken, 4096)
        return channel is not None and channel.fileno() in ready

    def _final(self, heard: Sequence[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes]]:
        long = [key for key, document in heard if document is None]
        read = dict(zip(long, self._read(long))) if long else {}
        known = [(key, read.get(key) if document is None else document) for key, document in heard]
        return [(key, document) for key, document in known if document is not None and is_final(document)]

    def _tell(self) -> None:
        heard, self._heard = self._heard, []
        if not heard:
            return
        with self._lock:
            for key, document in heard:
                for waiter in self._waiting.get(key, ()):
                    waiter.found[key] = document
                    waiter.turn.set()

    def _lost(self, error: Exception) -> None:
        """The connection is broken, or there was none to be had; try again soon, but not for ever."""
        self._drop()
        self._tell()
        now_mono_s = self._now()
        if self._last_error is None:
            self._lost_mono_s = now_mono_s
        self._last_error = error
        self._try_mono_s = now_mono_s + pause_before_reconnect_s(self._failed, random.random())
        self._failed += 1
        if now_mono_s - self._lost_mono_s < (OUTAGE_S if self._worked else FIRST_OUTAGE_S):
            return
        with self._lock:
            for waiter in self._waiters:
                waiter.error = self._unavailable(error)
                waiter.turn.set()
        self._last_error = None

    @staticmethod
    def _unavailable(error: Exception) -> ResultStoreUnavailable:
        return ResultStoreUnavailable(f"results cannot be waited for: {error}")

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _release(self) -> None:
        pipe, self._pipe = self._pipe, None
        self._drop()
        for fd in pipe or ():
            os.close(fd)

    def close(self) -> None:
        """Close the connection, or have it closed by the last who waits. Safe to call twice."""
        with self._lock:
            self._closed = True
            if self._leader is None:
                self._release()

    def abandon(self) -> None:
        """In a child of the process that this belongs to: close its descriptors, and tell nobody."""
        self._release()
