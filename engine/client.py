"""The publishing side of an app: its broker and result store, opened once per process.

What was opened belongs to the process that opened it: after a fork everything is opened anew, and
the parent's is left alone (closing a connection of the parent's would say good-bye in its name).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..serializers.base import UnknownSerializer
from ..serializers.registry import SerializerTable, load_serializer
from ..transports.base import Answers, Outgoing, ResultStore, Transport
from ..transports.envelope import DOCUMENT_BYTES_MAX
from ..transports.errors import Unacceptable, Unroutable
from ..transports.registry import open_results, open_transport
from . import publish_signals, signals
from .async_result import AsyncResult
from .backend import Backend
from .broadcasts import with_copies
from .broker_options import broker_options, publish_url, result_options
from .clock import wall_s
from .delivery import Collector, Delivers, present_taker
from .duplicates import Unsent, end_here
from .exceptions import PayloadTooLarge
from .follow_ups import on_failure
from .lifetimes import lifetimes
from .local import running
from .message import TaskDraft, bounded_repr, encode_task, fresh_id
from .publishing import full_draft, plain_draft
from .routes import Destination, Router, declaration
from .stored_results import StoredResults
from .unique_claims import Claim, UniqueTasks

if TYPE_CHECKING:
    from .app import App
    from .async_client import AsyncSide
    from .options import TaskPlan


NAMED_PLANS_MAX = 1000
"""How many tasks known by name alone have their way of being sent remembered."""


class _Handles:
    """What one process has opened. Written under its own lock by whichever thread comes first."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.transport: Transport | None = None
        self.results: ResultStore | None = None
        self.aio: AsyncSide | None = None
        self.origin = f"gen{self.pid}@{socket.gethostname()}"
        # What of the broker's abilities the sending of a message depends on.
        self.routes = False
        self.sends_due = True


class Client(Delivers):
    """Sends tasks and reads results for one app under one configuration."""

    def __init__(self, app: App, config: Any) -> None:
        self.app = app
        self.config = config
        self.router = Router(config)
        accept = tuple(config.accept_content)
        result_accept = config.result_accept_content
        self.table = SerializerTable(
            {"json", config.task_serializer},
            accept,
            input_bytes_max=config.serializer_max_message_bytes,
            output_bytes_max=config.serializer_max_decompressed_bytes,
        )
        self.result_table = SerializerTable(
            {"json", config.result_serializer}, tuple(result_accept) if result_accept else accept
        )
        self._names = self.table.names
        # Results are read in the process that asked for them, and only as the configuration says.
        self.result_table.allow_unpickling()
        self.stored = StoredResults(
            lambda: self.results,
            self.result_table.by_name(config.result_serializer),
            lifetimes(config),
            extended=config.result_extended,
        )
        self.backend = Backend(app, self.stored, config)
        self._tables: dict[str, SerializerTable] = {}
        self.unique = UniqueTasks(self)
        limit_bytes = config.task_payload_max_bytes
        self._bytes_max = DOCUMENT_BYTES_MAX if limit_bytes is None else limit_bytes
        # How tasks are sent that only their name is known of. Written by any thread that sends one.
        self.named_plans: dict[str, TaskPlan] = {}
        self._handles = _Handles()
        # Whether results come as messages, for which the sender has to wait from before it sends.
        self._answered = str(config.result_backend or "").startswith("rpc:")

    # -- handles ------------------------------------------------------------------------------

    def _mine(self) -> _Handles:
        handles = self._handles
        if handles.pid != os.getpid():
            handles = self._handles = _Handles()
        return handles

    @property
    def origin(self) -> str:
        """Who sends, as messages say it: ``gen<pid>@<host>``."""
        return self._mine().origin

    @property
    def transport(self) -> Transport:
        """The broker, opened on first use in each process."""
        handles = self._mine()
        if handles.transport is None:
            with handles.lock:
                if handles.transport is None:
                    self._use(
                        handles,
                        open_transport(publish_url(self.config), self.transport_options()),
                    )
        assert handles.transport is not None
        return handles.transport

    @staticmethod
    def _use(handles: _Handles, transport: Transport) -> None:
        abilities = transport.capabilities
        handles.routes = abilities.routes
        handles.sends_due = not abilities.shares_queues
        handles.transport = transport

    @property
    def results(self) -> ResultStore | None:
        """The result store, opened on first use in each process; None when results are disabled."""
        handles = self._mine()
        url = self.config.result_backend
        if handles.results is None and url is not None:
            with handles.lock:
                if handles.results is None:
                    handles.results = open_results(url, self.result_options())
        return handles.results

    @property
    def aio(self) -> AsyncSide:
        """What code on event loops sends and waits with, made on first use in each process."""
        handles = self._mine()
        if handles.aio is None:
            with handles.lock:
                if handles.aio is None:
                    # asyncio and threads: a client that never awaits need not load them.
                    handles.aio = import_module(".async_client", __package__).AsyncSide(
                        self.stored, eager=self.config.task_always_eager
                    )
        assert handles.aio is not None
        return handles.aio

    def reply_to(self) -> str:
        """The queue in which this process waits for results; "" unless they come as messages.

        :raises BrokerUnavailable: the queue cannot be declared.
        """
        if not self._answered:
            return ""
        store: object = self.results
        return store.listen() if isinstance(store, Answers) else ""

    def adopt(self, transport: Transport | None, results: ResultStore | None) -> None:
        """Use what this process has opened already (a worker child shares its own)."""
        handles = self._mine()
        if transport is None:
            handles.transport = None
        else:
            self._use(handles, transport)
        handles.results = results

    def _app_options(self) -> dict[str, Any]:
        return {"app": self.app.main or "default"}

    def transport_options(self) -> dict[str, Any]:
        """What transports are opened with: names, queues, and what the configuration says."""
        declarations = {name: declaration(spec) for name, spec in self.router.queues.items()}
        return {
            **self._app_options(),
            "declarations": declarations,
            **broker_options(self.config),
        }

    def result_options(self) -> dict[str, Any]:
        """What result stores are opened with."""
        return {**self._app_options(), **result_options(self.config)}

    def close(self) -> None:
        """Close what this process opened. Safe to call twice."""
        handles = self._mine()
        with handles.lock:
            opened = (handles.aio, handles.transport, handles.results)
            handles.transport = handles.results = handles.aio = None
        for thing in opened:
            if thing is not None:
                thing.close()

    # -- sending ------------------------------------------------------------------------------

    def table_for(self, serializer: str) -> SerializerTable:
        """A table that can write with a serializer that only one call or task names.

        :raises UnknownSerializer: nobody provides it; or pickle, which only the configuration allows.
        """
        if serializer in self.table.names or serializer == "pickle":
            return self.table
        table = self._tables.get(serializer)
        if table is None:
            try:
                load_serializer(serializer)
            except UnknownSerializer:
                return self.table  # its own error names what this configuration has
            table = self._tables[serializer] = SerializerTable(
                {"json", serializer}, self.config.accept_content
            )
        return table

    def send(
        self,
        plan: TaskPlan,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        task_id: str | None,
        options: dict[str, Any],
        producer: Any = None,
    ) -> AsyncResult[Any]:
        """Send one call.

        :raises EncodeError: an argument cannot be serialized.
        :raises InvalidTaskError: an option cannot be honoured.
        :raises BrokerUnavailable: the broker did not take it before `broker_publish_timeout`.
        :raises Unacceptable: it is too large; nobody tries again.
        :raises DuplicateTaskError: it is to be unique, and is not.
        """
        named, task_id = task_id is not None, task_id or fresh_id()
        entry = running.get()
        parent = None if entry is None or entry[1].called_directly else entry[1]
        now_wall_s = wall_s()
        destination = plan.destination
        if options or destination is None or destination.extra or plan.options.expires is not None:
            draft, destination = full_draft(
                plan, self.router, task_id, args, kwargs, options, parent, now_wall_s
            )
        else:
            draft = plain_draft(plan, destination, task_id, args, kwargs, parent)
        claim = None
        if plan.options.unique is not None or "unique" in options:
            taker = present_taker()
            again = isinstance(taker, Collector) and not named
            claim = self.unique.claim(plan, draft, options, now_wall_s, later=taker is not None, again=again)
        if claim is None:
            self._send(draft, destination, options, None, now_wall_s)
        elif claim.duplicate is None:
            with claim.held():
                self._send(draft, destination, options, claim, now_wall_s)
        else:
            self._not_sent(Unsent(draft, claim.duplicate, named))
            known_id = claim.duplicate.existing_id
            return AsyncResult(known_id, None, draft.task, self.app, ignored=bool(draft.ignore_result))
        result: AsyncResult[Any] = AsyncResult(
            draft.id, None, draft.task, self.app, ignored=bool(draft.ignore_result)
        )
        if parent is not None and options.get("add_to_parent", True) and entry is not None:
            entry[0].add_trail(result)
        return result

    def _not_sent(self, unsent: Unsent) -> None:
        taker = present_taker()
        if isinstance(taker, Collector) and taker.unsent is not None:
            if unsent.is_lost:
                taker.unsent.append(unsent)
        else:
            end_here(self, unsent)
            if unsent.draft.chain and unsent.draft.errbacks:
                errbacks = on_failure(self.app, *unsent.ended(), call=False)
                self.publish(errbacks, unsent.draft.id)

    def _send(
        self,
        draft: TaskDraft,
        destination: Destination,
        options: Mapping[str, Any],
        claim: Claim | None,
        now_wall_s: float,
    ) -> None:
        if self.config.task_send_argsrepr:
            draft.argsrepr = draft.argsrepr or bounded_repr(tuple(draft.args))
            draft.kwargsrepr = draft.kwargsrepr or bounded_repr(dict(draft.kwargs))
        if signals.before_task_publish.receivers:
            policy = options.get("retry_policy") or self.config.task_publish_retry_policy
            publish_signals.before(draft, policy)
        if self._answered and not draft.ignore_result and not draft.reply_to:
            draft.reply_to = self.reply_to()
        table = self.table if draft.serializer in self._names else self.table_for(draft.serializer)
        document = encode_task(draft, table, now_wall_s=now_wall_s)
        if len(document) > self._bytes_max:
            self.check_size(draft.task, document)
        self.publish(
            self.outgoing(destination, document, draft.priority, draft.eta_wall_s),
            draft.id,
            retry=options.get("retry"),
            policy=options.get("retry_policy"),
            claim=claim,
        )
        if signals.after_task_publish.receivers or signals.task_sent.receivers:
            publish_signals.after(draft)

    def check_size(self, task: str, document: bytes) -> None:
        """Refuse a message that is larger than `task_payload_max_bytes`.

        :raises PayloadTooLarge: it is.
        """
        limit_bytes = self.config.task_payload_max_bytes
        if limit_bytes is not None and len(document) > limit_bytes:
            raise PayloadTooLarge(task, len(document), limit_bytes)

    def outgoing(
        self, destination: Destination, document: bytes, priority: int, due_wall_s: float | None
    ) -> Sequence[Outgoing]:
        """A document on its way: one message per queue, or one for all where the broker routes.

        :raises Unacceptable: it is larger than what a worker reads.
        :raises Unroutable: its exchange leads to no queue, where the configuration is all there is to know.
        """
        if len(document) > DOCUMENT_BYTES_MAX:
            refuse_unreadable(document)
        handles = self._mine()
        if handles.transport is None:
            self.transport  # noqa: B018  (opens it, so that its abilities are known)
        return self.placed(destination, document, priority, due_wall_s if handles.sends_due else None)

    def placed(
        self, destination: Destination, document: bytes, priority: int, due: float | None
    ) -> Sequence[Outgoing]:
        """The same for a broker that is open, and a message whose time is kept there whoever shares it.

        :param due: Unix time.
        """
        queues: Sequence[str] = destination.queues
        if destination.exchange:
            key = destination.routing_key
            if self._mine().routes:
                return (Outgoing(queues[0], document, priority, due, destination.exchange, key),)
            if not destination.bound:
                raise Unroutable(destination.exchange, key, "none of task_queues is bound so")
        if self.router.broadcasts:
            queues = with_copies(queues, self.router.broadcasts, self.transport)
        if len(queues) == 1:
            return (Outgoing(queues[0], document, priority, due),)
        return [Outgoing(queue, document, priority, due) for queue in queues]


def refuse_unreadable(document: bytes) -> None:
    """Refuse a message that is larger than what a worker reads.

    :raises Unacceptable: it is.
    """
    if len(document) > DOCUMENT_BYTES_MAX:
        raise Unacceptable(
            f"a message of {len(document)} bytes, of at most {DOCUMENT_BYTES_MAX}: keep large data "
            "elsewhere and pass on where they are"
        )
