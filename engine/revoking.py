"""Revoking, from the side of a client: what makes it hold although no worker may be running.

The broker remembers it where it can, and workers that run are told through remote control. REVOKED is
stored as the result once all of them have said that the task does not run there; else by whoever meets its
message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..transports.base import Answers
from ..transports.coordination import Coordinates
from ..transports.mailbox import Controls
from ..transports.presence import KnowsWorkers
from .exceptions import ImproperlyConfigured
from .revoked_keys import stamp_keys, task_key
from .terminating import SOFT

if TYPE_CHECKING:
    from .app import App

NOBODY_REMEMBERS = (
    "nobody would remember what is revoked: this broker does not, and there is no result store that workers "
    "can look into (results of rpc:// are messages); set result_backend to one"
)
NO_STAMPS = (
    "nobody would remember which stamps are revoked: this broker does not; revoke the tasks by their ids"
)
NOBODY_ENDS = (
    "terminate=True needs remote control, which this broker does not carry: use a time limit, or revoke "
    "before the task starts"
)


def revoke(
    app: App,
    ids: Sequence[str],
    *,
    terminate: bool = False,
    signal: Any = None,
    wait: bool = False,
    timeout: float | None = None,
) -> Any:
    """Have these tasks not run.

    :param terminate: end those that run, too.
    :param signal: with what; None is SIGTERM.
    :param wait: wait for the answers of workers, and return them.
    :param timeout: seconds to wait for them; None is one.
    :raises ValueError: there is no such signal.
    :raises ImproperlyConfigured: nobody would remember it, or nobody can be told to end a task.
    :raises BrokerUnavailable: the broker cannot be reached.
    :raises ResultStoreUnavailable: the result store cannot be reached.
    """
    transport = app.client.transport
    if terminate and not isinstance(transport, Controls):
        raise ImproperlyConfigured(NOBODY_ENDS)
    stored = _has_store(app)
    if isinstance(transport, Controls) and isinstance(transport, Coordinates):
        waiting: dict[str, Any] = {"reply": wait, "timeout": 1.0 if timeout is None else timeout}
        return app.control.revoke(list(ids), terminate=terminate, signal=signal or "SIGTERM", **waiting)
    if stored:
        # Nobody can be asked what runs. Workers look here before they start a task.
        app.client.stored.revoke(ids)
    if isinstance(transport, Coordinates):
        remember(app, [task_key(task_id) for task_id in ids])
    elif not stored:
        raise ImproperlyConfigured(NOBODY_REMEMBERS)
    return None


def remember(app: App, keys: Sequence[str]) -> None:
    """Have the broker remember what is revoked, where it can.

    Twice does no harm. So it is tried again for a while, as the messages of tasks are, if the broker is away
    or its connection was lost since.

    :raises BrokerUnavailable: the broker cannot be reached.
    """
    client = app.client
    transport = client.transport
    if not keys or not isinstance(transport, Coordinates):
        return
    lifetime_s = app.config.worker_revoke_expires

    def attempt(_failed: int, _left_s: float) -> None:
        transport.revoke(keys, lifetime_s)

    client.persist(attempt)


def workers_to_ask(app: App, terminate: bool, signum: int) -> list[str] | None:
    """Who has to say that a revoked task does not run there, before REVOKED may be stored in advance.

    Asked after the broker was told what is revoked: whoever comes later knows it.

    :returns: the names that workers have in the broker; None where it is not stored in advance.
    :raises BrokerUnavailable: the broker cannot be reached.
    """
    transport = app.client.transport
    # Of a task in which only something is raised, nobody knows yet how it will end.
    if not _has_store(app) or (terminate and signum in SOFT) or not isinstance(transport, KnowsWorkers):
        return None
    return transport.workers()


def mark(app: App, ids: Sequence[str]) -> None:
    """Store REVOKED for tasks that will not run, so that nobody waits for them in vain.

    :raises ResultStoreUnavailable: the result store cannot be reached.
    """
    if ids:
        app.client.stored.revoke(ids, waiting_only=True, announce=False)


def _has_store(app: App) -> bool:
    store = app.client.results
    return store is not None and not isinstance(store, Answers)


def revoke_by_stamped_headers(
    app: App,
    headers: Mapping[str, Any] | Iterable[str],
    *,
    terminate: bool = False,
    signal: Any = None,
    wait: bool = False,
    timeout: float | None = None,
) -> Any:
    """Have no task run that is stamped with one of these values.

    :param headers: values (or lists of values) by header, or texts ``header=value``.
    :param terminate: and the other parameters: as in `revoke`.
    :raises ValueError: there is no such signal, or these are no stamped headers.
    :raises ImproperlyConfigured: nobody would remember it, or nobody can be told to end a task.
    :raises BrokerUnavailable: the broker cannot be reached.
    """
    transport = app.client.transport
    if terminate and not isinstance(transport, Controls):
        raise ImproperlyConfigured(NOBODY_ENDS)
    headers = headers if isinstance(headers, Mapping) else list(headers)
    keys = stamp_keys(headers)
    if isinstance(transport, Controls):
        waiting: dict[str, Any] = {"reply": wait, "timeout": 1.0 if timeout is None else timeout}
        return app.control.revoke_by_stamped_headers(
            headers, terminate=terminate, signal=signal or "SIGTERM", **waiting
        )
    if not isinstance(transport, Coordinates):
        raise ImproperlyConfigured(NO_STAMPS)
    remember(app, keys)
    return None
