"""Runs the tests of RabbitMQ once with each server of PREFORK_TEST_RABBITMQ_SERVERS. Run by tox.

The variable holds paths of ``rabbitmq-server`` programs, separated by ``:``; each has its
``rabbitmqctl`` beside it. From version 4 on, servers are told to refuse what they still tolerate.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "PREFORK_TEST_RABBITMQ_SERVERS"
MORE_CONFIG = "TESTS_RABBITMQ_CONFIG"  # as in support.rabbitmq_server
DEPRECATED = (
    "transient_nonexcl_queues",
    "global_qos",
    "amqp_address_v1",
    "management_metrics_collection",
)


def servers(text: str) -> list[Path]:
    """The programs that a value of the variable names.

    :raises SystemExit: it names none, or one that cannot be run.
    """
    found = [Path(name).resolve() for name in text.split(":") if name]
    if not found:
        raise SystemExit(
            f"{VARIABLE} must name rabbitmq-server programs, separated by ':'; see CONTRIBUTING.md"
        )
    for program in found:
        for one in (program, program.with_name("rabbitmqctl")):
            if not os.access(one, os.X_OK) or one.is_dir():
                raise SystemExit(f"{one}, needed by {VARIABLE}, is no program that can be run")
    return found


def config_for(version: str) -> str:
    """What a server is told besides what every one is told."""
    if int(version.partition(".")[0]) < 4:
        return ""
    return "".join(f"deprecated_features.permit.{name} = false\n" for name in DEPRECATED)


def main(command: Sequence[str]) -> int:
    """Run a command with each server in front of PATH; the number of those with which it failed."""
    failed = 0
    # The variable is for us: prefork would take it for a setting of its own.
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    for program in servers(os.environ.get(VARIABLE, "")):
        asked = [str(program.with_name("rabbitmqctl")), "version"]
        version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[-1]
        print(f"== RabbitMQ {version}", flush=True)
        path = f"{program.parent}:{os.environ.get('PATH', '')}"
        more = {"PATH": path, MORE_CONFIG: config_for(version)}
        status = subprocess.run(command, env={**environ, **more}, check=False).returncode
        failed += status != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
