"""What the configuration costs, and what it leaves alone until it is needed."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import sys, json, time
before = set(sys.modules)
start = time.process_time()
from prefork.engine.config import PendingConfig
took_s = time.process_time() - start
print(json.dumps([took_s, sorted(set(sys.modules) - before)]))
"""


def test_importing_the_configuration_is_cheap_and_loads_no_parser_and_no_driver() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True) for _ in range(3)
    ]
    took_s, loaded = min(json.loads(run.stdout) for run in runs)
    heavy = {
        "kombu",
        "celery",
        "amqp",
        "redis",
        "msgspec",
        "billiard",
        "asyncio",
        "tomllib",
        "tomli",
        "zoneinfo",
    }
    assert heavy.isdisjoint(name.partition(".")[0] for name in loaded)
    # Processor time: others are at work as well.
    # The budget is 25 ms with compiled files; compiling them on the way takes three times as long.
    assert took_s < 0.1
