"""The result store in Redis: Celery's keys, documents and announcements (interop §8.1, §8.5)."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from ..base import StoredResult
from ..errors import BrokerFull, BrokerUnavailable, ResultStoreUnavailable, TransportError
from ..result_state import is_final
from .faults import ServerError, from_reply, refused_to_publish
from .link import Arg, Link
from .pool import Pool
from .result_channel import ResultChannel
from .result_retry import RetryRule, read_rule
from .result_script import STORE_RESULTS, ResultKeys, calls, lifetime_ms, separated
from .result_wait import ResultWait
from .settings import RedisSettings

logger = logging.getLogger(__name__)

READ_KEYS = 100
_NAME = "prefork:results"
_NOT_ANNOUNCED = 2
_CONNECT_S = 0.5
_ANSWER_S = 3.0


class _Opened:
    """What one process holds. Opens nothing before it is used."""

    def __init__(
        self, settings: RedisSettings, read: Callable[[Sequence[bytes]], Sequence[bytes | None]]
    ) -> None:
        self.pid = os.getpid()
        # The link of this lock stores; it reads, too, unless another thread has it.
        self.lock = threading.Lock()
        self.link = Link(settings, name=_NAME)
        self.pool = Pool(settings, name=_NAME)
        # Holds no connection: it makes those that are waited on, and knows which address worked last.
        self.waiting = ResultWait(partial(_channel, Link(settings, name=_NAME)), read)

    def abandon(self) -> None:
        """In a child: close what the parent opened, which goes on using it, without a word.

        No lock is taken: a thread that does not exist here may hold it. The pool's descriptors go with it.
        """
        self.link.close()
        self.waiting.abandon()


def _command(*args: Arg) -> Callable[[Link], Any]:
    return lambda link: link.call(*args)


def _script(keys: Sequence[bytes], args: Sequence[bytes | int]) -> Callable[[Link], Any]:
    return lambda link: link.run(STORE_RESULTS, keys, args)


def _channel(link: Link, end_mono_s: float | None) -> ResultChannel:
    settings = link.settings
    # Connecting is not given up before it had a chance, however short somebody wants to wait.
    link.bound(0.0 if end_mono_s is None else max(end_mono_s, time.monotonic() + _CONNECT_S))
    wire = link.connection(protocol=3)

    def refused(error: ServerError, command: str) -> TransportError:
        return from_reply(error, where=wire.where, user=settings.user, command=command)

    return ResultChannel(wire, answer_s=min(settings.socket_timeout_s, _ANSWER_S), refused=refused)


class RedisResults:
    """Implements `transports.base.ResultStore`. Connects on first use, in each process anew.

    :param settings: its prefix is that of a result store, see `result_script.separated`.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self.settings = replace(settings, global_keyprefix=separated(settings.global_keyprefix))
        self._keys = ResultKeys(self.settings.global_keyprefix)
        self._rule: RetryRule = read_rule(settings.options)
        self._opened = _Opened(self.settings, self._read)
        self._warned = False

    def _mine(self) -> _Opened:
        opened = self._opened
        if opened.pid != os.getpid():
            self._opened = _Opened(self.settings, self._read)
            opened.abandon()
            opened = self._opened
        return opened

    # -- documents ----------------------------------------------------------------------------

    def store(self, results: Sequence[StoredResult]) -> None:
        """Write documents and announce them, as in `ResultStore.store`."""
        for keys, args in calls(self._keys, list(results)):
            answers = self._do(_script(keys, args), storing=True)
            if _NOT_ANNOUNCED in answers:
                self._warn()

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("%s", refused_to_publish(self.settings.shown, self.settings.user))

    def store_soon(self, results: Sequence[StoredResult]) -> None:
        """Write documents without waiting, before anything stored later from here."""
        opened = self._mine()
        with opened.lock:
            opened.link.bound(0.0)
            for keys, args in calls(self._keys, list(results)):
                try:
                    opened.link.send_only(STORE_RESULTS, keys, args)
                except BrokerUnavailable as error:
                    raise ResultStoreUnavailable(str(error)) from error

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read documents, as in `ResultStore.get`."""
        return self._read([self._keys.task(key) for key in keys])

    def _read(self, named: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for start in range(0, len(named), READ_KEYS):
            some = named[start : start + READ_KEYS]
            found += self._do(_command("MGET", *some))
        return found

    def wait(self, keys: Sequence[str], timeout_s: float | None) -> dict[str, bytes]:
        """Wait for final documents, as in `ResultStore.wait`.

        :raises ResultStoreUnavailable: the server cannot be reached; a connection that breaks while
            somebody waits is replaced for `result_wait.OUTAGE_S` first.
        """
        if not keys:
            return {}
        if timeout_s is not None and timeout_s <= 0.0:
            pairs = zip(keys, self.get(keys))
            return {key: document for key, document in pairs if document is not None and is_final(document)}
        named = {self._keys.task(key): key for key in keys}
        found = self._mine().waiting.wait(list(named), timeout_s)
        return {named[key]: document for key, document in found.items()}

    def forget(self, keys: Sequence[str]) -> None:
        """Delete documents, as in `ResultStore.forget`."""
        named = [self._keys.task(key) for key in keys]
        for start in range(0, len(named), READ_KEYS):
            some = named[start : start + READ_KEYS]
            self._do(_command("DEL", *some))

    # -- groups -------------------------------------------------------------------------------

    def save_group(self, group_id: str, document: bytes, expires_s: float | None) -> None:
        """Write a group, as in `ResultStore.save_group`."""
        key, ttl_ms = self._keys.group(group_id), lifetime_ms(expires_s)
        ends = ("PX", ttl_ms) if ttl_ms else ()
        self._do(_command("SET", key, document, *ends))

    def get_group(self, group_id: str) -> bytes | None:
        """Read a group, as in `ResultStore.get_group`."""
        found: bytes | None = self._do(_command("GET", self._keys.group(group_id)))
        return found

    def forget_group(self, group_id: str) -> None:
        """Delete a group, as in `ResultStore.forget_group`."""
        self._do(_command("DEL", self._keys.group(group_id)))

    def expire(self, limit: int = 1000) -> int:
        """Nothing is left to do: the server drops what has expired by itself."""
        return 0

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        opened = self._mine()
        with opened.lock:
            opened.link.close()
        opened.pool.close()
        opened.waiting.close()

    # -- connections --------------------------------------------------------------------------

    def _do(self, operation: Callable[[Link], Any], *, storing: bool = False) -> Any:
        """Run an operation, which may safely run twice, and repeat it as the configuration says.

        :raises ResultStoreUnavailable: the server did not take it.
        """
        failed = 0
        while True:
            try:
                with self._link(storing) as link:
                    return operation(link)
            except BrokerUnavailable as error:
                failed += 1
                pause_s = self._rule.pause_s(failed, broken=not isinstance(error, BrokerFull))
                if pause_s is None:
                    raise ResultStoreUnavailable(str(error)) from error
            time.sleep(pause_s)

    @contextmanager
    def _link(self, storing: bool) -> Iterator[Link]:
        opened = self._mine()
        # Whoever stores waits for the lock: what was sent by `store_soon` before must stay before.
        if not opened.lock.acquire(blocking=storing):
            with opened.pool.link() as link:
                yield link
            return
        try:
            opened.link.bound(time.monotonic() + self.settings.publish_deadline_s)
            yield opened.link
        finally:
            opened.lock.release()
