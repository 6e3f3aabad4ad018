"""Queues whose names say how they are declared (a worker's own, its copy of a broadcast); what they take.

Facts: interop §6.1 (`worker_direct`, Broadcast).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .values import QueueDeclaration

DIRECT_EXCHANGE = "C.dq2"
DIRECT_SUFFIX = ".dq2"
COPY_MARK = "~"
COPY_EXPIRES_MS = 86_400_000
"""How long a broker that can tell keeps the copies for a worker that is away."""


def named(queue: str, declared: Mapping[str, QueueDeclaration]) -> QueueDeclaration | None:
    """How a queue is declared; None if neither the configuration nor its name says so."""
    found = declared.get(queue)
    if found is not None:
        return found
    if queue.endswith(DIRECT_SUFFIX):
        return QueueDeclaration(
            queue, exchange=DIRECT_EXCHANGE, routing_key=queue.removesuffix(DIRECT_SUFFIX)
        )
    base = declared.get(original(queue))
    if base is None or not base.broadcast:
        return None
    arguments = {"x-expires": COPY_EXPIRES_MS, **base.arguments}
    return msgspec.structs.replace(
        base,
        name=queue,
        broadcast=False,
        durable=True,
        auto_delete=False,
        exclusive=False,
        arguments=arguments,
    )


def copy_for(queue: str, node: str) -> str:
    """The queue in which the copies of a broadcast wait that one worker gets.

    :param node: its name, of letters, digits and ``_ . @ -`` only.
    """
    return f"{queue}{COPY_MARK}{node}"


def original(copy: str) -> str:
    """The queue that a copy is one of; empty if it is none."""
    return copy.rpartition(COPY_MARK)[0]


def topic_matches(pattern: str, routing_key: str) -> bool:
    """Whether a topic binding takes a routing key: ``*`` is one word, ``#`` any number."""
    words, keys = pattern.split("."), routing_key.split(".")
    # reachable[j]: the pattern read so far can match the first j words of the key.
    reachable = [True] + [False] * len(keys)
    for word in words:
        if word == "#":
            for j in range(1, len(keys) + 1):
                reachable[j] = reachable[j] or reachable[j - 1]
            continue
        reachable = [False] + [reachable[j] and (word == "*" or word == key) for j, key in enumerate(keys)]
    return reachable[-1]


def takes(declared: QueueDeclaration, exchange: str, routing_key: str) -> bool:
    """Whether an exchange hands a routing key to a queue, or to the copies of a broadcast."""
    if declared.exchange != exchange:
        return False
    match declared.exchange_type:
        case "direct":
            return (declared.routing_key or declared.name) == routing_key
        case "topic":
            return topic_matches(declared.routing_key, routing_key)
        case kind:
            return kind == "fanout"
