"""Revoking, from the side of a client: what makes it hold even though no worker may be running.

The broker remembers it where it can, and REVOKED is stored as the result. Workers that run are told
through remote control, besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..transports.base import Answers
from ..transports.coordination import Coordinates
from .exceptions import ImproperlyConfigured
from .revoked_keys import stamp_keys, task_key

NOBODY_REMEMBERS = (
    "nobody would remember what is revoked: this broker does not, and there is no result store that workers "
    "can look into; set result_backend"
)

if TYPE_CHECKING:
    from .app import App


def remember(app: App, ids: Sequence[str]) -> bool:
    """Have broker and result store remember that these are revoked.

    :returns: False when neither can: then only workers that run now can be told.
    :raises BrokerUnavailable: the broker cannot be reached.
    :raises ResultStoreUnavailable: the result store cannot be reached.
    """
    by_broker = _remembered(app, [task_key(task_id) for task_id in ids])
    store = app.client.results
    if store is None or isinstance(store, Answers):
        return by_broker
    app.client.stored.revoke(ids)
    return True


def remember_stamps(app: App, headers: Mapping[str, Any] | Iterable[str]) -> bool:
    """Have the broker remember that what is stamped with these is revoked; False when it cannot.

    :param headers: values (or lists of values) by header, or texts ``header=value``.
    :raises ValueError: it is neither.
    """
    return _remembered(app, stamp_keys(headers))


def _remembered(app: App, keys: Sequence[str]) -> bool:
    transport = app.client.transport
    if not isinstance(transport, Coordinates):
        return False
    transport.revoke(keys, app.config.worker_revoke_expires)
    return True


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

    :param terminate: refused until running workers can be told.
    :raises ImproperlyConfigured: neither the broker remembers it, nor a result store; or `terminate`.
    :raises ValueError: there is no such signal.
    """
    if terminate:
        raise ImproperlyConfigured("terminate=True needs remote control: use a time limit, or revoke in time")
    if not remember(app, ids):
        raise ImproperlyConfigured(NOBODY_REMEMBERS)
