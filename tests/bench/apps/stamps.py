"""Send stamped messages now and then, so that the worker is idle at each: ``stamps.py COUNT INTERVAL_S``."""

from __future__ import annotations

import random
import sys
import time

import prefork_tasks


def main(count: int, interval_s: float) -> None:
    """Send them, at irregular intervals: a worker that polls cannot keep step with the sender."""
    chance = random.Random(count)
    for _ in range(count):
        prefork_tasks.send_stamped(time.monotonic_ns())
        time.sleep(interval_s * chance.uniform(0.5, 1.5))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
