"""Commands that only look (interop §11.5, §11.6). Which task runs is read from the scoreboard."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

from ...serializers.base import SerializerError
from ...transports.base import Delivery
from ...transports.errors import TransportError
from ...transports.url import InvalidUrl
from ...transports.url import parse as parse_url
from ..clock import mono_ns, mono_s, wall_s
from ..config.show import humanize, table
from ..einfo import safe_text
from ..message import MalformedMessage, bounded_repr, parse
from ..routes import queue_specs, spec_of
from ..scoreboard import (
    C_BATCH,
    C_CURSOR,
    C_EXECUTIONS,
    C_HELD,
    C_RUNNING,
    C_START_NS,
    S_GENERATION,
    S_PID,
    Slot,
)
from ..version import __version__
from ..worker_names import owner as owner_name
from .limiting import rate_shown
from .side import WorkerSide

_TASKS_MAX: Final = 1000
_DEFAULT_ATTRIBUTES: Final = ("exchange", "routing_key", "rate_limit")
_PLAIN: Final = (str, int, float, bool, type(None))


def ping(side: WorkerSide, **_: Any) -> Any:
    """Say that the worker is there."""
    return {"ok": "pong"}


def clock(side: WorkerSide, **_: Any) -> Any:
    """The logical clock."""
    return {"clock": side.clock.forward()}


def report(side: WorkerSide, **_: Any) -> Any:
    """Versions and settings, for a bug report; secrets masked."""
    lines = [
        f"prefork {__version__}",
        f"python {platform.python_version()} ({platform.python_implementation()})",
        f"system {platform.platform()}",
        humanize(side.loaded.config),
    ]
    return {"ok": "\n".join(lines)}


def conf(side: WorkerSide, with_defaults: Any = False, **_: Any) -> Any:
    """The settings that were given, or all of them; secrets masked."""
    return {
        key: plain(value)
        for key, value in table(side.loaded.config, with_defaults=bool(with_defaults)).items()
        if not key.startswith("__")
    }


def plain(value: Any) -> Any:
    """A value as every serializer takes it: what has no form is shown as its repr."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    return value if isinstance(value, _PLAIN) else bounded_repr(value)


def registered(side: WorkerSide, taskinfoitems: Any = None, builtins: Any = False, **_: Any) -> Any:
    """The tasks, each with those of the attributes that it has."""
    wanted = [one for one in (taskinfoitems or _DEFAULT_ATTRIBUTES) if isinstance(one, str)]
    found = []
    for name, task in sorted(side.loaded.app.tasks.items()):
        if name.startswith("celery.") and not builtins:
            continue
        values = {one: getattr(task, one, None) for one in wanted if not one.startswith("_")}
        if "rate_limit" in values:
            values["rate_limit"] = rate_shown(side, name, values["rate_limit"])
        shown = [f"{one}={value}"[:200] for one, value in values.items() if value is not None]
        found.append(f"{name} [{' '.join(shown)}]" if shown else name)
    return found


def active_queues(side: WorkerSide, **_: Any) -> Any:
    """The queues that this worker consumes from, as peers describe them."""
    specs = queue_specs(side.loaded.config)
    found = []
    for name in side.loaded.options["queues"]:
        spec = spec_of(name, specs)
        options = dict(spec.options or {})
        found.append(
            {
                "name": name,
                "exchange": _exchange(spec.exchange, spec.exchange_type),
                "routing_key": spec.routing_key,
                "queue_arguments": plain(options.get("queue_arguments")),
                "binding_arguments": None,
                "consumer_arguments": None,
                "durable": bool(options.get("durable", True)),
                "exclusive": bool(options.get("exclusive", False)),
                "auto_delete": bool(options.get("auto_delete", False)),
                "no_ack": False,
                "alias": None,
                "bindings": [],
                "no_declare": None,
                "expires": options.get("expires"),
                "message_ttl": options.get("message_ttl"),
                "max_length": options.get("max_length"),
                "max_length_bytes": options.get("max_length_bytes"),
                "max_priority": options.get("max_priority"),
            }
        )
    return found


def _exchange(name: str, kind: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": kind,
        "arguments": None,
        "durable": True,
        "passive": False,
        "auto_delete": False,
        "delivery_mode": None,
        "no_declare": False,
    }


def stats(side: WorkerSide, **_: Any) -> Any:
    """Counters and facts of the worker."""
    slots = side.slots()
    options = side.loaded.options
    executions = sum(slot.words[C_EXECUTIONS] for slot in slots)
    supervisor_pid = os.getpid()
    found: dict[str, Any] = {}
    if side.supervisor is not None:
        found["prefork"] = side.supervisor.ask("stats")
        supervisor_pid = found["prefork"]["pid"]
        executions = found["prefork"]["totals"]["executions"]
        if options["autoscale"]:
            most, least = options["autoscale"]
            found["autoscaler"] = {"max": most, "min": least, "current": len(slots), "qty": 0}
    config = side.loaded.config
    return {
        **found,
        "total": {"tasks": executions} if executions else {},
        "pid": supervisor_pid,
        "uptime": int(mono_s() - side.started_mono_s),
        "clock": str(side.clock.value),
        "pool": {
            "implementation": "prefork.engine.supervisor:Pool" if side.supervisor else "prefork.engine:solo",
            "max-concurrency": len(slots),
            "processes": [slot.words[S_PID] or os.getpid() for slot in slots],
            "max-tasks-per-child": options["max_tasks_per_child"] or "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": [config.task_soft_time_limit or 0, config.task_time_limit or 0],
            "writes": {"total": "N/A", "avg": "N/A", "all": "N/A", "raw": "N/A", "strategy": "N/A"},
        },
        "prefetch_count": config.worker_prefetch_multiplier * max(1, len(slots)),
        "broker": _broker(str(config.broker_url or "filesystem://")),
        "rusage": _rusage(),
        "control": dict(side.counts),
    }


def _broker(url: str) -> dict[str, Any]:
    """The address without its password; nothing of it where it cannot be read."""
    try:
        parsed = parse_url(url)
    except InvalidUrl:
        return {"transport": "N/A"}
    return {
        "hostname": parsed.host,
        "userid": parsed.user,
        "virtual_host": parsed.path.lstrip("/") or "/",
        "port": parsed.port,
        "insist": False,
        "ssl": False,
        "transport": parsed.scheme,
        "connect_timeout": 4,
        "transport_options": {},
        "login_method": None,
        "uri_prefix": None,
        "heartbeat": None,
        "failover_strategy": "round-robin",
        "alternates": [],
    }


def _rusage() -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {name.removeprefix("ru_"): getattr(used, name) for name in dir(used) if name.startswith("ru_")}


# --- tasks -----------------------------------------------------------------------------------------


def active(side: WorkerSide, safe: Any = False, **_: Any) -> Any:
    """The tasks that run."""
    found = []
    for slot in side.slots():
        words = slot.words
        execution, texts = words[C_RUNNING], slot.read_texts()
        if not execution or texts.torn or words[C_RUNNING] != execution:
            continue
        started_wall_s = wall_s() - (mono_ns() - words[C_START_NS]) / 1e9
        delivery = next(iter(_deliveries(side, slot, [texts.tag])), None)
        info = task_info(side, delivery, safe=bool(safe))
        found.append(
            {
                **info,
                "id": texts.task_id,
                "name": texts.task_name,
                "type": texts.task_name,
                "time_start": started_wall_s,
                "acknowledged": delivery is None,
                "worker_pid": words[S_PID] or os.getpid(),
            }
        )
    return found


def reserved(side: WorkerSide, safe: Any = False, **_: Any) -> Any:
    """The tasks that children hold and have not started."""
    found: list[dict[str, Any]] = []
    for slot in side.slots():
        words = slot.words
        batch, first, end = words[C_BATCH], words[C_CURSOR], words[C_HELD]
        tags = slot.read_tags(first, end)
        if (words[C_BATCH], words[C_HELD]) != (batch, end):
            continue  # it has gone on
        infos = [task_info(side, delivery, safe=bool(safe)) for delivery in _deliveries(side, slot, tags)]
        found += infos[: _TASKS_MAX - len(found)]
    return found


def scheduled(side: WorkerSide, **_: Any) -> Any:
    """The tasks that wait here for their time: none, they wait in the broker."""
    return []


def query_task(side: WorkerSide, ids: Any = (), **_: Any) -> Any:
    """What is known here of these tasks."""
    wanted = {ids} if isinstance(ids, str) else {one for one in ids or () if isinstance(one, str)}
    found = {one["id"]: ["reserved", one] for one in reserved(side) if one["id"] in wanted}
    found |= {one["id"]: ["active", one] for one in active(side) if one["id"] in wanted}
    return found


def _deliveries(side: WorkerSide, slot: Slot, tags: Sequence[bytes]) -> Iterable[Delivery]:
    """What a child holds, where another process may read it: not on AMQP, nor what was acknowledged."""
    transport = side.storage.transport
    if not tags or not transport.capabilities.recall_by_others:
        return []
    found = []
    try:
        with closing(
            transport.attach(owner_name(side.worker_id, slot.index, slot.words[S_GENERATION]))
        ) as held:
            found = [held.fetch(tag) for tag in tags]
    except TransportError:
        side.count("unread")  # the answer then lacks the arguments
    return [delivery for delivery in found if delivery is not None]


def task_info(side: WorkerSide, delivery: Delivery | None, *, safe: bool) -> dict[str, Any]:
    """A task as inspect commands show it (interop §4.5)."""
    info: dict[str, Any] = {
        "id": None,
        "name": None,
        "args": "" if safe else [],
        "kwargs": "" if safe else {},
        "type": None,
        "hostname": side.node,
        "time_start": None,
        "acknowledged": False,
        "delivery_info": {"exchange": "", "routing_key": "", "priority": 0, "redelivered": False},
        "worker_pid": None,
    }
    if delivery is None:
        return info
    info["delivery_info"] = {
        "exchange": "",
        "routing_key": delivery.queue,
        "priority": delivery.priority,
        "redelivered": delivery.redelivered,
    }
    try:
        message = parse(delivery.document, side.storage.table)
        info |= {"id": message.id, "name": message.task, "type": message.task}
        # What may not be decoded here (a pickle) is shown as far as its sender lets it be seen.
        info |= {"args": message.argsrepr or info["args"], "kwargs": message.kwargsrepr or info["kwargs"]}
        args, kwargs, _ = message.payload(side.storage.table)
    except (MalformedMessage, SerializerError):
        return info  # whoever runs it says what is wrong with it
    return info | {
        "args": _arguments(message.argsrepr, args, tuple(args), safe),
        "kwargs": _arguments(message.kwargsrepr, kwargs, kwargs, safe),
    }


def _arguments(told: str, values: Any, as_called: Any, safe: bool) -> Any:
    """What is shown of arguments: the values, or what the caller lets viewers see instead of them.

    Celery's clients send the repr of the values with every message; that hides nothing.

    :param told: ``argsrepr`` or ``kwargsrepr`` of the message; empty if nobody gave one.
    :param values: as the message has them.
    :param as_called: the same, as the function gets them.
    :param safe: as text.
    """
    forms = (values, as_called)
    if told and told not in {text for one in forms for text in (bounded_repr(one), safe_text(one))}:
        return told
    return bounded_repr(as_called) if safe else plain(values)
