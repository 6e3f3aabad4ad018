"""Ask an idle worker now and then: ``probe.py MODULE COUNT INTERVAL_S latency|round-trip``.

``latency``: stamped messages, whose delay the task records. ``round-trip``: prints the milliseconds of each.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
import time


def main(module: str, count: int, interval_s: float, what: str) -> None:
    """At irregular intervals: a worker that polls cannot keep step with the sender."""
    tasks = importlib.import_module(module)
    chance = random.Random(count)
    took_ms = []
    for number in range(count):
        if what == "latency":
            tasks.send_stamped(number, time.monotonic_ns())
        else:
            start_ns = time.perf_counter_ns()
            tasks.round_trip(number)
            took_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
        time.sleep(interval_s * chance.uniform(0.5, 1.5))
    print(json.dumps(took_ms))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
