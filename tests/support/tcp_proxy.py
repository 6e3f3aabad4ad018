"""A TCP proxy on threads of this process that breaks connections in the ways networks do."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

_CHUNK_BYTES = 65536
_JOIN_S = 10.0


class Mode(Enum):
    """What becomes of connections and of what comes over them."""

    PASS = "pass"
    RESET = "reset"
    """Every connection, old and new, is reset."""
    BLACK_HOLE = "black hole"
    """What comes is swallowed in both directions; nobody is told."""
    HALF_OPEN = "half open"
    """The server's side of a connection dies at its next request; the client's stays open and silent."""
    DELAY = "delay"
    """Each piece is kept for `delay_s` before it goes on."""
    ONE_BYTE = "one byte"
    """Byte after byte, each in a packet of its own."""
    CUT_AFTER_REQUEST = "cut after request"
    """A request reaches the server, its reply is thrown away, and the client's connection reset."""
    CUT_IN_REPLY = "cut in reply"
    """The client gets the first bytes of a reply, and then a reset."""


class _Pair:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.asked = threading.Event()  # a request was forwarded while requests were to be cut
        self.half_open = threading.Event()  # the server's side is dead, and the client is not told
        self.pumps: list[threading.Thread] = []

    def reset(self) -> None:
        for sock in (self.client, self.server):
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Wakes the thread that reads it; closing alone would not.
                sock.shutdown(socket.SHUT_RD)
            except OSError:
                pass  # closed already
            sock.close()

    def shut(self) -> None:
        for sock in (self.client, self.server):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # closed already
            sock.close()


class TcpProxy:
    """Listens on a free port of 127.0.0.1 and forwards to a server.

    :param target: a port of 127.0.0.1, or the path of a Unix socket.

    `hits` counts what was done to whom: by the value of the mode, and ``connections``.
    """

    def __init__(self, target: int | str) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._mode = Mode.PASS
        self._left: int | None = None
        self.delay_s = 0.05
        self.byte_pause_s = 0.0
        self.reply_bytes = 1
        self.hits: Counter[str] = Counter()
        self._pairs: set[_Pair] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode: Mode, *, times: int | None = None) -> None:
        """Behave so from now on; after `times` hits pass everything again."""
        with self._lock:
            self._mode = mode
            self._left = times
            pairs = list(self._pairs) if mode is Mode.RESET else []
            for pair in pairs:
                pair.asked.clear()
        for pair in pairs:
            self._hit(mode)
            self._drop(pair, reset=True)
        # A socket is closed when nobody reads it any more; then the other side has been told.
        for pump in [pump for pair in pairs for pump in pair.pumps]:
            pump.join(_JOIN_S)

    def close(self) -> None:
        """Stop listening, and close every connection."""
        self._closed = True
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already
        self._listener.close()
        for pair in list(self._pairs):
            self._drop(pair, reset=False)

    # -- threads ------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            self.hits["connections"] += 1
            try:
                server = self._connect()
            except OSError:
                client.close()
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            pair.pumps = [
                threading.Thread(target=self._pump, args=(pair, request), daemon=True)
                for request in (True, False)
            ]
            # Whoever sets the mode resets the pairs that there are: it is one of them, or sees the mode.
            with self._lock:
                resets = self._mode is Mode.RESET
                if not resets:
                    self._pairs.add(pair)
                    for pump in pair.pumps:
                        pump.start()
            if resets:
                self._hit(Mode.RESET)
                pair.reset()

    def _connect(self) -> socket.socket:
        if isinstance(self._target, str):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self._target)
            return sock
        sock = socket.create_connection(("127.0.0.1", self._target))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _pump(self, pair: _Pair, request: bool) -> None:
        source, target = (pair.client, pair.server) if request else (pair.server, pair.client)
        try:
            while data := source.recv(_CHUNK_BYTES):
                if not self._pass_on(pair, target, data, request):
                    break
        except OSError:
            pass  # one of the two is gone, and so will be the other
        if pair.half_open.is_set() and not request:
            return
        self._drop(pair, reset=False)

    def _pass_on(self, pair: _Pair, target: socket.socket, data: bytes, request: bool) -> bool:
        """Do to a piece what the mode says; False ends the connection."""
        mode = self._mode
        if pair.half_open.is_set():
            return True
        if mode is Mode.CUT_AFTER_REQUEST:
            if not request and pair.asked.is_set():
                self._hit(mode)
                self._drop(pair, reset=True)
                return False
            pair.asked.set()
        elif mode is Mode.CUT_IN_REPLY and not request:
            target.sendall(data[: self.reply_bytes])
            self._hit(mode)
            self._drop(pair, reset=True)
            return False
        elif mode is Mode.BLACK_HOLE:
            self._hit(mode)
            return True
        elif mode is Mode.HALF_OPEN:
            pair.half_open.set()
            self._hit(mode)
            pair.server.shutdown(socket.SHUT_RDWR)
            return True
        elif mode is Mode.DELAY:
            self._hit(mode)
            time.sleep(self.delay_s)
        elif mode is Mode.ONE_BYTE:
            self._hit(mode)
            for index in range(len(data)):
                target.sendall(data[index : index + 1])
                if self.byte_pause_s:
                    time.sleep(self.byte_pause_s)
            return True
        target.sendall(data)
        return True

    def _hit(self, mode: Mode) -> None:
        with self._lock:
            self.hits[mode.value] += 1
            if self._left is not None and self._mode is mode:
                self._left -= 1
                if self._left <= 0:
                    self._mode = Mode.PASS
                    self._left = None

    def _drop(self, pair: _Pair, *, reset: bool) -> None:
        with self._lock:
            known = pair in self._pairs
            self._pairs.discard(pair)
        if known:
            if reset:
                pair.reset()
            else:
                pair.shut()


@contextmanager
def tcp_proxy(target: int | str) -> Iterator[TcpProxy]:
    """A proxy before a server for as long as the block lasts."""
    proxy = TcpProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
