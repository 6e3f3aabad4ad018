"""Send messages and print how long it took: ``enqueue.py MODULE COUNT [each|bulk|delayed]``."""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from types import ModuleType

# Sent within the count, but before the clock runs: connections and caches are made by then.
WARM_UP = 100
_DELAYED_S = 86_400.0


def main(module: str, count: int, how: str) -> None:
    """Print ``{"sent": timed messages, "s": seconds}``."""
    send = sender(importlib.import_module(module), how)
    warm_up = min(WARM_UP, count // 2)
    send(range(warm_up))
    gc.collect()
    start_ns = time.perf_counter_ns()
    send(range(warm_up, count))
    took_ns = time.perf_counter_ns() - start_ns
    print(json.dumps({"sent": count - warm_up, "s": took_ns / 1e9}))


def sender(module: ModuleType, how: str) -> Callable[[Iterable[int]], None]:
    """What sends so many messages, in the way that is asked for."""
    if how == "bulk":
        return lambda numbers: module.send_bulk(numbers)
    if how == "delayed":
        return lambda numbers: module.send_delayed(numbers, _DELAYED_S)
    one: Callable[[int], object] | None = getattr(module, "send", None)
    each: Callable[[Iterable[int]], None] | None = getattr(module, "send_each", None)
    if each is not None:
        return each
    assert one is not None, f"{module.__name__} has neither send nor send_each"

    def in_turn(numbers: Iterable[int]) -> None:
        for number in numbers:
            one(number)

    return in_turn


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "each")
