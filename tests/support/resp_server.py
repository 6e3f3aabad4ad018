"""A stub that speaks RESP and answers what a test says: for states that a real server is hardly in."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hiredis

Answer = Callable[[list[bytes]], bytes | None]
"""From a command to the bytes of its reply; None closes the connection without one."""


class RespServer:
    """Listens on a free port of 127.0.0.1; `commands` holds what was asked, by all connections."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.commands: list[list[bytes]] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _accept(self) -> None:
        while True:
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        reader = hiredis.Reader()
        with sock:
            while True:
                try:
                    data = sock.recv(65536)
                except OSError:
                    return
                if not data:
                    return
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    self.commands.append(command)
                    reply = self.answer(command)
                    if reply is None:
                        return
                    try:
                        sock.sendall(reply)
                    except OSError:
                        return

    def close(self) -> None:
        """Stop listening and close every connection."""
        for sock in [self._listener, *self._open]:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # closed already
            sock.close()


@contextmanager
def resp_server(answer: Answer) -> Iterator[RespServer]:
    """A stub for as long as the block lasts."""
    server = RespServer(answer)
    try:
        yield server
    finally:
        server.close()
