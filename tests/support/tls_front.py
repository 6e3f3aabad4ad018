"""TLS in front of a server that was built without it: one thread per connection."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path


class TlsFront:
    """Serves TLS on a port of 127.0.0.1 with the files of a directory, and passes everything on.

    :param port: to listen on.
    :param behind: port of the plain server.
    :param certificates: the directory with ``server.crt`` and ``server.key``.
    :param clients: an authority; only clients with a certificate of it are let in.
    :param newest: the newest version of TLS that it speaks.
    """

    def __init__(
        self,
        port: int,
        behind: int,
        certificates: Path,
        *,
        clients: Path | None = None,
        newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ) -> None:
        self._behind = behind
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.maximum_version = newest
        if clients is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(clients)
        self._context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
        self._listener = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = [self._listener]  # written by the thread that accepts
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return  # closed
            self._open.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            secure = self._context.wrap_socket(sock, server_side=True)
            plain = socket.create_connection(("127.0.0.1", self._behind))
        except OSError:
            sock.close()  # refused by one of the two sides
            return
        self._open += [secure, plain]
        _pass_on(secure, plain)

    def close(self) -> None:
        """End all connections."""
        for sock in self._open:
            _end(sock)
            sock.close()


def _pass_on(secure: ssl.SSLSocket, plain: socket.socket) -> None:
    poller = select.poll()  # `select` knows no descriptors above 1023, which a long test run may have
    poller.register(secure, select.POLLIN)
    poller.register(plain, select.POLLIN)
    with suppress(OSError, ValueError):  # one side has gone, or both were closed; the other is told below
        while secure.fileno() >= 0 and plain.fileno() >= 0:  # else both were closed: poll would not wait
            # What is decrypted already makes no socket readable.
            ready = [secure.fileno()] if secure.pending() else [fd for fd, _event in poller.poll()]
            for source, target in ((secure, plain), (plain, secure)):
                if source.fileno() in ready:
                    data = source.recv(65536)
                    if not data:
                        raise OSError("the end")
                    target.sendall(data)
    _end(secure)
    _end(plain)


def _end(sock: socket.socket) -> None:
    with suppress(OSError):  # not connected any more
        sock.shutdown(socket.SHUT_RDWR)
