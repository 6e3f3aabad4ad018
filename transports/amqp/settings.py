"""One frozen description of a RabbitMQ broker, from its URL and its options."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..base import QueueDeclaration
from ..declarations import DIRECT_EXCHANGE, named, original, takes
from ..errors import TransportError
from ..url import Url, parse_failover

DEFAULT_PORT = 5672
DEFAULT_TLS_PORT = 5671
QUEUE_TYPES = ("classic", "quorum")
DEAD_QUEUE = "prefork.dead"


class InvalidOption(TransportError, ValueError):
    """An option of the broker has a value that it cannot have.

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
        return f"broker option {self.name}={self.value}: {self.why}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server of a failover list.

    :param shown: without secrets.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    virtual_host: str
    shown: str


@dataclass(frozen=True, slots=True)
class AmqpSettings:
    """Everything that connections and the transport need to know.

    :param endpoints: tried in turn, from the one that worked last.
    :param connect_timeout_s: of one attempt.
    :param publish_timeout_s: total time of one publish: connect, declare, send, confirm.
    :param confirms: wait for the broker to say that it has a message (publisher confirms).
    :param tls: None for plain TCP; else it verifies chain and host name, unless an option says otherwise.
    :param tls_server_name: the name that the server's certificate must bear; empty for its host's.
    :param declarations: how queues are described (interop §6.1).
    :param missing_arguments: of a queue that nobody describes.
    :param missing_exchange_type: of its exchange.
    :param ladder_type: type of the queues of the delay ladder.
    :param dead_queue: where dead letters lie.
    :param held_ttl_ms: how long a suspect that was about to start stays with nobody.
    :param redelivery_pause_s: how long a message rests after the process that held it vanished, so that
        whoever ended that process can say so first.
    :param consumer_timeout_s: what the broker's own setting is; it cannot be read.
    """

    endpoints: tuple[Endpoint, ...]
    shown: str
    connect_timeout_s: float = 4.0
    publish_timeout_s: float = 5.0
    confirms: bool = True
    login_method: str = "PLAIN"
    tls: ssl.SSLContext | None = None
    tls_server_name: str = ""
    declarations: Mapping[str, QueueDeclaration] = field(default_factory=dict)
    missing_arguments: Mapping[str, Any] = field(default_factory=dict)
    missing_exchange_type: str = "direct"
    ladder_type: str = "quorum"
    dead_queue: str = DEAD_QUEUE
    held_ttl_ms: int = 5000
    redelivery_pause_s: float = 0.5
    consumer_timeout_s: float = 1800.0

    def leads(self, exchange: str, routing_key: str) -> bool:
        """Whether an exchange hands a routing key to a queue that is configured here."""
        return any(takes(one, exchange, routing_key) for one in self.declarations.values())

    def is_broadcast(self, exchange: str) -> bool:
        """Whether it is one of those that need not lead anywhere, while no worker is there."""
        return any(one.exchange == exchange and one.broadcast for one in self.declarations.values())

    def is_copy(self, queue: str) -> bool:
        """Whether it is a queue with the copies of a broadcast for one worker."""
        described = self.declarations.get(original(queue))
        return described is not None and described.broadcast

    def declaration(self, queue: str) -> QueueDeclaration:
        """How a queue is described; one that is not configured as Celery describes it (interop §6.1)."""
        found = named(queue, self.declarations)
        if found is not None and found.exchange == DIRECT_EXCHANGE and not found.arguments:
            shared = {key: one for key, one in self.missing_arguments.items() if key == "x-max-priority"}
            return msgspec.structs.replace(found, arguments=shared)
        if found is not None:
            return found
        return QueueDeclaration(
            name=queue,
            exchange=queue,
            exchange_type=self.missing_exchange_type,
            routing_key=queue,
            arguments=self.missing_arguments,
        )


def read_settings(url: str, options: Mapping[str, Any]) -> AmqpSettings:
    """Read a URL (or a failover list) and options; what the URL's query says wins.

    :raises InvalidUrl: the address cannot be read.
    :raises InvalidOption: an option has a value that it cannot have.
    """
    urls = parse_failover(url)
    given = {**options, **urls[0].options}
    max_priority = given.get("queue_max_priority")
    missing = _queue_type(given, "missing_queue_type", "classic")
    tls_options = _tls_options(urls, given.get("ssl"))
    return AmqpSettings(
        endpoints=tuple(_endpoint(one) for one in urls),
        shown=";".join(str(one) for one in urls),
        connect_timeout_s=_seconds(given, "socket_connect_timeout", 4.0),
        publish_timeout_s=_seconds(given, "publish_deadline", 5.0),
        confirms=_flag(given, "confirm_publish", True),
        login_method=str(given.get("login_method") or "PLAIN"),
        tls=_tls(tls_options),
        tls_server_name=str((tls_options or {}).get("server_hostname") or ""),
        declarations=_declarations(options, max_priority),
        missing_arguments=_arguments({}, quorum=missing == "quorum", max_priority=max_priority),
        missing_exchange_type=str(given.get("missing_exchange_type") or "direct"),
        ladder_type=_queue_type(given, "native_delayed_delivery_queue_type", "quorum"),
        dead_queue=str(given.get("dead_letter_queue", DEAD_QUEUE)),
        held_ttl_ms=int(_seconds(given, "held_ttl", 5.0) * 1000),
        redelivery_pause_s=_seconds(given, "redelivery_pause", 0.5),
        consumer_timeout_s=_seconds(given, "consumer_timeout", 1800.0),
    )


def _queue_type(given: Mapping[str, Any], name: str, default: str) -> str:
    value = str(given.get(name) or default)
    if value not in QUEUE_TYPES:
        raise InvalidOption(name, repr(value), f"use one of {', '.join(QUEUE_TYPES)}")
    return value


def _declarations(options: Mapping[str, Any], max_priority: Any) -> dict[str, QueueDeclaration]:
    quorum = frozenset(options.get("quorum_queues") or ())
    declared: Mapping[str, QueueDeclaration] = options.get("declarations") or {}
    return {
        name: msgspec.structs.replace(
            one, arguments=_arguments(one.arguments, quorum=name in quorum, max_priority=max_priority)
        )
        for name, one in declared.items()
    }


def _arguments(given: Mapping[str, Any], *, quorum: bool, max_priority: Any) -> dict[str, Any]:
    """What is said of one queue wins over what is said of all (interop §6.1)."""
    arguments = dict(given)
    if quorum:
        arguments.setdefault("x-queue-type", "quorum")
    if max_priority is not None and arguments.get("x-queue-type") != "quorum":
        arguments.setdefault("x-max-priority", int(max_priority))
    return arguments


def _endpoint(url: Url) -> Endpoint:
    secure = url.scheme == "amqps"
    return Endpoint(
        host=url.host or "localhost",
        port=url.port or (DEFAULT_TLS_PORT if secure else DEFAULT_PORT),
        user=url.user or "guest",
        password="guest" if url.password is None else url.password,
        virtual_host=url.path[1:] or "/",
        shown=str(url),
    )


def _seconds(given: Mapping[str, Any], name: str, default: float) -> float:
    value = given.get(name)
    if value is None:
        return default
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise InvalidOption(name, repr(value), "give a number of seconds") from None
    if not 0 < seconds < 1e9:
        raise InvalidOption(name, repr(value), "give a number of seconds above 0")
    return seconds


def _flag(given: Mapping[str, Any], name: str, default: bool) -> bool:
    value = given.get(name, default)
    if isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return known[str(value).lower()]
    except KeyError:
        raise InvalidOption(name, repr(value), "give true or false") from None


_CERT_REQS = {
    "required": ssl.CERT_REQUIRED,
    "CERT_REQUIRED": ssl.CERT_REQUIRED,
    "none": ssl.CERT_NONE,
    "CERT_NONE": ssl.CERT_NONE,
}
_TLS_OPTIONS = frozenset(
    ("cert_reqs", "ca_certs", "certfile", "keyfile", "ciphers", "server_hostname", "ssl_version")
)


def _tls_options(urls: tuple[Url, ...], said: Any) -> dict[str, Any] | None:
    """What is said of TLS, under the names of `ssl.wrap_socket`; None for plain TCP."""
    if urls[0].scheme != "amqps" and not said:
        return None
    options = dict(said) if isinstance(said, Mapping) else {}
    options.update({key: value for key, value in urls[0].query if key.startswith("ssl_")})
    # One is called ssl_version by itself.
    return {key if key == "ssl_version" else key.removeprefix("ssl_"): one for key, one in options.items()}


def _tls(options: Mapping[str, Any] | None) -> ssl.SSLContext | None:
    """Chain and host name are verified unless ``cert_reqs`` is none, which somebody must have said.

    ``ssl_version``, which names one version, has no effect: every one from 1.2 on is spoken.
    """
    if options is None:
        return None
    unknown = sorted(set(options) - _TLS_OPTIONS)
    if unknown:
        raise InvalidOption("ssl", repr(unknown), f"known are {', '.join(sorted(_TLS_OPTIONS))}")
    wanted = options.get("cert_reqs", ssl.CERT_REQUIRED)
    requirement = _CERT_REQS.get(wanted) if isinstance(wanted, str) else ssl.VerifyMode(wanted)
    if requirement not in (ssl.CERT_REQUIRED, ssl.CERT_NONE):
        raise InvalidOption("ssl cert_reqs", repr(wanted), "use required, or none to trust anybody")
    ca_certs, certfile = options.get("ca_certs"), options.get("certfile")
    try:
        context = ssl.create_default_context(cafile=ca_certs)
        if certfile is not None:
            context.load_cert_chain(certfile, options.get("keyfile"))
        if options.get("ciphers"):
            context.set_ciphers(options["ciphers"])
    except OSError as error:
        raise InvalidOption("ssl", repr(ca_certs or certfile), f"cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if requirement == ssl.CERT_NONE:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
