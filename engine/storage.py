"""The broker, the result store and the serializers of an application, opened in one process.

Connections do not survive a fork: every process opens its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..serializers.registry import SerializerTable
from ..transports.base import ResultStore, Transport
from .refusals import Refusals
from .settling import Settler

if TYPE_CHECKING:
    from .app import App
    from .client import Client


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


def open_storage(app: App, own: Client | None = None) -> Storage:
    """Open the broker and the result store that the application is configured for.

    They are the ones that tasks use when they send and wait, in this process.

    :param own: a client of the worker's own, where the process is not the worker's own.
    :raises UnsupportedTransport: a URL names something that nobody provides.
    :raises TransportError: it cannot be opened.
    """
    client = own or app.client
    transport, store = client.transport, client.results
    together = store is not None and transport.capabilities.stores_results and transport.keeps(store)
    refusals = Refusals(app, client.table, stored=store is not None)
    settler = Settler(transport, store, together=together, instead=refusals.instead)
    return Storage(transport, store, settler, client.table)
