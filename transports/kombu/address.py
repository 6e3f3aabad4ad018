"""Which of kombu's transports a URL means, and what it is opened with."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, get_transport_cls, virtual

from ..base import QueueDeclaration
from ..errors import TransportError, UnsupportedTransport
from ..url import parse_failover

PREFIX = "kombu+"

# What the engine tells every transport, and no transport of kombu knows: some of them refuse such options.
_OWN_OPTIONS = frozenset(
    {
        "app",
        "declarations",
        "keep_connections",
        "login_method",
        "max_connections",
        "missing_exchange_type",
        "missing_queue_type",
        "native_delayed_delivery_queue_type",
        "publish_deadline",
        "queue_max_priority",
        "quorum_queues",
        "socket_connect_timeout",
        "ssl",
    }
)
_POLL_S_LOCAL = 0.1
_POLL_S = 1.0


class InvalidOption(TransportError, ValueError):
    """An option of the bridge has a value that it cannot have.

    :param name: the option.
    :param value: as it is shown.
    :param why: what it must be.
    """

    def __init__(self, name: str, value: str, why: str) -> None:
        super().__init__(name, value, why)
        self.name = name
        self.value = value
        self.why = why

    def __str__(self) -> str:
        return f"the option {self.name} = {self.value} {self.why}"


@dataclass(frozen=True)
class Address:
    """One of kombu's transports, with its options.

    :param url: as kombu reads it.
    :param scheme: kombu's name of the transport.
    :param shown: the URL without its secrets.
    :param local: messages can be passed between the threads of one process only.
    :param takes: reading a message removes it from the broker, so that it goes with its reader.
    :param poll_s: how often to look for messages, in seconds.
    """

    url: str
    scheme: str
    shown: str
    options: Mapping[str, Any]
    declarations: Mapping[str, QueueDeclaration]
    connect_timeout_s: float | None
    ssl: Any
    login_method: str | None
    local: bool
    takes: bool
    poll_s: float

    @property
    def identity(self) -> str:
        """A name for the broker that is safe in a path and shows nothing of it."""
        folder = self.options.get("data_folder_in", "")
        return hashlib.sha256(f"{self.url}\n{folder}".encode()).hexdigest()[:24]


def known_schemes() -> tuple[str, ...]:
    """What kombu calls its transports."""
    return tuple(sorted({name.lower() for name in TRANSPORT_ALIASES}))


def knows(scheme: str) -> bool:
    """Whether kombu has a transport for the scheme of a URL."""
    return _kombu_name(scheme) in TRANSPORT_ALIASES


def _kombu_name(scheme: str) -> str:
    return scheme.removeprefix(PREFIX).partition("+")[0]


def read_address(url: str, options: Mapping[str, Any]) -> Address:
    """Read a URL and the options of a broker.

    :raises InvalidUrl: it is no URL.
    :raises UnsupportedTransport: kombu does not have it, or a package that it needs is missing.
    :raises InvalidOption: an option of ours has a value that it cannot have.
    """
    urls = parse_failover(url)
    scheme = _kombu_name(urls[0].scheme)
    transport = _transport_class(scheme)
    own = {name: value for name, value in options.items() if name not in _OWN_OPTIONS}
    if scheme == "sqs":
        own.setdefault("wait_time_seconds", 0)  # a look must not block for ten seconds
    if scheme == "filesystem" and urls[0].path.strip("/"):
        own = {**_folders(urls[0].path), **own}
    if scheme in ("amqp", "amqps", "pyamqp"):
        own.setdefault("confirm_publish", True)
    if scheme in ("sqla", "sqlalchemy"):
        # kombu keeps one engine per process, which a fork would copy with its connections.
        own.setdefault("poolclass", importlib.import_module("sqlalchemy.pool").NullPool)
    takes = _takes(transport)
    poll_s = _poll_s(own.pop("polling_interval", None), takes)
    return Address(
        url=";".join(one.strip().removeprefix(PREFIX) for one in url.split(";")),
        scheme=scheme,
        shown=";".join(map(str, urls)),
        options=own,
        declarations=options.get("declarations") or {},
        connect_timeout_s=options.get("socket_connect_timeout"),
        ssl=options.get("ssl"),
        login_method=options.get("login_method"),
        local=transport.driver_type == "memory",
        takes=takes,
        poll_s=poll_s,
    )


def _poll_s(given: Any, takes: bool) -> float:
    if given is None:
        return _POLL_S_LOCAL if takes else _POLL_S
    if isinstance(given, (int, float)) and given > 0:
        return float(given)
    raise InvalidOption("polling_interval", repr(given), "must be a number of seconds above 0")


def _folders(path: str) -> dict[str, str]:
    """The path of the URL as the one directory of messages, where the options do not say otherwise."""
    return {
        "data_folder_in": path,
        "data_folder_out": path,
        "control_folder": f"{path.rstrip('/')}/control",
    }


def _transport_class(scheme: str) -> Any:
    known = known_schemes()
    if scheme not in TRANSPORT_ALIASES:
        raise UnsupportedTransport(
            scheme, known, f"kombu has no transport {scheme!r} (it has: {', '.join(known)}); correct the URL"
        )
    try:
        return get_transport_cls(scheme)
    # AttributeError, NameError: a module of kombu that goes on without the library it needs.
    except (ImportError, AttributeError, NameError) as error:
        raise missing_library(scheme, error) from error


def missing_library(scheme: str, error: Exception) -> UnsupportedTransport:
    """The error about a library that one of kombu's transports needs."""
    return UnsupportedTransport(
        scheme,
        known_schemes(),
        f"{scheme}:// needs a package that is not installed ({error}); "
        f"install it, most often with pip install 'kombu[{scheme}]'",
    )


def _takes(transport: Any) -> bool:
    """Whether nothing is done at the broker when a message is acknowledged: it was gone before."""
    channel = getattr(transport, "Channel", None)
    if channel is None or not issubclass(channel, virtual.Channel):
        return False
    quality = channel.QoS
    return (
        channel.basic_ack is virtual.Channel.basic_ack
        and quality.ack is virtual.QoS.ack
        and quality.append is virtual.QoS.append
    )
