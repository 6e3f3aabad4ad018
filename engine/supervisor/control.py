"""The supervisor's end of the control socket: answers from what it knows, waits for nobody."""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Mapping
from typing import Any, Final, Protocol

from ..clock import mono_ns
from ..control_socket import (
    REQUEST_BYTES_MAX,
    ControlError,
    decode_line,
    encode_line,
    remove_abandoned,
    require_peer,
    runtime_directory,
    socket_path,
)
from .context import Context
from .options import CONCURRENCY_MAX
from .poller import Kind, Source

_CLIENTS_MAX: Final = 32
_CLIENT_S: Final = 10.0
_BACKLOG: Final = 64
_ACCEPTS_PER_TURN: Final = 8
_PAUSE_S: Final = 1.0
_GRACE_MAX_S: Final = 10.0 * 365 * 86400


class Answering(Protocol):
    """What the control socket needs of the supervisor."""

    def health(self, now_ns: int) -> dict[str, Any]:
        """Whether the worker is ready, and why not."""

    def stats(self, now_ns: int) -> dict[str, Any]:
        """Everything that is counted."""

    def active(self, now_ns: int) -> dict[str, Any]:
        """What runs."""

    def scale(self, target: int) -> None:
        """Have another number of children."""

    def stop(self, graceful_s: float | None, now_s: float) -> None:
        """Stop."""


class Client:
    """One connection. Written by the supervisor's loop only."""

    __slots__ = ("connection", "expires_s", "received", "unsent")

    def __init__(self, connection: socket.socket, expires_s: float) -> None:
        self.connection = connection
        self.expires_s = expires_s
        self.received = bytearray()
        self.unsent = bytearray()


class Control:
    """Listens, reads requests as they come, writes answers as they are taken.

    :ivar path: of the socket; empty when there is none.
    """

    def __init__(self, context: Context, worker: Answering) -> None:
        self._context = context
        self._worker = worker
        self._listener: socket.socket | None = None
        self._clients: dict[int, Client] = {}
        self._resume_s = 0.0  # when to listen again; 0 while listening
        self.path = ""

    def open(self, environ: Mapping[str, str]) -> None:
        """Listen. A worker that cannot have a control socket runs without, and says so."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            directory = runtime_directory(environ, create=True)
            path = socket_path(directory, self._context.node, os.getpid())
            remove_abandoned(directory)
            if os.path.lexists(path):
                os.unlink(path)  # of a process that had our pid and is gone
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(_BACKLOG)
        except (OSError, ControlError) as error:
            listener.close()
            self._context.log.error("no control socket: %s", error)
            return
        self._listener, self.path = listener, path
        self._context.poller.add(listener.fileno(), Source(Kind.CONTROL))

    def accept(self, now_s: float) -> None:
        """Take the connections that wait, those of this user and of root."""
        for _ in range(_ACCEPTS_PER_TURN):
            if self._listener is None:
                return
            try:
                connection, _peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Out of descriptors, most likely; asking again at once would be a loop.
                self._context.log.warning("control connections are not accepted for a while: %s", error)
                self._context.poller.remove(self._listener.fileno())
                self._resume_s = now_s + _PAUSE_S
                return
            self._take(connection, now_s)

    def _take(self, connection: socket.socket, now_s: float) -> None:
        try:
            require_peer(connection, self.path)
        except ControlError as error:
            self._context.log.warning("control connection refused: %s", error)
            connection.close()
            return
        if len(self._clients) >= _CLIENTS_MAX:
            self._drop(min(self._clients.values(), key=lambda client: client.expires_s))
        connection.setblocking(False)
        client = self._clients[connection.fileno()] = Client(connection, now_s + _CLIENT_S)
        self._context.poller.add(connection.fileno(), Source(Kind.CONTROL_CLIENT, client))

    def serve(self, client: Client, mask: int) -> None:
        """Go on with a connection as far as it goes without waiting."""
        if self._clients.get(client.connection.fileno()) is not client:
            return
        try:
            if mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                data = client.connection.recv(REQUEST_BYTES_MAX)
                if not data:
                    self._drop(client)
                    return
                client.received += data
            self._answer_lines(client)
            self._write(client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)  # the other end has gone; there is nobody to be told

    def _answer_lines(self, client: Client) -> None:
        line, found, rest = client.received.partition(b"\n")
        if found and not client.unsent:
            client.received = rest
            client.unsent += encode_line(self._answer(bytes(line)))
        elif len(client.received) > REQUEST_BYTES_MAX:
            client.received.clear()
            client.unsent += encode_line({"error": f"a request has at most {REQUEST_BYTES_MAX} bytes"})

    def _write(self, client: Client) -> None:
        if client.unsent:
            try:
                sent = client.connection.send(client.unsent)
            except BlockingIOError:
                sent = 0
            del client.unsent[:sent]
        events = select.EPOLLOUT if client.unsent or b"\n" in client.received else select.EPOLLIN
        self._context.poller.change(client.connection.fileno(), events)

    def _answer(self, line: bytes) -> dict[str, Any]:
        message = decode_line(line)
        now_ns = mono_ns()
        match message:
            case {"op": "health"}:
                return self._worker.health(now_ns)
            case {"op": "stats"}:
                return self._worker.stats(now_ns)
            case {"op": "active"}:
                return self._worker.active(now_ns)
            case {"op": "modules"}:
                # What this process has imported: it must stay small, and free of the application.
                return {"modules": sorted(sys.modules)}
            case {"op": "scale", "n": int(target)} if target is not True and 1 <= target <= CONCURRENCY_MAX:
                self._worker.scale(target)
                return {"ok": True, "target": target}
            case {"op": "scale"}:
                return {"error": f"scale: n must be an integer from 1 to {CONCURRENCY_MAX}"}
            case {"op": "stop", "graceful_s": graceful_s} if _is_duration(graceful_s):
                self._worker.stop(graceful_s, now_ns / 1e9)
                return {"ok": True}
            case {"op": "stop"}:
                return {"error": "stop: graceful_s must be a number of seconds, or null for no bound"}
            case {"op": op}:
                return {
                    "error": f"{op!r:.60} is no request; health, stats, active, modules, scale and stop are"
                }
            case _:
                return {"error": "not a request: a JSON object with the member 'op' is"}

    def expire(self, now_s: float) -> None:
        """Drop connections that have stayed too long; listen again after a pause."""
        if self._resume_s and now_s > self._resume_s and self._listener is not None:
            self._resume_s = 0.0
            self._context.poller.add(self._listener.fileno(), Source(Kind.CONTROL))
        for client in [client for client in self._clients.values() if now_s > client.expires_s]:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        fd = client.connection.fileno()
        self._context.poller.remove(fd)
        self._clients.pop(fd, None)
        client.connection.close()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        for client in list(self._clients.values()):
            self._drop(client)
        if self._listener is None:
            return
        self._context.poller.remove(self._listener.fileno())
        self._listener.close()
        self._listener = None
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            self._context.log.debug("the control socket had been removed already")


def _is_duration(value: object) -> bool:
    """Seconds, or None. A truth value is no number here, nor is NaN, nor what no clock can count to."""
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _GRACE_MAX_S
