"""Results as messages: ``rpc://`` (interop §8.6).

Whoever calls names a queue of its own in ``reply_to``; a worker publishes each result document to it,
with the id of the task as ``correlation_id``. Only the process that called can read the results.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from time import monotonic, sleep
from types import MappingProxyType
from typing import Any

from ..base import StoredResult
from ..errors import BrokerUnavailable, ResultStoreUnavailable, Unroutable, UnsupportedTransport
from ..url import parse_failover
from .parcels import Parcel
from .publisher import Publisher
from .replies import Replies
from .settings import AmqpSettings, read_settings

SCHEMES = ("amqp", "amqps")
_TURN_S = 0.5
_RETRY_S = 0.2
_PATIENCE_S = 30.0
"""How long a wait goes on while the broker is away."""

_CONTENT: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "json": ("application/json", "utf-8"),
        "msgpack": ("application/x-msgpack", "binary"),
        "pickle": ("application/x-python-serialize", "binary"),
    }
)

_log = logging.getLogger("prefork.amqp")


def check_options(url: str, options: Mapping[str, Any]) -> None:
    """Refuse what `open_results` would refuse; connects to nothing."""
    _settings(options)
    _content(options)


def open_results(url: str, options: Mapping[str, Any]) -> RpcResults:
    """Open the results of the calls of this process. Connects to nothing; the first use does.

    :param url: ``rpc://``; the broker is that of the tasks.
    :param options: ``broker_url`` and ``broker_options``, ``result_serializer``, ``result_expires``
        (seconds) and ``result_persistent``.
    :raises UnsupportedTransport: the broker does not speak AMQP, or the serializer is not known.
    """
    expires_s = options.get("result_expires")
    return RpcResults(
        _settings(options),
        content=_content(options),
        expires_s=None if expires_s is None else float(expires_s),
        persistent=bool(options.get("result_persistent")),
    )


def _settings(options: Mapping[str, Any]) -> AmqpSettings:
    url = str(options.get("broker_url") or "")
    scheme = parse_failover(url)[0].scheme if url else "none"
    if scheme not in SCHEMES:
        raise UnsupportedTransport(
            "rpc",
            SCHEMES,
            f"rpc:// needs a broker that speaks AMQP (amqp://, amqps://), and this one is {scheme}://; "
            "set result_backend to a store of its own",
        )
    return read_settings(url, options.get("broker_options") or {})


def _content(options: Mapping[str, Any]) -> tuple[str, str]:
    serializer = str(options.get("result_serializer") or "json")
    for name, (content_type, encoding) in _CONTENT.items():
        if serializer in (name, content_type):
            return content_type, encoding
    raise UnsupportedTransport(
        "rpc",
        tuple(_CONTENT),
        f"rpc:// carries results of the serializers {', '.join(_CONTENT)}, not of {serializer!r}; "
        "set result_serializer to one of them",
    )


class RpcResults:
    """Implements `transports.base.ResultStore` for the calls of one process.

    :param content: content type and encoding of the documents.
    :param expires_s: how long replies, and an unused queue of them, are kept; None is a day.
    :param persistent: replies survive a restart of the broker.
    """

    def __init__(
        self,
        settings: AmqpSettings,
        *,
        content: tuple[str, str] = _CONTENT["json"],
        expires_s: float | None = None,
        persistent: bool = False,
    ) -> None:
        self._publisher = Publisher(settings, "results")
        self._replies = Replies(settings, expires_s)
        self._properties: dict[str, Any] = {
            "content_type": content[0],
            "content_encoding": content[1],
            "headers": {},
            "delivery_mode": 2 if persistent else 1,
            "priority": 0,
        }
        self._changed = threading.Condition()
        self._reading = False  # these two are written under _changed
        self._closed = False

    def listen(self) -> str:
        """The queue for ``reply_to``, which exists when this returns.

        :raises BrokerUnavailable: it cannot be declared.
        """
        return self._replies.listen()

    def store(self, results: Sequence[StoredResult]) -> None:
        """Send documents to those who wait for them, as in `ResultStore.store`; others get none.

        :raises ResultStoreUnavailable: the broker did not take them in time.
        """
        parcels = [self._parcel(result) for result in results if result.reply_to]
        if not parcels:
            return
        try:
            self._publisher.publish(parcels)
        except Unroutable as error:
            # Whoever called is gone, and nobody else can read a reply.
            _log.debug("a result is dropped: %s", error)
        except BrokerUnavailable as error:
            raise ResultStoreUnavailable(f"results cannot be sent: {error}") from error

    def _parcel(self, result: StoredResult) -> Parcel:
        properties = {**self._properties, "correlation_id": result.key}
        return Parcel("", result.reply_to, properties, result.document)

    def store_soon(self, results: Sequence[StoredResult]) -> None:
        """Send documents, as in `ResultStore.store_soon`."""
        self.store(results)

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The newest replies, as in `ResultStore.get`; none for calls of other processes."""
        if self._replies.listening:
            self._read(0.0)
        return [self._replies.newest(key) for key in keys]

    def wait(self, keys: Sequence[str], timeout_s: float | None) -> dict[str, bytes]:
        """Wait for final replies, as in `ResultStore.wait`. One thread reads for all.

        :raises ResultStoreUnavailable: the broker stayed away.
        """
        end_mono_s = None if timeout_s is None else monotonic() + timeout_s
        while True:
            found = self._replies.final(keys)
            left_s = _TURN_S if end_mono_s is None else min(_TURN_S, end_mono_s - monotonic())
            if found or not keys or self._closed:
                return found
            if left_s <= 0:
                # What has come already counts, however short the time.
                self._read(0.0)
                return self._replies.final(keys)
            self._read(left_s)

    def _read(self, timeout_s: float) -> None:
        """Read replies, or wait for the thread that does."""
        with self._changed:
            if self._reading or self._closed:
                if timeout_s > 0:
                    self._changed.wait(timeout_s)
                return
            self._reading = True
        try:
            self._read_patiently(timeout_s)
        finally:
            with self._changed:
                self._reading = False
                self._changed.notify_all()

    def _read_patiently(self, timeout_s: float) -> None:
        give_up_mono_s = monotonic() + _PATIENCE_S
        while not self._closed:
            try:
                self._replies.read(timeout_s)
                return
            except BrokerUnavailable as error:
                if timeout_s <= 0 or monotonic() > give_up_mono_s:
                    raise ResultStoreUnavailable(f"results cannot be read: {error}") from error
                sleep(min(_RETRY_S, timeout_s))

    def forget(self, keys: Sequence[str]) -> None:
        """Drop replies, as in `ResultStore.forget`."""
        self._replies.forget(keys)

    def save_group(self, group_id: str, document: bytes, expires_s: float | None) -> None:
        """Refuse: there is nowhere to keep a group.

        :raises ResultStoreUnavailable: always.
        """
        raise ResultStoreUnavailable(
            "rpc:// keeps no groups, because results are messages; use another result_backend, such as redis://"
        )

    def get_group(self, group_id: str) -> bytes | None:
        """None, as there are no groups."""
        return None

    def forget_group(self, group_id: str) -> None:
        """Nothing, as there are no groups."""

    def expire(self, limit: int = 1000) -> int:
        """Drop replies that nobody has fetched in time, as in `ResultStore.expire`."""
        return self._replies.expire(limit)

    def close(self) -> None:
        """Let waiters return, and close the connections. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._replies.close()
        self._publisher.close()
