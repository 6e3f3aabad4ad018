"""The broker, the result store and the serializers of one configuration, opened in one process.

Connections do not survive a fork: every process opens its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..serializers.registry import SerializerTable
from ..transports.base import ResultStore, Transport
from ..transports.registry import open_results, open_transport
from .settling import Settler


@dataclass(frozen=True)
class Urls:
    """Where messages and results are.

    :param results: None stores nothing.
    :param together: the results are kept by the broker itself, and settle with the message.
    """

    broker: str
    results: str | None
    together: bool


@dataclass
class Storage:
    """What `open_storage` opened.

    :ivar store: None when results are not stored.
    """

    transport: Transport
    store: ResultStore | None
    settler: Settler
    table: SerializerTable

    def close(self) -> None:
        """Close everything. Safe to call twice."""
        if self.store is not None:
            self.store.close()
        self.transport.close()


def urls_of(config: Any) -> Urls:
    """Which broker and which result store a configuration means."""
    broker = config.broker_url or "filesystem://"
    results = config.result_backend
    return Urls(broker, results, results == broker)


def open_storage(config: Any, app_name: str) -> Storage:
    """Open the broker and the result store.

    :param app_name: names the default directory of the embedded broker.
    :raises UnsupportedTransport: a URL names something that nobody provides.
    :raises TransportError: it cannot be opened.
    """
    urls = urls_of(config)
    transport = open_transport(urls.broker, _options(config.broker_transport_options, app_name))
    together = urls.together and transport.capabilities.stores_results
    store: ResultStore | None = None
    if urls.results is not None:
        store = open_results(
            urls.results,
            _options(
                config.broker_transport_options if together else config.result_backend_transport_options,
                app_name,
            ),
        )
    return Storage(transport, store, Settler(transport, store, together=together), serializer_table(config))


def _options(configured: Mapping[str, Any] | None, app_name: str) -> dict[str, Any]:
    return {"app": app_name, **(configured or {})}


def serializer_table(config: Any) -> SerializerTable:
    """What a configuration lets a process write and read."""
    return SerializerTable(
        (config.task_serializer, config.result_serializer, "json"),
        config.accept_content,
        input_bytes_max=config.serializer_max_message_bytes,
        output_bytes_max=config.serializer_max_decompressed_bytes,
    )
