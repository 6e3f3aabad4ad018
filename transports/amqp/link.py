"""A connection that is opened on use, given up after any doubt, and opened again.

Used under its lock. It belongs to the process that opened it: after a fork the child lets go of the
descriptor without a word to the broker, and opens its own.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import amqp

from ..errors import BrokerUnavailable
from ..url import redact
from .settings import AmqpSettings, Endpoint
from .wire import Wire

_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}
# TCP_USER_TIMEOUT takes the place of heartbeats, which a child that runs a task could not send.
_SOCKET_OPTIONS = {
    getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)
}
_CLOSE_S = 1.0

_log = logging.getLogger("prefork.amqp")

# What py-amqp and the socket raise when the connection is of no use any more. A MessageNacked or a
# channel error is no such thing, and whoever may cause one handles it.
CONNECTION_ERRORS = (OSError, amqp.exceptions.ConnectionError)
CHANNEL_ERRORS = (amqp.exceptions.ChannelError,)


class Link:
    """At most one connection, and the number of how many there have been.

    :param purpose: shown at the broker as the name of the connection.
    :param heartbeat_s: how soon the broker gives up a connection that is silent, about twice that; 0
        for one that a process keeps while it runs a task.
    :ivar generation: counts connections; what was obtained in another one is void.
    :ivar blocked: the broker takes no messages (memory or disk alarm); written while frames are read.
    """

    def __init__(self, settings: AmqpSettings, purpose: str, *, heartbeat_s: int = 0) -> None:
        self.settings = settings
        self._heartbeat_s = heartbeat_s
        self.lock = threading.RLock()
        self.generation = 0
        self.blocked = False
        self._purpose = purpose
        self._wire: Wire | None = None
        self._pid = os.getpid()
        self._next_endpoint = 0

    @property
    def is_open(self) -> bool:
        """Whether there is a connection of this process, as far as is known."""
        return self._wire is not None and self._pid == os.getpid()

    def renew_after_fork(self) -> None:
        """In a child of the process that opened it: let go of everything, the lock included."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.lock = threading.RLock()
            wire, self._wire = self._wire, None
            if wire is not None:
                _let_go(wire)

    def wire(self, end_mono_s: float) -> Wire:
        """The connection; a new one, from the next server of the list, if there is none.

        :raises BrokerUnavailable: no server could be reached in time.
        """
        self.renew_after_fork()
        if self._wire is None:
            self._wire = self._connect(end_mono_s)
            self.generation += 1
        return self._wire

    def current(self) -> Wire | None:
        """The connection if there is one."""
        return self._wire if self.is_open else None

    def split(self) -> Link:
        """Hand the connection to a link of its own; this one opens another on use."""
        other = Link(self.settings, self._purpose, heartbeat_s=self._heartbeat_s)
        wire, self._wire = self._wire, None
        other.blocked, self.blocked = self.blocked, False
        if wire is not None:
            other._wire = wire
            wire.on_blocked, wire.on_unblocked = other._on_blocked, other._on_unblocked
        return other

    def required(self) -> Wire:
        """The connection, which there must be.

        :raises BrokerUnavailable: there is none any more.
        """
        wire = self.current()
        if wire is None:
            raise BrokerUnavailable("the connection to RabbitMQ was lost; it returns what was held")
        return wire

    def _connect(self, end_mono_s: float) -> Wire:
        failures: list[str] = []
        endpoints = self.settings.endpoints
        for _ in endpoints:
            endpoint = endpoints[self._next_endpoint % len(endpoints)]
            left_s = min(self.settings.connect_timeout_s, end_mono_s - monotonic())
            if left_s <= 0:
                break
            try:
                return self._try(endpoint, left_s)
            except (*CONNECTION_ERRORS, *CHANNEL_ERRORS) as error:
                failures.append(f"{endpoint.shown}: {_said(error)}")
                self._next_endpoint += 1
        raise BrokerUnavailable(
            f"RabbitMQ cannot be reached: {'; '.join(failures) or 'no time is left'}. "
            "Check that it runs, and address, credentials and virtual host in broker_url"
        )

    def _try(self, endpoint: Endpoint, timeout_s: float) -> Wire:
        self.blocked = False
        wire = Wire(
            tls=self.settings.tls,
            server_hostname=self.settings.tls_server_name or endpoint.host,
            host=f"[{endpoint.host}]:{endpoint.port}"
            if ":" in endpoint.host
            else f"{endpoint.host}:{endpoint.port}",
            userid=endpoint.user,
            password=endpoint.password,
            login_method=self.settings.login_method,
            virtual_host=endpoint.virtual_host,
            connect_timeout=timeout_s,
            heartbeat=self._heartbeat_s,
            socket_settings=_SOCKET_OPTIONS,
            on_blocked=self._on_blocked,
            on_unblocked=self._on_unblocked,
            client_properties={
                "product": "prefork",
                "connection_name": f"prefork {self._purpose} {socket.gethostname()}:{os.getpid()}",
            },
        )
        try:
            wire.connect()
        except BaseException:
            _let_go(wire)
            raise
        return wire

    def _on_blocked(self, reason: str) -> None:
        self.blocked = True
        _log.warning("RabbitMQ takes no messages (memory or disk alarm): %s", redact(str(reason)))

    def _on_unblocked(self) -> None:
        self.blocked = False

    @contextmanager
    def guarded(self, doing: str, *, outcome_unknown: bool = False) -> Iterator[None]:
        """Give the connection up, and say so as `BrokerUnavailable`, when it fails within the block.

        Anything else that breaks into the block (a time limit's exception in the middle of a frame)
        gives it up as well, and is passed on; errors of a channel are the caller's.
        """
        try:
            yield
        except CONNECTION_ERRORS as error:
            self.drop()
            raise BrokerUnavailable(
                f"RabbitMQ was lost while {doing}: {_said(error)}", outcome_unknown=outcome_unknown
            ) from error
        except (*CHANNEL_ERRORS, BrokerUnavailable):
            raise
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Close the socket, as if the process had died: the broker returns what was held."""
        wire, self._wire = self._wire, None
        if wire is not None:
            _let_go(wire)

    def close(self) -> None:
        """Take leave of the broker. Safe to call twice."""
        self.renew_after_fork()
        wire, self._wire = self._wire, None
        if wire is None:
            return
        try:
            wire.sock.settimeout(_CLOSE_S)
            wire.close()
        except (*CONNECTION_ERRORS, *CHANNEL_ERRORS) as error:
            # The broker notices by itself that the socket is closed.
            _log.debug("closing: %s", _said(error))
        finally:
            _let_go(wire)


def _let_go(wire: Any) -> None:
    """Close the descriptor and nothing else: another process may use the connection."""
    transport = wire._transport
    sock = None if transport is None else transport.sock
    if sock is not None and sock.fileno() >= 0:
        sock.close()


def _said(error: BaseException) -> str:
    text = redact(str(error) or type(error).__name__)
    return text[:500]
