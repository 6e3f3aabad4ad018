"""A socket to one Redis server, and the parser of what comes back.

Every wait ends, unless the process gets signals less than some 10 ms apart all the time. Plain sockets carry
a short time limit in the kernel: one system call per send and per receive is enough for what comes soon,
where Python's own timeouts poll before each. What takes longer is polled for until the deadline. The kernel's
limit begins anew whenever a signal (or a stop) interrupts the call; were it the deadline, a process that gets
a signal a second would wait for a silent server for ever. TLS sockets have Python's timeout.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from .faults import ServerError

Arg = bytes | str | int | float

_BUFFER_BYTES = 65536
_SLACK_S = 0.05
# What comes within this time needs no poll. The kernel counts in ticks: it may take 8.
_SOON = struct.pack("ll", 0, 5_000)
_NOT_ANSWERED = "it did not answer in time"
_NOT_TAKEN = "it did not take a command in time"
_CHANGED = "its socket was made non-blocking by somebody else, who may have written into it"
_FEW = 16
_MISSING = object()
# A packet for each of many small commands costs more than the commands.
_MORE = socket.MSG_MORE
_pack_few = cast("Callable[[tuple[Arg, ...]], bytes]", hiredis.pack_command)


def pack(args: Sequence[Arg]) -> bytes:
    """One command, as the server reads it. Numbers become text, text becomes UTF-8.

    :raises TypeError: an argument is of no such type.
    """
    if len(args) <= _FEW:
        return _pack_few(tuple(args))
    # The C function above grows its buffer argument by argument, which takes twice as long as this.
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        data = arg if type(arg) is bytes else _encoded(arg)
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def _encoded(arg: Arg) -> bytes:
    if isinstance(arg, bytes):
        return arg
    if isinstance(arg, str):
        return arg.encode()
    if isinstance(arg, bool) or not isinstance(arg, (int, float)):
        raise TypeError(f"an argument of a Redis command must be bytes, text or a number, not {arg!r}")
    return repr(arg).encode()


class Wire:
    """One connected socket. Whoever gets an error from it throws it away.

    :param where: the server, for messages.
    :param wrapped: TLS; its timeouts are Python's.
    """

    __slots__ = (
        "_buffer",
        "_feed",
        "_gets",
        "_limit_s",
        "_reader",
        "_sock",
        "_until_mono_s",
        "_wrapped",
        "sent_bytes",
        "where",
    )

    def __init__(self, sock: socket.socket, where: str, *, wrapped: bool) -> None:
        self._sock = sock
        self.where = where
        self._wrapped = wrapped
        self._buffer = bytearray(_BUFFER_BYTES)
        self._reader = hiredis.Reader(replyError=ServerError, notEnoughData=_MISSING)
        self._gets = self._reader.gets
        self._feed = cast("Callable[[bytearray, int, int], None]", self._reader.feed)
        self._limit_s = 0.0
        self._until_mono_s = 0.0
        self.sent_bytes = (
            0  # of the last `write`; fewer than all: the server cannot have run its last command
        )
        if not wrapped:
            sock.settimeout(None)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SOON)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SOON)

    def begin(self, limit_s: float) -> None:
        """From now on everything up to the next call of this takes at most so long."""
        self._until_mono_s = time.monotonic() + limit_s
        if self._wrapped and not -_SLACK_S <= limit_s - self._limit_s <= 0.0:
            self._apply(limit_s)

    def _apply(self, limit_s: float) -> None:
        self._limit_s = limit_s = max(limit_s, 0.001)
        self._sock.settimeout(limit_s)

    def _less(self) -> None:
        """Before a further wait within the same `begin`."""
        left_s = self._until_mono_s - time.monotonic()
        if left_s <= 0.0:
            raise TimeoutError(_NOT_ANSWERED)
        if self._wrapped and left_s < self._limit_s - _SLACK_S:
            self._apply(left_s)

    def _await(self, event: int, otherwise: str) -> None:
        """Wait until the socket is ready, at most until the deadline.

        Not on a socket that a task has had its hands on: with bytes of others before it a command may never
        be understood, nor answered.
        """
        if not os.get_blocking(self._sock.fileno()):
            raise TimeoutError(_CHANGED)
        left_s = self._until_mono_s - time.monotonic()
        poller = select.poll()
        poller.register(self._sock, event)
        # Interrupted, it goes on with what is left of the time.
        if left_s <= 0.0 or not poller.poll(left_s * 1000):
            raise TimeoutError(otherwise)

    def write(self, data: bytes, *, more: bool = False) -> None:
        """Send everything.

        :param more: something follows: the system may keep this until then, at most 200 ms (a TCP socket
            does, any other sends at once).
        :raises OSError: also for a timeout; `sent_bytes` says how much the system took.
        """
        self.sent_bytes = 0
        try:
            sent = self._sock.send(data, _MORE) if more and not self._wrapped else self._sock.send(data)
        except BlockingIOError:
            sent = 0
            self._await(select.POLLOUT, _NOT_TAKEN)
        self.sent_bytes = sent
        if sent != len(data):
            self._write_rest(memoryview(data))

    def _write_rest(self, data: memoryview) -> None:
        while self.sent_bytes < len(data):
            self._less()
            try:
                self.sent_bytes += self._sock.send(data[self.sent_bytes :])
            except BlockingIOError:
                self._await(select.POLLOUT, _NOT_TAKEN)

    def read(self) -> Any:
        """The next reply or push message; an error reply is returned as a `ServerError`.

        :raises OSError: the connection broke, or the time was over.
        :raises hiredis.ProtocolError: what came is no reply.
        """
        reply = self._gets()
        while reply is _MISSING:
            try:
                got = self._sock.recv_into(self._buffer)
            except BlockingIOError:
                self._await(select.POLLIN, _NOT_ANSWERED)
                continue
            if not got:
                raise ConnectionResetError("it closed the connection")
            self._feed(self._buffer, 0, got)
            reply = self._gets()
            if reply is _MISSING:
                self._less()
        return reply

    def send_command(self, *args: Arg) -> None:
        """Send one command without waiting for its reply."""
        self.write(pack(args))

    def read_response(self, timeout_s: float) -> Any:
        """The next reply or push message, waiting for it at most so long (else `TimeoutError`)."""
        self.begin(timeout_s)
        return self.read()

    def can_read(self, timeout_s: float = 0.0) -> bool:
        """Whether something is there to be read, or the connection has ended."""
        if self._reader.has_data():
            return True
        if self._wrapped and self._sock.pending():  # type: ignore[attr-defined]
            return True
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))

    def fileno(self) -> int:
        """The descriptor of the socket. What the parser holds already does not make it readable."""
        return self._sock.fileno()

    @property
    def sock(self) -> socket.socket:
        """The socket, for somebody who reads it in a way of his own; nothing of it was read ahead."""
        return self._sock

    def close(self) -> None:
        """Close the descriptor, with no good-bye: another process may go on using the connection."""
        self._sock.close()

    disconnect = close
