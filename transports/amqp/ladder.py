"""Delays in the broker: the ladder that Celery ≥ 5.5 declares (interop §6.4), and the end of it that is ours.

A delay is a row of binary digits in front of the routing key; each digit that is 1 is a queue in
which the message waits for that power of two. Celery's ladder counts whole seconds, and whoever stands
at its end bound with ``#.<key>`` takes what ends in that key. So ours leave it before its last level:
where Celery has a digit, they have a word that only our binding fits. What is left of the delay waits on
rungs of our own of 1024 … 8 ms, at whose end nobody but us binds anything. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

LEVELS = 28
DELIVERY_EXCHANGE = "celery_delayed_delivery"
RUNGS_MS = (1024, 512, 256, 128, 64, 32, 16, 8)
RUNG_MS = RUNGS_MS[-1]
END_EXCHANGE = "prefork_ladder_end"
STRAYS_EXCHANGE = "prefork_ladder_strays"
"""Where RabbitMQ hands what finds no binding at the end: it would be dropped, or block its rung."""
STRAYS_QUEUE = "prefork.strays"
OUR_MARK = "prefork"
DELAY_S_MAX = float(2**LEVELS - 1)

_PAIR_S = 2
"""What the lowest level counts that ours wait on."""
_TO_QUEUE, _VIA_EXCHANGE = "queue", "exchange"
_DIGITS = LEVELS - 1
_STARS = "*." * LEVELS
_OUR_STARS = "*." * _DIGITS + f"{OUR_MARK}." + "*." * len(RUNGS_MS)
_WAY = re.compile(
    rf"(?:[01]\.){{{_DIGITS}}}(?:[01]\.|{OUR_MARK}\.(?:[01]\.){{{len(RUNGS_MS)}}}"
    rf"(?P<target>{_TO_QUEUE}|{_VIA_EXCHANGE})\.)"
)
_WILD = {"*": "%2A", "#": "%23"}
"""Words that stand for others in the binding of a topic exchange, and what is written for them in names."""
_TAME = {escaped: word for word, escaped in _WILD.items()}
_LOOKS_ESCAPED = re.compile(r"%(?:25)*(?:2A|23)\Z")
_ESCAPED = (("%2E", "."), *_TAME.items(), ("%25", "%"))
_KEY_BYTES_MAX = 255
KEY_BYTES_MAX = _KEY_BYTES_MAX - len(_OUR_STARS) - len(f"{_TO_QUEUE}.")
"""How long the name of a queue may be for a message to be delayed on its way there."""


class Rung(NamedTuple):
    """One queue of a ladder, with the exchange of the same name before it.

    :param arguments: of the queue.
    :param waits: binds the queue to its exchange.
    :param passes: binds the next exchange to this rung's.
    """

    name: str
    arguments: dict[str, Any]
    next_exchange: str
    waits: str
    passes: str


def level_name(level: int) -> str:
    """Celery's name of a level."""
    return f"celery_delayed_{level}"


def rung_name(milliseconds: int) -> str:
    """Our name of a rung."""
    return f"prefork_ladder_{milliseconds}ms"


def celery_levels(queue_type: str) -> Iterator[Rung]:
    """The levels that Celery declares, from the highest, with identical arguments.

    :param queue_type: `broker_native_delayed_delivery_queue_type`.
    """
    for level in range(LEVELS - 1, -1, -1):
        following = level_name(level - 1) if level else DELIVERY_EXCHANGE
        arguments: dict[str, Any] = {
            "x-queue-type": queue_type,
            "x-overflow": "reject-publish",
            "x-message-ttl": (1 << level) * 1000,
            "x-dead-letter-exchange": following,
        }
        if queue_type == "quorum":
            arguments["x-dead-letter-strategy"] = "at-least-once"
        before = "*." * (LEVELS - 1 - level)
        yield Rung(level_name(level), arguments, following, f"{before}1.#", f"{before}0.#")


def our_rungs(queue_type: str) -> Iterator[Rung]:
    """The rungs below two seconds, from the longest."""
    for index, milliseconds in enumerate(RUNGS_MS):
        last = index == len(RUNGS_MS) - 1
        following = END_EXCHANGE if last else rung_name(RUNGS_MS[index + 1])
        arguments: dict[str, Any] = {
            "x-queue-type": queue_type,
            "x-overflow": "reject-publish",
            "x-message-ttl": milliseconds,
            "x-dead-letter-exchange": following,
        }
        if queue_type == "quorum":
            arguments["x-dead-letter-strategy"] = "at-least-once"
        before = "*." * _DIGITS + f"{OUR_MARK}." + "*." * index
        yield Rung(rung_name(milliseconds), arguments, following, f"{before}1.#", f"{before}0.#")


WAY_OUT = (level_name(0), rung_name(RUNGS_MS[0]), "*." * _DIGITS + f"{OUR_MARK}.#")
"""From Celery's exchange of a second to the first of ours: source, destination and key."""


def to_queue(queue: str) -> str:
    """What a delayed message bears in place of a routing key to reach one queue, and no other."""
    return f"{_TO_QUEUE}.{_literal(queue)}"


def via_exchange(exchange: str, routing_key: str) -> str:
    """What it bears to reach the queues that an exchange would have handed its routing key to."""
    return f"{_VIA_EXCHANGE}.{_one_word(exchange)}.{_literal(routing_key)}"


def pattern_via_exchange(exchange: str, pattern: str) -> str:
    """What a queue is bound with that a topic exchange has bound with a pattern: see `via_exchange`."""
    words = (word if word in _WILD else _literal(word) for word in pattern.split("."))
    return f"{_VIA_EXCHANGE}.{_one_word(exchange)}.{'.'.join(words)}"


def fits(target: str) -> bool:
    """Whether RabbitMQ takes a routing key with the delay in front of it."""
    return len(_OUR_STARS) + len(target.encode("utf-8", "surrogateescape")) <= _KEY_BYTES_MAX


def celery_key(key: str) -> str:
    """Binds at `DELIVERY_EXCHANGE` what clients of Celery delay.

    Exactly as many words as there are digits: ``#`` would hand what is meant for ``orders.high`` to
    ``high`` as well.
    """
    return f"{_STARS}{key}"


def end_key(target: str) -> str:
    """Binds at `END_EXCHANGE` what goes to a target of `to_queue` or `via_exchange`, or to such a pattern."""
    return f"{_OUR_STARS}{target}"


def address(delay_s: float, target: str) -> tuple[str, str]:
    """Exchange and routing key for a delay, which is rounded up to 8 ms and never down.

    :param target: of `to_queue` or `via_exchange`.
    :raises ValueError: the delay is no number, or longer than the ladder (8.5 years).
    """
    if not 0 <= delay_s <= DELAY_S_MAX:
        raise ValueError(f"a delay of {delay_s} s: RabbitMQ can wait from 0 to {DELAY_S_MAX:.0f} s")
    pairs, rest = divmod(math.ceil(delay_s * 1000 / RUNG_MS), _PAIR_S * 1000 // RUNG_MS)
    digits = ".".join(format(pairs, f"0{_DIGITS}b"))
    ours = ".".join(format(rest, f"0{len(RUNGS_MS)}b"))
    first = level_name(LEVELS - 1) if pairs else rung_name(RUNGS_MS[0])
    return first, f"{digits}.{OUR_MARK}.{ours}.{target}"


def origin(exchange: str, routing_key: str) -> tuple[str, str]:
    """Exchange and routing key as a message would have had them without its delay.

    The exchange of what was sent to a queue is the default one, whose name is empty.
    """
    found = _WAY.match(routing_key)
    if found is None:
        return exchange, routing_key
    rest = routing_key[found.end() :]
    if found["target"] is None:
        return "", rest  # of a client of Celery
    if found["target"] == _TO_QUEUE:
        return "", _unescaped(rest)
    word, _, key = rest.partition(".")
    for escaped, name in _ESCAPED:
        word = word.replace(escaped, name)
    return word, _unescaped(key)


def _one_word(name: str) -> str:
    return _WILD.get(name) or name.replace("%", "%25").replace(".", "%2E")


def _literal(name: str) -> str:
    """A name none of whose words means others in a binding; a word that looks like such a one is marked."""
    return ".".join(
        _WILD.get(word) or (f"%25{word[1:]}" if _LOOKS_ESCAPED.match(word) else word)
        for word in name.split(".")
    )


def _unescaped(name: str) -> str:
    if "%" not in name:
        return name
    return ".".join(
        _TAME.get(word) or (f"%{word[3:]}" if _LOOKS_ESCAPED.match(word) else word)
        for word in name.split(".")
    )
