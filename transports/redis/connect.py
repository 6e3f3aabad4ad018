"""Connects to a Redis server: socket, TLS, authentication, name, database, and the search for a primary."""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Sequence
from typing import Any

import hiredis

from ..errors import BrokerUnavailable, TransportError
from .address import Endpoint
from .faults import ServerError, from_reply, unreachable
from .settings import RedisSettings
from .tls_settings import TlsSettings
from .wire import Arg, Wire, pack

_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 3), (socket.TCP_KEEPCNT, 3))
# A server that has accepted greets at once. Whoever waits longer while the network swallows everything
# would still wait when it is back: within five seconds work goes on, pauses between attempts included.
_GREETING_S = 2.5


def open_wire(settings: RedisSettings, *, name: str, first: int, limit_s: float, protocol: int = 2) -> Wire:
    """Connect to the first server of the list that takes us.

    :param name: shown by ``CLIENT LIST``.
    :param first: which address of the list is tried first.
    :param limit_s: total time for all of them.
    :param protocol: 2, or 3 where push messages are wanted.
    :raises BrokerUnavailable: none took us; no command was sent.
    """
    until_mono_s = time.monotonic() + limit_s
    failures: list[str] = []
    count = len(settings.endpoints)
    for offset in range(count):
        endpoint = settings.endpoints[(first + offset) % count]
        left_s = until_mono_s - time.monotonic()
        if left_s <= 0.0:
            failures.append("no time is left for the others")
            break
        # The last ones of a long list must get a chance, too.
        share_s = min(settings.connect_timeout_s, max(left_s / (count - offset), min(left_s, 0.5)))
        try:
            if settings.sentinel is None:
                # Of several servers, those that follow another one would refuse all that is written.
                return _open_one(settings, endpoint, name, share_s, protocol, primary=count > 1)
            return _through_sentinel(settings, endpoint, name, share_s, protocol)
        except TransportError as error:
            if count == 1:
                raise
            failures.append(str(error))
    raise BrokerUnavailable("; ".join(failures))


def _open_one(
    settings: RedisSettings,
    endpoint: Endpoint,
    name: str,
    limit_s: float,
    protocol: int,
    *,
    primary: bool = False,
) -> Wire:
    commands = [*_login(settings, endpoint, protocol)]
    required = len(commands)
    if settings.db:
        commands.append(("SELECT", settings.db))
        required += 1
    if primary:
        commands.append(("ROLE",))
    if name:
        commands.append(("CLIENT", "SETNAME", name))
    wire = _dial(settings, endpoint, settings.tls, limit_s)
    try:
        replies = _ask(wire, commands, required, settings.user)
        if primary:
            _check_role(wire, replies[required])
    except BaseException:
        wire.close()
        raise
    return wire


def _login(settings: RedisSettings, endpoint: Endpoint, protocol: int) -> list[tuple[Arg, ...]]:
    if settings.credential_provider is not None:
        try:
            given = tuple(settings.credential_provider.get_credentials())
        except Exception as error:  # noqa: BLE001  (what a user's provider raises; its text may be secret)
            raise unreachable(
                str(endpoint), f"the credential provider failed with {type(error).__name__}"
            ) from None
    elif settings.password is not None or settings.user is not None:
        given = (settings.user, settings.password or "") if settings.user else (settings.password,)
    else:
        given = ()
    return _hello(given, protocol)


def _hello(credentials: Sequence[Any], protocol: int) -> list[tuple[Arg, ...]]:
    if protocol == 3:
        pair = ("default", credentials[0]) if len(credentials) == 1 else tuple(credentials)
        return [("HELLO", 3, "AUTH", *pair)] if pair else [("HELLO", 3)]
    return [("AUTH", *credentials)] if credentials else []


def _ask(wire: Wire, commands: Sequence[Sequence[Arg]], required: int, user: str | None) -> list[Any]:
    """One round trip; the first `required` commands must succeed."""
    if not commands:
        return []
    replies: list[Any] = []
    try:
        try:
            wire.write(b"".join([pack(command) for command in commands]))
        finally:
            # Also when it cannot be written: a server with too many clients says so, and closes.
            while len(replies) < len(commands):
                replies.append(wire.read())
    except (OSError, hiredis.HiredisError) as error:
        if not (replies and isinstance(replies[0], ServerError)):
            raise unreachable(wire.where, error) from None
    for index, reply in enumerate(replies):
        # What is not required may be forbidden to the user, but not fail because no more are let in.
        if isinstance(reply, ServerError) and (index < required or reply.text.startswith("ERR max")):
            raise from_reply(reply, where=wire.where, user=user, command=str(commands[index][0]))
    if len(replies) < len(commands):
        raise unreachable(wire.where, "it closed the connection")
    return replies


def _check_role(wire: Wire, reply: Any) -> None:
    # A server that does not let us ask is believed: its first write will show what it is.
    if isinstance(reply, list) and reply and reply[0] != b"master":
        raise unreachable(wire.where, "it is a replica, or not the primary yet (failover)")


def _dial(settings: RedisSettings, endpoint: Endpoint, tls: TlsSettings | None, limit_s: float) -> Wire:
    until_mono_s = time.monotonic() + limit_s
    where = str(endpoint)
    try:
        sock = _socket(settings, endpoint, until_mono_s)
        try:
            if tls is not None:
                sock.settimeout(max(until_mono_s - time.monotonic(), 0.001))
                # Imported here and not above: most connections are plain, and the library is large.
                secure = importlib.import_module(".tls", __package__)
                sock = secure.wrap(sock, tls, endpoint.host)
            wire = Wire(sock, where, wrapped=tls is not None)
            wire.begin(min(max(until_mono_s - time.monotonic(), 0.001), _GREETING_S))
        except BaseException:
            sock.close()
            raise
    except TimeoutError:
        raise unreachable(where, f"it did not accept a connection within {limit_s:.3g} s") from None
    # A ValueError: a name that no host can have, or one that no certificate can bear.
    except (OSError, ValueError) as error:
        raise unreachable(where, error) from None
    return wire


def _socket(settings: RedisSettings, endpoint: Endpoint, until_mono_s: float) -> socket.socket:
    if endpoint.path:
        return _connected(socket.AF_UNIX, endpoint.path, (), until_mono_s)
    options: list[tuple[int, int, int]] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    if settings.keepalive:
        options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
        options += [(socket.IPPROTO_TCP, *pair) for pair in settings.keepalive_options or _KEEPALIVE]
    # How long what was sent may stay unacknowledged: notices a vanished server while we only write.
    unanswered_ms = int(max(settings.socket_timeout_s, 1.0) * 1000)
    options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unanswered_ms))
    failure: OSError | None = None
    for family, _type, _protocol, _name, address in socket.getaddrinfo(
        endpoint.host, endpoint.port, 0, socket.SOCK_STREAM
    ):
        try:
            return _connected(family, address, options, until_mono_s)
        except OSError as error:
            failure = error
    raise failure or OSError("its name has no address")


def _connected(
    family: int, address: Any, options: Sequence[tuple[int, int, int]], until_mono_s: float
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        for level, option, value in options:
            sock.setsockopt(level, option, value)
        left_s = until_mono_s - time.monotonic()
        if left_s <= 0.0:
            raise TimeoutError("no time was left to connect")
        sock.settimeout(left_s)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _through_sentinel(
    settings: RedisSettings, endpoint: Endpoint, name: str, limit_s: float, protocol: int
) -> Wire:
    until_mono_s = time.monotonic() + limit_s
    primary = _primary(settings, endpoint, limit_s / 2)
    return _open_one(
        settings, primary, name, max(until_mono_s - time.monotonic(), 0.001), protocol, primary=True
    )


def _primary(settings: RedisSettings, endpoint: Endpoint, limit_s: float) -> Endpoint:
    sentinel = settings.sentinel
    assert sentinel is not None
    credentials: tuple[Any, ...] = ()
    if sentinel.password is not None:
        credentials = (sentinel.user, sentinel.password) if sentinel.user else (sentinel.password,)
    commands: list[tuple[Arg, ...]] = [*_hello(credentials, 2)]
    commands.append(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", sentinel.service))
    if sentinel.min_others:
        commands.append(("SENTINEL", "MASTER", sentinel.service))
    wire = _dial(settings, endpoint, sentinel.tls, limit_s)
    try:
        replies = _ask(wire, commands, len(commands), sentinel.user)
    finally:
        wire.close()
    if sentinel.min_others:
        fields = replies.pop()
        known = int(dict(zip(fields[::2], fields[1::2])).get(b"num-other-sentinels", 0))
        if known < sentinel.min_others:
            raise unreachable(wire.where, f"this sentinel knows only {known} others")
    if not replies[-1]:
        raise unreachable(wire.where, f"this sentinel knows no primary of {sentinel.service!r}")
    host, port = replies[-1]
    return Endpoint(host=host.decode(), port=int(port))
