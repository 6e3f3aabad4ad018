"""Signals: named moments that programs can listen to (parity §16).

A signal without listeners costs one attribute read: senders test ``if signal.receivers:`` first.
"""

from __future__ import annotations

import inspect
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, overload

Receiver = Callable[..., Any]
F = TypeVar("F", bound=Receiver)

_logger = logging.getLogger("celery.utils.dispatch.signal")


def _key_of(target: Any) -> Any:
    """What makes two senders (or receivers) the same one: a task's name, a text, or identity."""
    name = getattr(target, "__signal_key__", None)
    if name is not None:
        return name
    if isinstance(target, str):
        return target
    function = getattr(target, "__func__", None)
    if function is not None:
        return (id(target.__self__), id(function))
    return id(target)


def _takes_any_keyword(receiver: Receiver) -> bool:
    """Whether a receiver takes keywords that it does not name. What does not tell is believed."""
    try:
        parameters = inspect.signature(receiver).parameters.values()
    except ValueError:
        return True  # of a callable that is written in C: nobody can say
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


class _Listener:
    """One receiver, held weakly unless asked otherwise."""

    __slots__ = ("key", "ref", "sender_key", "strong")

    def __init__(self, key: Any, sender_key: Any, receiver: Receiver, weak: bool) -> None:
        self.key = key
        self.sender_key = sender_key
        self.strong: Receiver | None = None if weak else receiver
        self.ref: Callable[[], Receiver | None] | None = None
        if weak:
            self.ref = (
                weakref.WeakMethod(receiver) if hasattr(receiver, "__self__") else weakref.ref(receiver)
            )

    def live(self) -> Receiver | None:
        """The receiver, or None once it was collected."""
        return self.strong if self.ref is None else self.ref()


class Signal:
    """A moment that receivers are told about.

    :param name: shown in logs.
    :param providing_args: names of the arguments; documentation only.
    """

    def __init__(self, name: str = "", providing_args: frozenset[str] | set[str] | None = None) -> None:
        self.name = name
        self.providing_args = frozenset(providing_args or ())
        # sys.exit() in a receiver of a task's signal is not the task's, nor the agent's that speaks for it.
        # In one of a worker's it may be meant: the process is not to go on.
        self._logged: tuple[type[BaseException], ...] = (
            (Exception, SystemExit) if name.startswith("task_") else (Exception,)
        )
        # Written under the lock as a whole new tuple; read without it.
        self.receivers: tuple[_Listener, ...] = ()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Signal: {self.name or '?'}, {len(self.receivers)} receivers>"

    @overload
    def connect(self, receiver: F, sender: Any = ..., weak: bool = ..., dispatch_uid: Any = ...) -> F: ...

    @overload
    def connect(
        self,
        receiver: None = None,
        sender: Any = ...,
        weak: bool = ...,
        dispatch_uid: Any = ...,
        retry: bool = ...,
    ) -> Callable[[F], F]: ...

    def connect(
        self,
        receiver: Any = None,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Any = None,
        retry: bool = False,
    ) -> Any:
        """Call `receiver` whenever the signal is sent; also a decorator, with or without arguments.

        :param sender: only signals of this sender; a task may be given itself or by name.
        :param weak: hold the receiver weakly. Functions local to a function need False.
        :param dispatch_uid: a receiver connected under a uid already known replaces nothing.
        :param retry: accepted as users know it; a receiver that raises is logged, not repeated.
        :raises TypeError: the receiver cannot be called, or is a coroutine function: nobody would await it.
        :raises ValueError: it does not take any keyword: it would fail whenever the signal is sent.
        """
        if receiver is None:
            return lambda function: self.connect(function, sender, weak, dispatch_uid)
        if not callable(receiver):
            raise TypeError(f"a receiver of {self.name!r} must be callable, not {receiver!r}")
        if inspect.iscoroutinefunction(receiver) or inspect.iscoroutinefunction(type(receiver).__call__):
            raise TypeError(
                f"a receiver of {self.name!r} must be a plain function, not {receiver!r}: signals "
                "await nothing; use a hook of the task, such as an async before_start"
            )
        if not _takes_any_keyword(receiver):
            raise ValueError(
                f"a receiver of {self.name!r} must take **kwargs, which {receiver!r} does not: signals are "
                "sent with arguments by name, and a later version may send more"
            )
        sender_key = None if sender is None else _key_of(sender)
        key = (dispatch_uid if dispatch_uid is not None else _key_of(receiver), sender_key)
        listener = _Listener(key, sender_key, receiver, weak)
        with self._lock:
            alive = tuple(known for known in self.receivers if known.live() is not None)
            known_key = any(known.key == key for known in alive)
            self.receivers = alive if known_key else (*alive, listener)
        return receiver

    def disconnect(
        self,
        receiver: Receiver | None = None,
        sender: Any = None,
        weak: bool | None = None,
        dispatch_uid: Any = None,
    ) -> bool:
        """Stop calling a receiver; True if it was connected."""
        sender_key = None if sender is None else _key_of(sender)
        key = (dispatch_uid if dispatch_uid is not None else _key_of(receiver), sender_key)
        with self._lock:
            kept = tuple(known for known in self.receivers if known.key != key)
            found = len(kept) != len(self.receivers)
            self.receivers = kept
        return found

    def has_listeners(self, sender: Any = None) -> bool:
        """Whether anybody would be told."""
        if not self.receivers:
            return False
        return bool(self._live_receivers(sender))

    def send(self, sender: Any, **named: Any) -> list[tuple[Receiver, Any]]:
        """Tell every receiver; what one of them raises is logged and returned in its place."""
        if not self.receivers:
            return []
        responses: list[tuple[Receiver, Any]] = []
        for receiver in self._live_receivers(sender):
            try:
                response = receiver(signal=self, sender=sender, **named)
            except self._logged as exc:
                _logger.exception("signal handler %r of %s raised %r", receiver, self.name, exc)
                response = exc
            responses.append((receiver, response))
        return responses

    send_robust = send

    def _live_receivers(self, sender: Any) -> list[Receiver]:
        sender_key = None if sender is None else _key_of(sender)
        found: list[Receiver] = []
        for listener in self.receivers:
            if listener.sender_key is None or listener.sender_key == sender_key:
                receiver = listener.live()
                if receiver is not None:
                    found.append(receiver)
        return found


before_task_publish = Signal(
    "before_task_publish",
    {"body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"},
)
after_task_publish = Signal("after_task_publish", {"body", "exchange", "routing_key", "headers"})
task_sent = Signal("task_sent", {"task_id", "task", "args", "kwargs", "eta", "taskset"})
task_received = Signal("task_received", {"request"})
task_prerun = Signal("task_prerun", {"task_id", "task", "args", "kwargs"})
task_postrun = Signal("task_postrun", {"task_id", "task", "args", "kwargs", "retval", "state"})
task_success = Signal("task_success", {"result", "runtime"})
task_failure = Signal("task_failure", {"task_id", "exception", "args", "kwargs", "traceback", "einfo"})
task_internal_error = Signal(
    "task_internal_error",
    {"task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"},
)
task_retry = Signal("task_retry", {"request", "reason", "einfo"})
task_revoked = Signal("task_revoked", {"request", "terminated", "signum", "expired"})
task_rejected = Signal("task_rejected", {"message", "exc"})
task_unknown = Signal("task_unknown", {"message", "exc", "name", "id"})
celeryd_init = Signal("celeryd_init", {"instance", "conf", "options"})
celeryd_after_setup = Signal("celeryd_after_setup", {"instance", "conf"})
import_modules = Signal("import_modules")
worker_init = Signal("worker_init")
worker_before_create_process = Signal("worker_before_create_process")
worker_process_init = Signal("worker_process_init")
worker_process_shutdown = Signal("worker_process_shutdown", {"pid", "exitcode"})
worker_ready = Signal("worker_ready")
worker_shutting_down = Signal("worker_shutting_down", {"sig", "how", "exitcode"})
worker_shutdown = Signal("worker_shutdown")
heartbeat_sent = Signal("heartbeat_sent")
setup_logging = Signal("setup_logging", {"loglevel", "logfile", "format", "colorize"})
after_setup_logger = Signal("after_setup_logger", {"logger", "loglevel", "logfile", "format", "colorize"})
after_setup_task_logger = Signal(
    "after_setup_task_logger", {"logger", "loglevel", "logfile", "format", "colorize"}
)
beat_init = Signal("beat_init")
beat_embedded_init = Signal("beat_embedded_init")
eventlet_pool_started = Signal("eventlet_pool_started")
eventlet_pool_preshutdown = Signal("eventlet_pool_preshutdown")
eventlet_pool_postshutdown = Signal("eventlet_pool_postshutdown")
eventlet_pool_apply = Signal("eventlet_pool_apply", {"target", "args", "kwargs"})
user_preload_options = Signal("user_preload_options", {"app", "options"})
