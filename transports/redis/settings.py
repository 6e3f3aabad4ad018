"""One frozen description of a Redis broker or result store, from its URL and its options.

Names of options are kombu's (interop §5.10); of what only this transport has, they are ours. An option
that is not known here has no effect, as every transport of kombu's ignores what is another's.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .address import Address, Endpoint, parse_address
from .option_values import Options, invalid_option
from .tls_settings import CERT_REQUIRED, TLS_NAMES, TlsSettings, read_tls

logger = logging.getLogger(__name__)

SEPARATOR = "\x06\x16"
PRIORITY_STEPS = (0, 3, 6, 9)


@dataclass(frozen=True, slots=True)
class SentinelSettings:
    """How the primary is found.

    :param service: the name under which the sentinels know it (``master_name``).
    :param min_others: a sentinel that knows fewer others is not believed.
    :param user: at the sentinels; the one in the URL belongs to the primary.
    """

    service: str
    min_others: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: TlsSettings | None = None


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Everything that a connection, the broker and the result store need to know.

    :param shown: the address without secrets, for messages.
    :param endpoints: tried in turn; with `sentinel` they are the sentinels.
    :param credential_provider: has ``get_credentials() -> (password,) | (user, password)``; asked at each
        connect, and then nothing of the URL is used.
    :param socket_timeout_s: how long an answer may take before the connection counts as dead.
    :param keep_connections: whether a client's connection stays open between two uses.
    :param publish_deadline_s: total time of one operation of a client: free connection, connect, command.
    :param fanout_prefix: what stands before the name of a fanout exchange in a channel, in full.
    :param visibility_timeout_s: age at which what a Celery worker holds is given back (interop §5.8).
    """

    shown: str
    endpoints: tuple[Endpoint, ...]
    db: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    credential_provider: Any = field(default=None, repr=False)
    tls: TlsSettings | None = None
    sentinel: SentinelSettings | None = None
    client_name: str = ""
    socket_timeout_s: float = 5.0
    connect_timeout_s: float = 4.0
    keepalive: bool = True
    keepalive_options: tuple[tuple[int, int], ...] = ()
    max_connections: int = 10
    keep_connections: bool = True
    publish_deadline_s: float = 5.0
    global_keyprefix: str = ""
    sep: str = SEPARATOR
    priority_steps: tuple[int, ...] = PRIORITY_STEPS
    fanout_prefix: str = "/0."
    fanout_patterns: bool = True
    visibility_timeout_s: float = 3600.0
    unacked_key: str = "unacked"
    unacked_index_key: str = "unacked_index"
    unacked_mutex_key: str = "unacked_mutex"
    unacked_mutex_expire_s: float = 300.0
    unacked_restore_limit: int | None = None
    unacked_restore_interval_s: float = 10.0
    unacked_restore_throttle: int = 10
    deadletter_queue: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def server(self) -> tuple[object, ...]:
        """Two settings with an equal value of this keep their keys in the same database."""
        service = self.sentinel.service if self.sentinel is not None else ""
        places = tuple(sorted(str(endpoint) for endpoint in self.endpoints))
        return (places, service, self.db)


OPTIONS = frozenset(
    {
        *("client_name", "credential_provider", "deadletter_queue", "fanout_patterns", "fanout_prefix"),
        *("global_keyprefix", "keep_connections", "master_name", "max_connections", "min_other_sentinels"),
        *("password", "priority_steps", "publish_deadline", "sentinel_kwargs", "sep", "service_name"),
        *("socket_connect_timeout", "socket_keepalive", "socket_keepalive_options", "socket_timeout", "ssl"),
        *("unacked_index_key", "unacked_key", "unacked_mutex_expire", "unacked_mutex_key"),
        *("unacked_restore_interval", "unacked_restore_limit", "unacked_restore_throttle", "username"),
        "visibility_timeout",
        *(f"ssl_{name}" for name in TLS_NAMES),
    }
)
"""Options that have an effect here."""


def read_settings(url: str, options: Mapping[str, Any] | None = None) -> RedisSettings:
    """Read a URL (or a failover list) and options; what the URL's query says wins.

    :raises InvalidUrl: the address cannot be read.
    :raises InvalidOption: an option has a value that it cannot have.
    """
    address = parse_address(url)
    given = dict(options or {})
    values = Options({**given, **address.query})
    user, password = _credentials(address, values)
    return RedisSettings(
        shown=address.shown,
        endpoints=address.endpoints,
        db=address.db,
        user=user,
        password=password,
        credential_provider=_provider(values),
        tls=_tls(address, values),
        sentinel=_sentinel(address, values),
        options=given,
        **_connection(values),
        **_layout(values, address.db),
    )


def _credentials(address: Address, values: Options) -> tuple[str | None, str | None]:
    """Of the first URL that has any: in a failover list of sentinels, only the first may bear them."""
    for endpoint in address.endpoints:
        if endpoint.user is not None or endpoint.password is not None:
            return endpoint.user, endpoint.password
    return values.text("username") or None, values.text("password") or None


def _provider(values: Options) -> Any:
    provider = values.raw("credential_provider")
    if isinstance(provider, str):
        provider = _named_object(provider)
    if isinstance(provider, type):
        provider = provider()
    if provider is not None and not callable(getattr(provider, "get_credentials", None)):
        raise invalid_option("credential_provider", provider, "must be an object with get_credentials()")
    return provider


def _named_object(name: str) -> Any:
    module, _mark, attribute = name.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise invalid_option("credential_provider", name, f"cannot be imported: {error}") from error


def _tls(address: Address, values: Options) -> TlsSettings | None:
    ssl_options = values.raw("ssl")
    wanted = address.scheme == "rediss" or bool(ssl_options)
    tls = read_tls(values, ssl_options) if wanted else None
    if tls is not None and not (tls.check_hostname and tls.cert_reqs == CERT_REQUIRED):
        logger.warning(
            "%s: TLS is used without verifying %s; whoever stands between can read and change everything",
            address.shown,
            "the certificate" if tls.cert_reqs != CERT_REQUIRED else "the name of the host",
        )
    return tls


def _sentinel(address: Address, values: Options) -> SentinelSettings | None:
    if address.scheme != "sentinel":
        return None
    service = values.text("master_name") or values.text("service_name")
    if not service:
        raise invalid_option("master_name", None, "must name the service that the sentinels watch")
    given = Options(values.mapping("sentinel_kwargs"))
    secure = given.flag("ssl", False) if not isinstance(given.raw("ssl"), Mapping) else True
    return SentinelSettings(
        service=service,
        min_others=values.count("min_other_sentinels", 0),
        user=given.text("username") or None,
        password=given.text("password") or None,
        tls=read_tls(given, given.raw("ssl")) if secure else None,
    )


def _connection(values: Options) -> dict[str, Any]:
    timeout_s = values.seconds("socket_timeout", 5.0)
    keepalive = values.mapping("socket_keepalive_options")
    try:
        pairs = tuple((int(key), int(value)) for key, value in keepalive.items())
    except (TypeError, ValueError):
        raise invalid_option("socket_keepalive_options", keepalive, "must map numbers to numbers") from None
    return {
        "client_name": _client_name(values.text("client_name")),
        "socket_timeout_s": timeout_s,
        "connect_timeout_s": values.seconds("socket_connect_timeout", min(4.0, timeout_s)),
        "keepalive": values.flag("socket_keepalive", True),
        "keepalive_options": pairs,
        "max_connections": values.count("max_connections", 10, least=1),
        "keep_connections": values.flag("keep_connections", True),
        "publish_deadline_s": values.seconds("publish_deadline", 5.0),
    }


def _client_name(text: str) -> str:
    if any(char <= " " or char > "~" for char in text):
        raise invalid_option("client_name", text, "must hold printable ASCII only, and no space")
    return text


def _layout(values: Options, db: int) -> dict[str, Any]:
    limit = values.raw("unacked_restore_limit")
    return {
        "global_keyprefix": values.text("global_keyprefix"),
        "sep": values.text("sep", SEPARATOR),
        "priority_steps": values.steps("priority_steps", PRIORITY_STEPS),
        "fanout_prefix": _fanout_prefix(values, db),
        "fanout_patterns": values.flag("fanout_patterns", True),
        "visibility_timeout_s": values.seconds("visibility_timeout", 3600.0),
        "unacked_key": values.text("unacked_key", "unacked"),
        "unacked_index_key": values.text("unacked_index_key", "unacked_index"),
        "unacked_mutex_key": values.text("unacked_mutex_key", "unacked_mutex"),
        "unacked_mutex_expire_s": values.seconds("unacked_mutex_expire", 300.0),
        "unacked_restore_limit": None if limit is None else values.count("unacked_restore_limit", 0, least=1),
        "unacked_restore_interval_s": _interval(values),
        "unacked_restore_throttle": max(1, values.count("unacked_restore_throttle", 10)),
        "deadletter_queue": values.text("deadletter_queue"),
    }


def _interval(values: Options) -> float:
    """0 and less mean the default, as kombu has it."""
    given = values.raw("unacked_restore_interval")
    if isinstance(given, (int, float)) and given <= 0:
        return 10.0
    return values.seconds("unacked_restore_interval", 10.0)


def _fanout_prefix(values: Options, db: int) -> str:
    given = values.raw("fanout_prefix")
    if given is None or given is True:
        return f"/{db}."
    if given is False:
        return ""
    return values.text("fanout_prefix").replace("{db}", str(db))
