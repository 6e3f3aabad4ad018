"""The publishing side of an app: its broker and result store, opened once per process.

What was opened belongs to the process that opened it: after a fork everything is opened anew, and
the parent's is left alone (closing a connection of the parent's would say good-bye in its name).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..serializers.base import Serializer, UnknownSerializer
from ..serializers.registry import SerializerTable, load_serializer
from ..transports.base import Outgoing, ResultStore, StoredResult, Transport
from ..transports.errors import BrokerUnavailable
from ..transports.registry import open_results, open_transport
from . import result_document, signals, states
from .clock import mono_s, wall_s
from .einfo import traceback_text
from .exceptions import ImproperlyConfigured, TaskRevokedError
from .local import running
from .message import TaskDraft, bounded_repr, encode_task, fresh_id
from .publishing import full_draft, plain_draft, retry_pause_s, seconds
from .result import AsyncResult
from .result_document import ResultDocument
from .routes import Router

if TYPE_CHECKING:
    from .app import App
    from .options import TaskPlan
    from .request import Context

NO_RESULTS = (
    "there is no result store: set result_backend (the embedded broker and memory:// keep results by "
    "themselves), or send with ignore_result=True and do not ask"
)


class _Handles:
    """What one process has opened. Written under its own lock by whichever thread comes first."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.transport: Transport | None = None
        self.results: ResultStore | None = None
        self.origin = f"gen{self.pid}@{socket.gethostname()}"
        self.reply_to = ""


class Client:
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
        self.result_serializer: Serializer = self.result_table.by_name(config.result_serializer)
        self.result_expires_s = seconds(config.result_expires)
        self._tables: dict[str, SerializerTable] = {}
        self._handles = _Handles()

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
                    handles.transport = open_transport(
                        self.config.broker_write_url or self.config.broker_url, self.transport_options()
                    )
        return handles.transport

    @property
    def results(self) -> ResultStore | None:
        """The result store, opened on first use in each process; None when results are disabled."""
        handles = self._mine()
        url = self.config.result_backend
        if handles.results is None and url is not None:
            with handles.lock:
                if handles.results is None:
                    handles.results = open_results(
                        url, {**self._app_options(), **self.config.result_backend_transport_options}
                    )
        return handles.results

    def adopt(self, transport: Transport | None, results: ResultStore | None) -> None:
        """Use what this process has opened already (a worker child shares its own)."""
        handles = self._mine()
        handles.transport = transport
        handles.results = results

    def _app_options(self) -> dict[str, Any]:
        return {"app": self.app.main or "default"}

    def transport_options(self) -> dict[str, Any]:
        """What transports are opened with: the app's name and `broker_transport_options`."""
        return {**self._app_options(), **self.config.broker_transport_options}

    def close(self) -> None:
        """Close what this process opened. Safe to call twice."""
        handles = self._mine()
        with handles.lock:
            opened = (handles.transport, handles.results)
            handles.transport = handles.results = None
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
            table = self._tables[serializer] = SerializerTable({"json", serializer}, self.config.accept_content)
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
        """
        task_id = task_id or fresh_id()
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
        if self.config.task_send_argsrepr:
            draft.argsrepr = draft.argsrepr or bounded_repr(tuple(args))
            draft.kwargsrepr = draft.kwargsrepr or bounded_repr(dict(kwargs))
        if signals.before_task_publish.receivers:
            self._announce(draft, options)
        table = self.table if draft.serializer in self.table.names else self.table_for(draft.serializer)
        document = encode_task(draft, table, now_wall_s=now_wall_s)
        queues = destination.queues
        self.publish(
            [Outgoing(queue, document, draft.priority, draft.eta_wall_s) for queue in queues]
            if len(queues) > 1
            else (Outgoing(queues[0], document, draft.priority, draft.eta_wall_s),),
            retry=options.get("retry"),
            policy=options.get("retry_policy"),
        )
        if signals.after_task_publish.receivers or signals.task_sent.receivers:
            self._announce_sent(draft)
        result = AsyncResult(
            task_id, None, draft.task, self.app, ignored=bool(draft.ignore_result) and parent is None
        )
        if parent is not None and options.get("add_to_parent", True) and entry is not None:
            entry[0].add_trail(result)
        return result

    def publish(
        self,
        messages: Sequence[Outgoing],
        *,
        retry: bool | None = None,
        policy: Mapping[str, Any] | None = None,
    ) -> None:
        """Hand messages to the broker; try again for a while if it is away.

        :param retry: None follows `task_publish_retry`.
        :param policy: None follows `task_publish_retry_policy`; never beyond `broker_publish_timeout`.
        :raises BrokerUnavailable: with `outcome_unknown` when a message may have been stored.
        """
        failed = 0
        give_up_mono_s = 0.0
        unknown = False
        while True:
            try:
                self.transport.send(messages)
                return
            except BrokerUnavailable as exc:
                failed += 1
                unknown = unknown or exc.outcome_unknown
                if failed == 1:
                    give_up_mono_s = mono_s() + self.config.broker_publish_timeout
                wanted = self.config.task_publish_retry if retry is None else retry
                rules = {**self.config.task_publish_retry_policy, **(policy or {})}
                pause_s = retry_pause_s(rules, failed) if wanted else None
                if pause_s is None or mono_s() + pause_s >= give_up_mono_s:
                    exc.outcome_unknown = unknown
                    raise
                time.sleep(pause_s)

    def _announce(self, draft: TaskDraft, options: Mapping[str, Any]) -> None:
        """Send `before_task_publish`; what receivers put into the headers travels along."""
        headers = {"id": draft.id, "task": draft.task, **_described(draft), **(draft.headers or {})}
        before = dict(headers)
        properties = {"correlation_id": draft.correlation_id or draft.id, **(draft.properties or {})}
        sent = dict(properties)
        signals.before_task_publish.send(
            draft.task,
            body=_body(draft),
            exchange=draft.exchange,
            routing_key=draft.routing_key,
            headers=headers,
            properties=properties,
            declare=[],
            retry_policy=options.get("retry_policy") or self.config.task_publish_retry_policy,
        )
        added = {k: v for k, v in headers.items() if k not in before or before[k] is not v}
        if added:
            draft.headers = {**(draft.headers or {}), **added}
        more = {k: v for k, v in properties.items() if k not in sent or sent[k] is not v}
        if more:
            draft.properties = {**(draft.properties or {}), **more}

    def _announce_sent(self, draft: TaskDraft) -> None:
        headers = {"id": draft.id, "task": draft.task, **_described(draft), **(draft.headers or {})}
        signals.after_task_publish.send(
            draft.task,
            body=_body(draft),
            exchange=draft.exchange,
            routing_key=draft.routing_key,
            headers=headers,
        )
        signals.task_sent.send(
            draft.task,
            task_id=draft.id,
            task=draft.task,
            args=draft.args,
            kwargs=draft.kwargs,
            eta=headers["eta"],
            taskset=draft.group,
        )

    # -- results ------------------------------------------------------------------------------

    def _store(self) -> ResultStore:
        store = self.results
        if store is None:
            raise ImproperlyConfigured(NO_RESULTS)
        return store

    def read_result(self, task_id: str) -> ResultDocument | None:
        """What is stored under an id; None for nothing.

        :raises ImproperlyConfigured: results are disabled.
        :raises MalformedResult: something else is stored there.
        """
        found = self._store().get([task_id])[0]
        return None if found is None else result_document.decode(found, self.result_serializer)

    def wait_result(self, task_id: str, timeout_s: float) -> ResultDocument | None:
        """Wait for the final document of an id; None when the time is over."""
        found = self._store().wait([task_id], timeout_s).get(task_id)
        return None if found is None else result_document.decode(found, self.result_serializer)

    def wait_any(self, task_ids: Sequence[str], timeout_s: float) -> dict[str, ResultDocument]:
        """Wait until at least one of the ids has its final document."""
        found = self._store().wait(task_ids, timeout_s)
        return {key: result_document.decode(data, self.result_serializer) for key, data in found.items()}

    def forget_results(self, task_ids: Sequence[str]) -> None:
        """Delete what is stored under these ids."""
        self._store().forget(task_ids)

    def store_state(self, task_id: str | None, state: str, meta: Any, *, request: Context, options: Any) -> None:
        """Store a state, unless results are disabled or ignored.

        :raises InvalidTaskError: no task runs here and no id was given.
        """
        if task_id is None:
            raise ImproperlyConfigured("update_state() outside of a running task needs task_id=")
        ignored = request.ignore_result if request.ignore_result is not None else options.ignore_result
        if ignored or self.results is None:
            return
        self._write(task_id, state, meta, request=request)

    def _write(self, task_id: str, state: str, value: Any, *, request: Context | None = None) -> None:
        text = None
        if isinstance(value, BaseException):
            text = traceback_text(value, value.__traceback__)
        document = result_document.encode(
            state,
            value,
            task_id=task_id,
            serializer=self.result_serializer,
            traceback=text,
            group_id=None if request is None else request.group,
            parent_id=None if request is None else request.parent_id,
            date_done_wall_s=wall_s(),
        )
        final = state in states.READY_STATES
        self._store().store([StoredResult(task_id, document, self.result_expires_s, final)])

    def save_group(self, group_id: str, value: Any) -> None:
        """Store the tuple of a group (interop §8.4)."""
        document = self.result_serializer.dumps({"result": value})
        self._store().save_group(group_id, document, self.result_expires_s)

    def read_group(self, group_id: str) -> Any:
        """The tuple of a group, or None."""
        found = self._store().get_group(group_id)
        return None if found is None else self.result_serializer.loads(found)["result"]

    def forget_group(self, group_id: str) -> None:
        """Delete the tuple of a group."""
        self._store().forget_group(group_id)

    def revoke(self, task_ids: Sequence[str], *, terminate: bool = False) -> None:
        """Store REVOKED for tasks that have not ended; workers look for it before they start one.

        :raises ImproperlyConfigured: results are disabled, or `terminate` is asked for.
        """
        if terminate:
            raise ImproperlyConfigured(
                "terminate=True needs remote control, which this version does not have: "
                "use a time limit, or revoke before the task starts"
            )
        for task_id, found in zip(task_ids, self._store().get(list(task_ids))):
            if found is not None:
                known = result_document.decode(found, self.result_serializer)
                if known.status in states.READY_STATES:
                    continue
            self._write(task_id, states.REVOKED, TaskRevokedError("revoked"))


def _described(draft: TaskDraft) -> dict[str, Any]:
    """The protocol's headers as receivers of signals know them."""
    return {
        "lang": "py",
        "shadow": draft.shadow,
        "eta": None if draft.eta_wall_s is None else result_document.iso_utc(draft.eta_wall_s),
        "expires": None if draft.expires_wall_s is None else result_document.iso_utc(draft.expires_wall_s),
        "group": draft.group,
        "group_index": draft.group_index,
        "retries": draft.retries,
        "timelimit": [draft.time_limit_s, draft.soft_time_limit_s],
        "root_id": draft.root_id,
        "parent_id": draft.parent_id,
        "argsrepr": draft.argsrepr,
        "kwargsrepr": draft.kwargsrepr,
        "origin": draft.origin,
        "ignore_result": draft.ignore_result,
    }


def _body(draft: TaskDraft) -> tuple[Any, ...]:
    embed = {
        "callbacks": draft.callbacks,
        "errbacks": draft.errbacks,
        "chain": draft.chain,
        "chord": draft.chord,
    }
    return draft.args, draft.kwargs, embed
