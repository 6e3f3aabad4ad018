"""The boot specification: how a worker is described to the supervisor's interpreter.

Plain data, standard library only. It travels in an anonymous file rather than on the command
line, where a broker password would be readable by everybody.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field, fields
from typing import Any

_START = (
    "import sys; sys.path[:1] = [entry for entry in sys.path[:1] if entry]; "
    "from prefork.engine.supervisor.__main__ import main; sys.exit(main(sys.argv[1:]))"
)


@dataclass
class BootSpec:
    """What a worker is told before it knows its configuration.

    :param app: where the application is: ``module``, ``module:attribute``, or, for one defined in
        a script, ``file:///path/to/script.py:attribute``.
    :param workdir: directory to change into, also put first on ``sys.path``.
    :param sys_path: entries put on ``sys.path`` before the application is imported.
    :param settings: configuration from the command line, by lower-case name; highest precedence.
    :param hostname: node name template (``%h`` ``%n`` ``%d`` are expanded by the supervisor).
    :param queues: consume from these only; empty means all that the configuration has.
    :param exclude_queues: but not from these.
    :param include: modules to import besides the application's own.
    :param pool: ``prefork`` or ``solo``.
    :param statedb: file that keeps what is revoked over restarts; ``%n`` and the like are expanded.
    :param without_mingle: do not ask other workers at the start what is revoked.
    :param watch_pid: the process that embeds the worker; when it dies, the worker goes too.
    :param notify_fd: descriptor on which one JSON line says ready, or failed and why.
    :param no_effect: command line options that were given and mean nothing here.
    :param banner: print the banner at start.
    """

    app: str
    workdir: str | None = None
    sys_path: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    hostname: str | None = None
    queues: list[str] = field(default_factory=list)
    exclude_queues: list[str] = field(default_factory=list)
    include: list[str] = field(default_factory=list)
    pool: str = "prefork"
    loglevel: str = "WARNING"
    logfile: str | None = None
    pidfile: str | None = None
    statedb: str | None = None
    without_mingle: bool = False
    autoscale: list[int] | None = None
    task_events: bool = False
    watch_pid: int | None = None
    notify_fd: int | None = None
    no_effect: list[str] = field(default_factory=list)
    banner: bool = True

    def to_json(self) -> str:
        """The specification as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BootSpec:
        """Read what `to_json` wrote.

        :raises ValueError: it is not such a text.
        """
        data = json.loads(text)
        known = {f.name for f in fields(cls)}
        if not isinstance(data, dict) or not set(data) <= known or "app" not in data:
            raise ValueError("not a boot specification")
        return cls(**data)


def write_spec(spec: BootSpec) -> int:
    """Write the specification to an anonymous file; returns its inheritable descriptor."""
    fd = os.memfd_create("prefork-boot", 0)
    os.write(fd, spec.to_json().encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def supervisor_command(fd: int) -> list[str]:
    """The command line of a supervisor that reads its specification from a descriptor.

    ``-I`` and ``-E`` are not passed: PYTHONPATH and friends must reach the application. But the
    current directory, which ``-m`` and ``-c`` put first on the path, must not: a project's own
    ``json.py`` would stand in for the standard library's. (``-P`` does that only since Python 3.11.)
    """
    return [sys.executable, "-c", _START, "--spec-fd", str(fd)]


def exec_supervisor(spec: BootSpec) -> None:
    """Become the supervisor: same pid, new interpreter, nothing of this one left in memory."""
    command = supervisor_command(write_spec(spec))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)
