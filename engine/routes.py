"""Which queue a call goes to: call > task > `task_routes` > default queue (parity §9).

Queues are described by names, maps, or objects with kombu's attributes (`name`, `exchange`,
`routing_key`), which are read and never imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from importlib import import_module
from typing import Any

from ..transports.base import QueueDeclaration
from ..transports.declarations import DIRECT_EXCHANGE, DIRECT_SUFFIX, original, topic_matches
from .exceptions import ImproperlyConfigured, QueueNotFound

Route = Callable[..., Any]


@dataclass(frozen=True)
class QueueSpec:
    """A queue as the configuration describes it.

    :param exchange: name of its exchange.
    :param exchange_type: direct, topic or fanout.
    :param options: everything else that was said of it.
    :param broadcast: every worker that consumes it gets a copy of each message.
    """

    name: str
    exchange: str
    routing_key: str
    exchange_type: str = "direct"
    options: Mapping[str, Any] | None = None
    broadcast: bool = False


@dataclass(frozen=True)
class Destination:
    """Where a message goes.

    :param queues: exact names; one, unless an exchange fans out.
    :param exchange: as it appears in the message; empty for the default exchange.
    :param extra: further options of a call that a route gave, such as a priority.
    :param bound: whether, as far as the configuration tells, the exchange leads to these queues. If not,
        only a broker that keeps bindings can know where the message goes.
    """

    queues: tuple[str, ...]
    exchange: str
    routing_key: str
    extra: Mapping[str, Any] | None = None
    bound: bool = True


def _exchange_of(value: Any, default: str) -> tuple[str, str | None]:
    if value is None:
        return default, None
    if isinstance(value, str):
        return value, None
    return str(getattr(value, "name", "") or ""), getattr(value, "type", None)


def _spec(name: str, described: Any, config: Any) -> QueueSpec:
    """Read a queue from a map or from an object with kombu's attributes."""
    if isinstance(described, Mapping):
        facts = dict(described)
    else:
        facts = {
            key: getattr(described, key)
            for key in ("exchange", "routing_key", "queue_arguments", "max_priority")
            if getattr(described, key, None) is not None
        }
    default_exchange = config.task_default_exchange or name
    exchange, kind = _exchange_of(facts.pop("exchange", None), default_exchange)
    broadcast = bool(facts.pop("broadcast", False)) or (
        kind == "fanout" and getattr(described, "alias", None) is not None
    )
    kind = (
        "fanout"
        if broadcast
        else facts.pop("exchange_type", None) or kind or config.task_default_exchange_type or "direct"
    )
    key = facts.pop("routing_key", None) or facts.pop("binding_key", None)
    if not key:
        # An object without a key gets the default one, as Celery gives it; for a direct exchange, where
        # messages go by the name of the queue, the name binds as well.
        by_name = kind == "direct" or isinstance(described, Mapping)
        key = name if by_name else config.task_default_routing_key or config.task_default_queue
    return QueueSpec(name, exchange, str(key), str(kind), facts or None, broadcast)


def queue_specs(config: Any) -> dict[str, QueueSpec]:
    """The queues that the configuration declares, by name; the default one alone if none are.

    :raises ImproperlyConfigured: something that is no queue.
    """
    declared = config.task_queues
    if not declared:
        name = config.task_default_queue
        described = {
            "exchange": config.task_default_exchange,
            "routing_key": config.task_default_routing_key,
        }
        return {name: _spec(name, described, config)}
    items: Iterable[tuple[Any, Any]]
    if isinstance(declared, Mapping):
        items = [(name, value or {}) for name, value in declared.items()]
    else:
        items = [
            (q, {}) if isinstance(q, str) else (q["name"] if isinstance(q, Mapping) else _name_of(q), q)
            for q in declared
        ]
    found: dict[str, QueueSpec] = {}
    for name, described in items:
        if not isinstance(name, str) or not name:
            raise ImproperlyConfigured(f"task_queues: {described!r} has no name")
        if isinstance(described, Mapping):
            described = {key: value for key, value in described.items() if key != "name"}
        found[name] = _spec(name, described, config)
    return found


def spec_of(name: str, specs: Mapping[str, QueueSpec]) -> QueueSpec:
    """How a queue that a worker consumes is described, be it configured or one of its own."""
    found = specs.get(name) or specs.get(original(name))
    if found is not None:
        return found
    if name.endswith(DIRECT_SUFFIX):
        return QueueSpec(name, DIRECT_EXCHANGE, name.removesuffix(DIRECT_SUFFIX))
    return QueueSpec(name, name, name)


def _name_of(queue: Any) -> Any:
    """The name of a queue that is an object: for kombu's Broadcast, whose name is new in each process, the
    one that it was given."""
    name = getattr(queue, "name", None)
    alias = getattr(queue, "alias", None)
    return alias if alias and str(name).startswith("bcast.") else name


def declaration(spec: QueueSpec) -> QueueDeclaration:
    """A queue as transports are told of it."""
    said = dict(spec.options or {})
    arguments = dict(said.get("queue_arguments") or {})
    if said.get("max_priority") is not None:
        arguments["x-max-priority"] = said["max_priority"]
    return QueueDeclaration(
        name=spec.name,
        exchange=spec.exchange,
        exchange_type=spec.exchange_type,
        routing_key=spec.routing_key,
        durable=bool(said.get("durable", True)),
        auto_delete=bool(said.get("auto_delete", False)),
        exclusive=bool(said.get("exclusive", False)),
        arguments=arguments,
        broadcast=spec.broadcast,
    )


def worker_direct(hostname: str) -> str:
    """The queue that only the worker of this name consumes, if `worker_direct` is on.

    :param hostname: its node name, such as ``worker@host``.
    """
    return f"{hostname}{DIRECT_SUFFIX}"


def _by_map(rules: Iterable[tuple[Any, Any]]) -> Route:
    """A router of a map: exact names first, then globs and regular expressions in order."""
    exact: dict[str, Any] = {}
    patterns: list[tuple[re.Pattern[str], Any]] = []
    for key, value in rules:
        if isinstance(key, re.Pattern):
            patterns.append((key, value))
        elif any(mark in key for mark in "*?["):
            patterns.append((re.compile(translate(key)), value))
        else:
            exact[key] = value

    def route(name: str, *_args: Any, **_kwargs: Any) -> Any:
        if name in exact:
            return exact[name]
        return next((value for pattern, value in patterns if pattern.match(name)), None)

    route.fixed = True  # type: ignore[attr-defined]
    return route


def routers_of(routes: Any) -> list[Route]:
    """The routers that `task_routes` describes, in order.

    :raises ImproperlyConfigured: something that is neither a map nor a router.
    """
    if not routes:
        return []
    if isinstance(routes, (list, tuple)) and not (len(routes) == 2 and isinstance(routes[0], str)):
        pairs = [item for item in routes if isinstance(item, (list, tuple))]
        if len(pairs) == len(routes):
            return [_by_map(routes)]
        return [router for item in routes for router in routers_of(item)]
    if isinstance(routes, Mapping):
        return [_by_map(routes.items())]
    if isinstance(routes, str):
        module, _, attribute = routes.replace(":", ".").rpartition(".")
        if not module:
            raise ImproperlyConfigured(f"task_routes: {routes!r} is no dotted name of a router")
        return routers_of(getattr(import_module(module), attribute))
    for_task = getattr(routes, "route_for_task", None)
    if for_task is not None:
        return [lambda name, args, kwargs, options, task=None, **kw: for_task(name, args, kwargs)]
    if callable(routes):
        return [routes]
    raise ImproperlyConfigured(f"task_routes: {routes!r} is neither a map, a function nor a dotted name")


class Router:
    """Destinations of calls under one configuration. Read-only once made."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self.queues = queue_specs(config)
        self.broadcasts = frozenset(name for name, spec in self.queues.items() if spec.broadcast)
        self._routers = routers_of(config.task_routes)
        self._only_maps = all(getattr(router, "fixed", False) for router in self._routers)

    def fixed(self, task: Any) -> Destination | None:
        """Where calls of a task go that say nothing themselves; None if that must be asked each time."""
        if not self._only_maps:
            return None
        return self.route(task.name, (), {}, {}, task)

    def route(
        self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any = None
    ) -> Destination:
        """Where one call goes.

        :raises QueueNotFound: an unknown queue, while `task_create_missing_queues` is off.
        """
        wanted = {
            key: options[key] for key in ("queue", "exchange", "routing_key") if options.get(key) is not None
        }
        if task is not None and not wanted:
            wanted = {
                key: value
                for key in ("queue", "exchange", "routing_key")
                if (value := getattr(task, key, None)) is not None
            }
        extra: dict[str, Any] = {}
        answer = self._ask(name, args, kwargs, options, task)
        if answer:
            extra = {k: v for k, v in answer.items() if k not in ("queue", "exchange", "routing_key")}
            if not wanted:
                wanted = {k: v for k, v in answer.items() if k not in extra and v is not None}
        return self._destination(wanted, extra)

    def _ask(self, name: str, args: Any, kwargs: Any, options: Any, task: Any) -> dict[str, Any] | None:
        for router in self._routers:
            answer = router(name, args, kwargs, options, task=task)
            if answer:
                return {"queue": answer} if isinstance(answer, str) else dict(answer)
        return None

    def _destination(self, wanted: Mapping[str, Any], extra: dict[str, Any]) -> Destination:
        queue = wanted.get("queue")
        if queue is None and "exchange" not in wanted and "routing_key" not in wanted:
            queue = self._config.task_default_queue
        if queue is not None:
            name = queue if isinstance(queue, str) else str(_name_of(queue))
            spec = self.queues.get(name)
            if spec is None and not isinstance(queue, str):
                spec = _spec(name, queue, self._config)
            if spec is None:
                spec = self._missing(name)
            if spec.exchange_type == "direct" and "exchange" not in wanted:
                return Destination((name,), "", name, extra or None)
            key = wanted.get("routing_key") or spec.routing_key
            return Destination((name,), spec.exchange, str(key), extra or None)
        default = self.queues.get(self._config.task_default_queue)
        fallback = default.exchange if default is not None else self._config.task_default_queue
        exchange, _ = _exchange_of(wanted.get("exchange"), fallback)
        key = str(wanted.get("routing_key") or "")
        if exchange == DIRECT_EXCHANGE and key:
            return Destination((f"{key}{DIRECT_SUFFIX}",), "", f"{key}{DIRECT_SUFFIX}", extra or None)
        bound = self.bound_to(exchange, key)
        if bound and not key and self.queues[bound[0]].exchange_type == "fanout":
            key = self.queues[bound[0]].routing_key  # Redis publishes it where only those listen who have it
        if bound:
            return Destination(bound, exchange, key, extra or None)
        if "exchange" not in wanted and (default is None or default.exchange_type == "direct"):
            # A key alone says nothing where queues go by name: as with Celery, it is the default queue.
            return self._destination({"queue": self._config.task_default_queue}, extra)
        name = self._missing(key or exchange).name
        # A queue that is not described is bound to an exchange of its own name, by its own name.
        return Destination((name,), exchange, key, extra or None, bound=exchange == key)

    def bound_to(self, exchange: str, routing_key: str) -> tuple[str, ...]:
        """The declared queues that an exchange hands a routing key to."""
        return tuple(
            spec.name
            for spec in self.queues.values()
            if spec.exchange == exchange
            and (
                spec.exchange_type == "fanout"
                or (spec.exchange_type == "topic" and topic_matches(spec.routing_key, routing_key))
                or (spec.exchange_type == "direct" and spec.routing_key == routing_key)
            )
        )

    def _missing(self, name: str) -> QueueSpec:
        if name.endswith(DIRECT_SUFFIX):
            return spec_of(name, {})  # of one worker: it is never configured
        if name != self._config.task_default_queue and not self._config.task_create_missing_queues:
            raise QueueNotFound(
                f"queue {name!r} is not in task_queues ({', '.join(sorted(self.queues))}) "
                "and task_create_missing_queues is off"
            )
        return QueueSpec(name, name, name)
