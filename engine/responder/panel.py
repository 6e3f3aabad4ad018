"""The commands of remote control that a worker answers, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from . import cancelling, limiting, looking, pool
from .side import WorkerSide

ERROR_LENGTH_MAX: Final = 1000


class Command(NamedTuple):
    """One command.

    :param changes: it changes something, so it is carried out even when nobody waits for the answer.
    :param silent: it is not answered.
    """

    perform: Callable[..., Any]
    changes: bool = False
    silent: bool = False


COMMANDS: Final[Mapping[str, Command]] = MappingProxyType(
    {
        "ping": Command(looking.ping),
        "clock": Command(looking.clock),
        "conf": Command(looking.conf),
        "dump_conf": Command(looking.conf),
        "report": Command(looking.report),
        "registered": Command(looking.registered),
        "dump_tasks": Command(looking.registered),
        "active_queues": Command(looking.active_queues),
        "stats": Command(looking.stats),
        "active": Command(looking.active),
        "dump_active": Command(looking.active),
        "reserved": Command(looking.reserved),
        "dump_reserved": Command(looking.reserved),
        "scheduled": Command(looking.scheduled),
        "dump_schedule": Command(looking.scheduled),
        "query_task": Command(looking.query_task),
        "revoked": Command(cancelling.revoked),
        "dump_revoked": Command(cancelling.revoked),
        "hello": Command(cancelling.hello, changes=True),
        "revoke": Command(cancelling.revoke, changes=True),
        "terminate": Command(cancelling.terminate, changes=True),
        "revoke_by_stamped_headers": Command(cancelling.revoke_by_stamped_headers, changes=True),
        "rate_limit": Command(limiting.rate_limit, changes=True),
        "time_limit": Command(limiting.time_limit, changes=True),
        "pool_grow": Command(pool.pool_grow, changes=True),
        "pool_shrink": Command(pool.pool_shrink, changes=True),
        "pool_restart": Command(pool.pool_restart, changes=True),
        "autoscale": Command(pool.autoscale, changes=True),
        "enable_events": Command(pool.no_events),
        "disable_events": Command(pool.no_events),
        "heartbeat": Command(pool.no_answer),
        "election": Command(pool.no_answer),
        "shutdown": Command(pool.shutdown, changes=True, silent=True),
    }
)


def perform(side: WorkerSide, method: str, arguments: Mapping[str, Any]) -> Any:
    """Carry out a command and return its answer; whatever it raises is an answer, too."""
    command = COMMANDS.get(method)
    try:
        if command is None:
            raise KeyError(method)
        return command.perform(side, **arguments)
    except Exception as error:  # noqa: BLE001 - the answer says so, whatever it is
        side.count("failed")
        return {"error": repr(error)[:ERROR_LENGTH_MAX]}
