"""What settings and tasks ask of a broker, and whether it can do that: told before anything starts.

Whoever relies on it at work asks again, with what the transport really is: a transport of others may claim
more than it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from ..transports.base import Capabilities
from ..transports.declarations import original
from ..transports.errors import BrokerUnavailable
from ..transports.registry import open_transport, options_known
from .broker_gaps import no_broadcast, no_fairness, no_limit, no_locks, no_turns
from .broker_options import consume_url
from .exceptions import ImproperlyConfigured
from .limits.policy import limits_of
from .queue_turns import turns_of
from .routes import queue_specs
from .unique import declared


def refuse_unkept(app: Any, config: Any, queues: Sequence[str]) -> None:
    """Refuse a worker whose broker cannot do what is asked of it; connects to nothing.

    :param queues: that it is to consume from.
    :raises ImproperlyConfigured: naming each setting or task, and the broker.
    """
    try:
        transport = open_transport(consume_url(config), app.client.transport_options())
    except BrokerUnavailable:
        return  # one that connects when it is opened, and is away: that is no fault of the configuration
    try:
        capabilities = transport.capabilities
    finally:
        transport.close()
    problems = [
        *_of_queues(config, queues, capabilities),
        *_of_tasks(app.tasks.values(), config, capabilities),
    ]
    if problems:
        raise ImproperlyConfigured("\n".join(problems))


def options_without_effect(config: Any) -> list[str]:
    """What is said at the start of each of `broker_transport_options` that the broker does not heed."""
    given = config.broker_transport_options
    url = consume_url(config)
    known = options_known(url) if given else None
    if known is None:
        return []
    found = []
    for name in sorted(set(given) - known):
        near = get_close_matches(str(name), known, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        found.append(f"broker_transport_options: {name!r} has no effect on {url.partition(':')[0]}{hint}")
    return found


def _of_queues(config: Any, queues: Sequence[str], able: Capabilities) -> Iterable[str]:
    turns = turns_of(queues, config.worker_queue_order, config.worker_queue_weights, 0)
    if turns is not None and not able.selects:
        yield no_turns(able.name)
    if config.worker_priority_fairness is not None and not able.rotates:
        yield no_fairness(able.name)
    if not able.routes and not able.lists_queues:
        specs = queue_specs(config)
        for queue in queues:
            spec = specs.get(original(queue))
            if spec is not None and spec.broadcast:
                yield no_broadcast(spec.name, able.name)


def _of_tasks(tasks: Iterable[Any], config: Any, able: Capabilities) -> Iterable[str]:
    for task in tasks:
        if not able.coordinates and declared(task):
            yield no_locks(task.name, able.name)
        limits = limits_of(task, config)
        refusal = no_limit(
            task.name, limits, limits.any and limits.key is None, able.name, able.coordinates, able.selects
        )
        if refusal is not None:
            yield refusal
