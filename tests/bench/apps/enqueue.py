"""Send messages one at a time and print how long it took: ``enqueue.py MODULE COUNT``."""

from __future__ import annotations

import importlib
import json
import sys
import time

# Sent within the count, but before the clock runs: connections, caches and files are made by then.
WARM_UP = 100


def main(module: str, count: int) -> None:
    """Print ``{"sent": timed messages, "s": seconds, "cpu_s": of this process}``."""
    send = importlib.import_module(module).send
    warm_up = min(WARM_UP, count // 2)
    for number in range(warm_up):
        send(number)
    start_cpu_ns, start_ns = time.process_time_ns(), time.perf_counter_ns()
    for number in range(warm_up, count):
        send(number)
    took_ns, took_cpu_ns = time.perf_counter_ns() - start_ns, time.process_time_ns() - start_cpu_ns
    print(json.dumps({"sent": count - warm_up, "s": took_ns / 1e9, "cpu_s": took_cpu_ns / 1e9}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
