"""One AMQP connection: py-amqp for everything but the hot path, whose frames are read here.

A `Wire` belongs to one thread at a time (its users hold a lock) and to one process.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any

import amqp
from amqp.transport import SSLTransport, TCPTransport

from .frames import FRAME_END, HEAD, METHOD, WITH_CONTENT, Method

READ_BYTES = 1 << 18
_END = FRAME_END[0]
ANSWER_S = 5.0

# method, its arguments with their ids, the content header, the body
OnContent = Callable[[Method, bytes, bytes, bytes], None]
# True when the method was dealt with; else py-amqp does
OnMethod = Callable[[Method, bytes], bool]


class Garbled(OSError):
    """The peer does not speak AMQP; the connection is of no use any more."""


class _Tls(SSLTransport):  # type: ignore[misc]
    def _wrap_socket(self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str) -> Any:
        return context.wrap_socket(sock, server_hostname=server_hostname, do_handshake_on_connect=False)


class _Partial:
    """A message whose frames have not all come."""

    __slots__ = ("arguments", "header", "method", "missing", "pieces")

    def __init__(self, method: Method, arguments: bytes) -> None:
        self.method = method
        self.arguments = arguments
        self.header = b""
        self.missing = 0
        self.pieces: list[bytes] = []


class Wire(amqp.Connection):  # type: ignore[misc]
    """A connection whose frames are read in large pieces.

    :param tls: how to wrap the socket; None for plain TCP.
    """

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, server_hostname: str = "", **options: Any
    ) -> None:
        super().__init__(**options)
        self._tls = tls
        self._server_hostname = server_hostname
        self._buffer = b""
        self._offset = 0
        self._sinks: dict[int, tuple[OnContent, OnMethod]] = {}
        self._partial: dict[int, _Partial] = {}
        # Until when py-amqp may wait for an answer; written by whoever holds the lock.
        self.end_mono_s: float | None = None

    def Transport(self, host: str, connect_timeout: float | None, *_args: Any, **options: Any) -> Any:
        """The socket below; called by py-amqp."""
        settings = self.socket_settings
        if self._tls is None:
            return TCPTransport(host, connect_timeout=connect_timeout, socket_settings=settings)
        how = {"context": self._tls, "server_hostname": self._server_hostname}
        return _Tls(host, connect_timeout=connect_timeout, ssl=how, socket_settings=settings)

    def take(self, channel_id: int, on_content: OnContent, on_method: OnMethod) -> None:
        """Have the frames of a channel handed to these."""
        self._sinks[channel_id] = (on_content, on_method)

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return int(self.sock.fileno())

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send frames.

        :raises OSError: they could not all be sent; the connection is of no use any more.
        """
        self.sock.settimeout(max(timeout_s, 0.001))
        self.sock.sendall(data)

    def pump(self, timeout_s: float) -> bool:
        """Handle what has come; wait for something unless the time is 0. False: nothing came.

        :raises OSError: the connection was lost.
        :raises amqp.AMQPError: the broker closed the connection or a channel.
        """
        end_mono_s = monotonic() + timeout_s
        if self._handle() or (self._fill(timeout_s) and self._handle()):
            return True
        while (left_s := end_mono_s - monotonic()) > 0:
            if self._fill(left_s) and self._handle():
                return True
        return False

    def blocking_read(self, timeout: float | None = None) -> bool:
        """Handle at least one frame; called by py-amqp while it waits for an answer."""
        if timeout is None:
            timeout = ANSWER_S if self.end_mono_s is None else self.end_mono_s - monotonic()
        if not self.pump(max(timeout, 0.001)):
            raise TimeoutError("no answer of the broker in time")
        return True

    def _fill(self, timeout_s: float) -> bool:
        sock = self.sock
        sock.settimeout(max(timeout_s, 0.0))
        try:
            data = sock.recv(READ_BYTES)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return False
        if not data:
            raise ConnectionResetError("the broker closed the connection")
        self._buffer = self._buffer[self._offset :] + data
        self._offset = 0
        return True

    def _handle(self) -> bool:
        """Handle every whole frame in the buffer; whether there was one.

        py-amqp comes back to this from within a handler, when it opens a channel again: so the frame
        is counted as read before it is handled.
        """
        handled = False
        while True:
            buffer, begin = self._buffer, self._offset
            if len(buffer) - begin < 8:
                break
            kind, channel, length = HEAD.unpack_from(buffer, begin)
            if length > self.frame_max:
                raise Garbled(f"a frame of {length} bytes: the peer does not speak AMQP")
            end = begin + 7 + length
            if end >= len(buffer):
                break
            if buffer[end] != _END:
                raise Garbled("a frame without its end: the peer does not speak AMQP")
            self._offset = end + 1
            handled = True
            self._frame(kind, channel, buffer[begin + 7 : end])
        return handled

    def _frame(self, kind: int, channel: int, payload: bytes) -> None:
        sink = self._sinks.get(channel)
        if sink is None or kind > 3:
            if self.channels is not None and channel in self.channels:
                self.on_inbound_frame((kind, channel, payload))
            return  # else it was sent before the broker knew that the channel is closed
        if kind == 1:
            method: Method = METHOD.unpack_from(payload)
            if method in WITH_CONTENT:
                self._partial[channel] = _Partial(method, payload)
            elif not sink[1](method, payload):
                self.on_inbound_frame((kind, channel, payload))
            return
        partial = self._partial.get(channel)
        if partial is None:
            raise Garbled("content without its method")
        if kind == 2:
            partial.header = payload
            partial.missing = int.from_bytes(payload[4:12], "big")
        else:
            partial.pieces.append(payload)
            partial.missing -= len(payload)
        if partial.missing <= 0:
            del self._partial[channel]
            body = partial.pieces[0] if len(partial.pieces) == 1 else b"".join(partial.pieces)
            sink[0](partial.method, partial.arguments, partial.header, body)

    def forget_channel(self, channel_id: int) -> None:
        """Hand its frames to nobody any more."""
        self._sinks.pop(channel_id, None)
        self._partial.pop(channel_id, None)
