"""Makes the result documents of a worker: by the child for what ran, by the agent for what died."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from ..serializers.base import EncodeError
from ..serializers.registry import SerializerTable
from ..transports.base import StoredResult
from . import result_document, states
from .clock import wall_s
from .einfo import ExceptionInfo
from .exceptions import BackendStoreError
from .execution import Executed
from .lifetimes import lifetimes
from .message import MalformedMessage, TaskMessage, bounded_repr
from .message_chain import is_harmless
from .result_stencil import stencil


class Encoded(Executed):
    """An execution whose document is made already.

    :ivar results: the document.
    :ivar children: how many tasks it had sent until then; those are in the document.
    """

    __slots__ = ("children", "results")

    def __init__(self, executed: Executed, results: tuple[StoredResult, ...], children: int) -> None:
        super().__init__(executed.state, executed.value, executed.einfo, executed.retry)
        self.results = results
        self.children = children


class ResultWriter:
    """Makes documents by one configuration.

    :param enabled: results are stored at all.
    :param node: name of the worker, for extended results.
    :ivar enabled: as given.
    """

    def __init__(self, config: Any, table: SerializerTable, *, enabled: bool, node: str) -> None:
        self._table = table
        self._serializer = table.by_name(config.result_serializer)
        self._lifetimes = lifetimes(config)
        self._extended: bool = config.result_extended
        self._compression: str | None = config.result_compression if _may_compress(config) else None
        self._bytes_max: int = config.result_max_bytes
        self.enabled = enabled
        self._node = node

    def executed(
        self, message: TaskMessage, request: Any, executed: Executed, state: str
    ) -> tuple[Executed, tuple[StoredResult, ...]]:
        """The document of an execution.

        A value that cannot be encoded, or is too large, turns the execution into a FAILURE.

        :param state: the state to store.
        :returns: what happened after all, and the document.
        """
        if not self.enabled:
            return executed, ()
        if type(executed) is Encoded and executed.children == len(request._children or ()):
            return executed, executed.results
        try:
            stored = self._document(message, request, executed, state)
        except EncodeError:
            executed, stored = self._with_text_arguments(message, request, executed, state)
        if len(stored.document) > self._bytes_max:
            size = len(stored.document)
            executed = _failed(too_large(size, self._bytes_max))
            stored = self._document(message, request, executed, states.FAILURE, text_arguments=True)
        elif self._compression is not None and state == states.SUCCESS and executed.state == state:
            stored = replace(stored, document=result_document.compressed(stored.document, self._compression))
        return executed, (stored,)

    def ahead(self, message: TaskMessage, request: Any, executed: Executed) -> Executed:
        """What a success becomes once it is stored; `executed` takes the document that is made here."""
        if not self.enabled:
            return executed
        children = len(request._children or ())
        return Encoded(*self.executed(message, request, executed, executed.state), children)

    def _with_text_arguments(
        self, message: TaskMessage, request: Any, executed: Executed, state: str
    ) -> tuple[Executed, StoredResult]:
        """The document when something has no form: arguments are not worth a FAILURE, the value is."""
        try:
            return executed, self._document(message, request, executed, state, text_arguments=True)
        except EncodeError as error:
            executed = _failed(error)
        return executed, self._document(message, request, executed, states.FAILURE, text_arguments=True)

    def _document(
        self,
        message: TaskMessage,
        request: Any,
        executed: Executed,
        state: str,
        *,
        text_arguments: bool = False,
    ) -> StoredResult:
        ready = state in states.READY_STATES
        document = result_document.encode(
            state,
            executed.value,
            task_id=message.id,
            serializer=self._serializer,
            traceback=executed.einfo.traceback if executed.einfo is not None else None,
            children=[child.as_tuple() for child in request._children or ()],
            group_id=message.group,
            parent_id=message.parent_id,
            date_done_wall_s=wall_s() if ready else None,
            extended=self._extra(message, request, text_arguments) if self._extended else None,
        )
        return StoredResult(message.id, document, self._lifetimes.of(state), ready, message.reply_to or "")

    def _extra(self, message: TaskMessage, request: Any, as_text: bool) -> Mapping[str, Any]:
        # A task may have put anything into its arguments, and pickle brings what JSON cannot say.
        args, kwargs = request.args, request.kwargs
        return self._said(
            message, bounded_repr(args) if as_text else args, bounded_repr(kwargs) if as_text else kwargs
        )

    def state(
        self,
        task_id: str,
        state: str,
        meta: Any,
        message: TaskMessage | None = None,
        *,
        extended: Mapping[str, Any] | None = None,
    ) -> StoredResult:
        """The document of a state on the way (STARTED, or one of the user's).

        :param extended: fields of `result_extended`.
        """
        document = result_document.encode(
            state,
            meta,
            task_id=task_id,
            serializer=self._serializer,
            group_id=message.group if message else None,
            parent_id=message.parent_id if message else None,
            extended=extended,
        )
        expires_s = self._lifetimes.of(state)
        return StoredResult(task_id, document, expires_s, final=False, reply_to=_reply_to(message))

    def on_start(self, meta: Any) -> Callable[[TaskMessage], StoredResult]:
        """Makes the document STARTED of one message after the other, all with the same meta."""
        expires_s = self._lifetimes.of(states.STARTED)
        fill = stencil(lambda task_id: self.state(task_id, states.STARTED, meta).document)

        def started(message: TaskMessage) -> StoredResult:
            if self._extended:
                return self._telling(
                    message,
                    lambda extended: self.state(message.id, states.STARTED, meta, message, extended=extended),
                )
            if message.group is not None or message.parent_id is not None:
                return self.state(message.id, states.STARTED, meta, message)
            reply_to = message.reply_to or ""
            return StoredResult(message.id, fill(message.id), expires_s, final=False, reply_to=reply_to)

        return started

    def failure(
        self,
        error: Exception,
        *,
        task_id: str | None,
        message: TaskMessage | None = None,
        state: str = states.FAILURE,
        in_brief: bool = False,
    ) -> tuple[StoredResult, ...]:
        """The document of a task that could not be run to its end; nothing without an id.

        :param in_brief: of the arguments, extended results have only what the headers say: with them the
            document may be refused as well.
        """
        if not self.enabled or not task_id:
            return ()
        if message is None:
            return (self.end(task_id, state, error),)

        def stored(extended: Mapping[str, Any] | None) -> StoredResult:
            return self.end(
                task_id,
                state,
                error,
                group_id=message.group,
                parent_id=message.parent_id,
                reply_to=message.reply_to or "",
                extended=extended,
            )

        return (self._telling(message, stored, in_brief) if self._extended else stored(None),)

    def _telling(
        self,
        message: TaskMessage,
        stored: Callable[[Mapping[str, Any]], StoredResult],
        in_brief: bool = False,
    ) -> StoredResult:
        """A document with what `result_extended` says of a message: its arguments if they fit in."""
        args, kwargs = (None, None) if in_brief else self._arguments(message)
        if args is not None:
            try:
                found = stored(self._said(message, args, kwargs))
            except EncodeError:
                found = stored(self._said(message, bounded_repr(args), bounded_repr(kwargs)))
            if len(found.document) <= self._bytes_max:
                return found
        return stored(self._said(message, message.argsrepr or None, message.kwargsrepr or None))

    def _arguments(self, message: TaskMessage) -> tuple[Any, Any]:
        """The arguments of a task as they came; None where reading them may do harm, or fails."""
        if not is_harmless(message):
            return None, None
        try:
            args, kwargs, _embed = message.payload(self._table)
        except MalformedMessage:
            return None, None  # which is most often why it does not run
        return args, kwargs

    def _said(self, message: TaskMessage, args: Any, kwargs: Any) -> Mapping[str, Any]:
        """What an extended result says of a message."""
        return {
            "name": message.task,
            "args": args,
            "kwargs": kwargs,
            "worker": self._node or None,
            "retries": message.retries,
            "queue": message.routing_key,
        }

    def end(
        self,
        task_id: str,
        state: str,
        error: Any,
        *,
        traceback: str | None = None,
        group_id: str | None = None,
        parent_id: str | None = None,
        reply_to: str = "",
        extended: Mapping[str, Any] | None = None,
    ) -> StoredResult:
        """The document of a task that somebody else knows the end of.

        :param error: of FAILURE or REVOKED, the exception.
        :param extended: fields of `result_extended`.
        """
        document = result_document.encode(
            state,
            error,
            task_id=task_id,
            serializer=self._serializer,
            traceback=traceback,
            group_id=group_id,
            parent_id=parent_id,
            date_done_wall_s=wall_s(),
            extended=extended,
        )
        return StoredResult(task_id, document, self._lifetimes.of(state), reply_to=reply_to)


def _reply_to(message: TaskMessage | None) -> str:
    return "" if message is None else message.reply_to or ""


def _may_compress(config: Any) -> bool:
    """Not where a result is no document of its own: in a table, or a message."""
    return not str(config.result_backend or "").startswith(("db+", "rpc:"))


def too_large(size_bytes: int, bytes_max: int) -> BackendStoreError:
    """The error of a task whose result is larger than `result_max_bytes`."""
    return BackendStoreError(
        f"the result has {size_bytes} bytes, of at most {bytes_max}: keep it elsewhere and "
        "return where it is, or raise result_max_bytes"
    )


def _failed(error: Exception) -> Executed:
    return Executed(states.FAILURE, error, ExceptionInfo(error))
