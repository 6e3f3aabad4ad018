"""The implementations that the conformance suites run against. A new one is one entry here."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from prefork.transports.base import ResultStore, Rotates, Selects, Transport
from prefork.transports.coordination import Coordinates
from prefork.transports.mailbox import Controls
from prefork.transports.presence import KnowsWorkers
from prefork.transports.registry import open_results, open_transport
from support.rabbitmq_server import shared
from support.redis_server import RedisServer
from support.written_fields import WrittenFieldsOnly


@dataclass(frozen=True)
class Implementation:
    """One transport with the result store beside it.

    :param url: makes the URL of an empty broker, given an empty directory; every handle that is
        opened on one URL must see the same broker.
    :param gaps: the fields of `Capabilities` that this implementation declares false. They are the
        only reason why a test does not apply to it. A result store may have the gap ``any_bytes``:
        it takes documents apart, so it keeps nothing else.
    :param limits: what the suite must spare it besides: ``long_names``, of more than 255 bytes;
        ``clean_returns``, since what was given back comes as a suspect; ``results``, beside the broker;
        ``places``, which messages that are given back keep;
        ``controls``, which it does not; ``knows_workers``, if it has leases and no list of them; ``quick``,
        for whom many rounds are affordable; ``forks_while_used``, by another thread.
    :param seen: how the suite sees the result store.
    :param expires_itself: the server drops expired documents, so that `ResultStore.expire` finds none.
    """

    name: str
    url: Callable[[Path], str]
    gaps: frozenset[str] = frozenset()
    seen: Callable[[ResultStore], ResultStore] = lambda store: store
    options: Mapping[str, object] = field(default_factory=dict)
    expires_itself: bool = False
    limits: frozenset[str] = frozenset()

    def open_transport(self, url: str) -> Transport:
        """A handle on the broker, such as another process would have."""
        return open_transport(url, self.options)

    def open_results(self, url: str) -> ResultStore:
        """A handle on the result store."""
        return self.seen(open_results(url, self.options))


@lru_cache(maxsize=1)
def private_redis() -> RedisServer:
    """The server of the session; whoever asks first must see to it that it is closed."""
    return RedisServer()


# What only brokers have that others share: no exchanges and no foreign workers on the embedded ones.
_EMBEDDED = frozenset({"routes", "shares_queues", "announces_schedule"})

IMPLEMENTATIONS = (
    Implementation(
        "memory", url=lambda root: f"memory://{uuid.uuid4().hex}", gaps=_EMBEDDED | {"several_processes"}
    ),
    Implementation("filesystem", url=lambda root: f"filesystem://{root}", gaps=_EMBEDDED),
    # Ten steps, so that every priority is told from every other.
    Implementation(
        "redis",
        url=lambda root: f"{private_redis().url}?global_keyprefix={uuid.uuid4().hex}:",
        gaps=frozenset({"highest_priority_first"}),
        options={"priority_steps": list(range(10))},
        expires_itself=True,
    ),
    # The delay ladder of classic queues: 35 quorum queues take a second to declare.
    Implementation(
        "amqp",
        url=lambda root: f"{shared().url}?dead_letter_queue=dead.{uuid.uuid4().hex}",
        gaps=frozenset(
            {
                "strict_priorities",
                "leases",
                "recall_by_others",
                "stores_results",
                "inspects_schedule",
                "lists_queues",
                "counts_in_work",
                "shares_queues",
                "announces_schedule",
                "rotates",
            }
        ),
        limits=frozenset({"long_names", "clean_returns", "results"}),
        options={"native_delayed_delivery_queue_type": "classic", "queue_max_priority": 9},
    ),
)

# kombu's own transports, through the bridge.
_BRIDGED = frozenset(
    {
        "priorities",
        "highest_priority_first",
        "strict_priorities",
        "schedule",
        "dead_letters",
        "leases",
        "stores_results",
        "inspection",
        "routes",
        "announces_schedule",
        "inspects_schedule",
        "lists_queues",
        "coordinates",
        "selects",
        "rotates",
    }
)


class UnsyncedSqlite(sqlite3.Connection):
    """Does not wait for the disk."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=OFF")


_POLLING = {"polling_interval": 0.02}
IMPLEMENTATIONS += (
    Implementation(
        "kombu+memory",
        url=lambda root: "kombu+memory://",
        gaps=_BRIDGED | {"several_processes"},
        limits=frozenset({"results", "places", "controls"}),
        options=_POLLING,
    ),
    Implementation(
        "kombu+filesystem",
        url=lambda root: f"kombu+filesystem://{root}",
        gaps=_BRIDGED,
        limits=frozenset({"results", "places", "long_names", "controls"}),
        options=_POLLING,
    ),
    Implementation(
        "kombu+sqla",
        url=lambda root: f"sqla+sqlite:///{root}/queue.db",
        gaps=_BRIDGED,
        limits=frozenset(
            {
                "results",
                "places",
                "quick",
                "forks_while_used",
                "controls",
            }
        ),
        options={**_POLLING, "connect_args": {"factory": UnsyncedSqlite}},
    ),
)

# Result stores without a broker beside them.
RESULT_STORES = (
    Implementation(
        "database",
        url=lambda root: f"db+sqlite:///{root}/results.db",
        gaps=frozenset({"any_bytes"}),
        seen=WrittenFieldsOnly,
    ),
)


def third_party(url: str) -> Implementation:
    """An implementation that somebody else registered, by the URL of a running broker."""
    with_handle = open_transport(url, {})
    capabilities = with_handle.capabilities
    ports = {"coordinates": Coordinates, "controls": Controls, "knows_workers": KnowsWorkers}
    limits = {name for name, port in ports.items() if not isinstance(with_handle, port)}
    consumer = with_handle.consumer([f"probe.{uuid.uuid4().hex}"], uuid.uuid4().hex, uuid.uuid4().hex)
    limits |= set() if isinstance(consumer, Selects) else {"selects"}
    limits |= set() if isinstance(consumer, Rotates) else {"rotates"}
    consumer.close()
    with_handle.close()
    flags = {name for name in capabilities.__struct_fields__ if getattr(capabilities, name) is False}
    return Implementation(
        capabilities.name, url=lambda root: url, gaps=frozenset(flags), limits=frozenset(limits)
    )
