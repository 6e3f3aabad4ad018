"""`prefork worker`: from arguments to a boot specification, and then to the supervisor."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from importlib import import_module
from typing import Any

from ..boot import BootSpec, exec_supervisor
from ..log_file import BadLogFileTemplate, expand
from .failures import CommandError, ExitCode
from .options import GlobalOptions
from .process import Privileges, detach
from .surroundings import enter, hide_arguments
from .worker_options import LEVELS, WITHOUT_EFFECT, add_options

_WHOLE = re.compile(r"[0-9]{1,9}")
DEFAULT_NODE = "worker"
# `processes` is Celery's other name for prefork; nothing here can stand in for the rest.
_POOLS = {"prefork": "prefork", "processes": "prefork", "solo": "solo"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `worker`."""
    add_options(parser)


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Become the supervisor of a new worker. Returns only when that fails."""
    enter(options)
    if arguments.overrides:
        hide_arguments()
    spec = specification(arguments, options)
    privileges = Privileges.named(arguments.uid, arguments.gid, arguments.umask)
    if arguments.purge:
        _purge(spec, options)
    # First, so that a refusal is seen at the terminal, and the log file belongs to whoever writes it.
    privileges.apply()
    if arguments.detach:
        detach(None if spec.logfile is None else expand(spec.logfile, spec.hostname or DEFAULT_NODE))
    if spec.pool == "solo":
        # In this very process, so that a debugger that runs it sees the tasks.
        with import_module(".session", __package__).explained():
            code: int = import_module("..child.solo", __package__).run(spec)
        return code
    try:
        exec_supervisor(spec)
    except OSError as error:
        raise CommandError(f"cannot start {sys.executable}: {error}", ExitCode.BOOT_FAILED) from error
    return ExitCode.BOOT_FAILED


def specification(arguments: argparse.Namespace, options: GlobalOptions) -> BootSpec:
    """What the supervisor is told.

    :raises CommandError: an option is missing, out of range or contradicts another.
    """
    if not options.app:
        raise CommandError(
            "worker: which application? Give -A MODULE[:ATTRIBUTE] or set PREFORK_APP", ExitCode.USAGE
        )
    workdir = os.getcwd()
    return BootSpec(
        app=options.app,
        workdir=workdir,
        sys_path=[workdir],
        settings=_settings(arguments, options),
        hostname=arguments.hostname,
        queues=[name for name, _ in _weighted(arguments.queues)],
        exclude_queues=_listed(arguments.exclude_queues),
        include=_listed(arguments.include),
        pool=_pool(arguments.pool),
        loglevel=_level(arguments.loglevel),
        logfile=_log_template(arguments.logfile),
        pidfile=arguments.pidfile,
        statedb=arguments.statedb,
        without_mingle=arguments.without_mingle,
        autoscale=_autoscale(arguments.autoscale),
        task_events=arguments.task_events,
        no_effect=[*_no_effect(arguments), *options.ignored],
        banner=not options.quiet,
    )


def _purge(spec: BootSpec, options: GlobalOptions) -> None:
    """Drop what waits, in a process of its own: this one is to become a supervisor without an app.

    The URL, which may have a password in it, goes through a pipe.
    """
    command = [sys.executable, "-m", "prefork.engine", "-A", spec.app, "purge", "--force"]
    given = {
        "-b": None if options.broker is None else "-",
        "-Q": ",".join(spec.queues),
        "-X": ",".join(spec.exclude_queues),
    }
    command += [word for flag, value in given.items() if value for word in (flag, value)]
    code = subprocess.run(command, check=False, input=f"{options.broker or ''}\n", text=True).returncode
    if code:
        known = ExitCode(code) if code in list(ExitCode) else ExitCode.FAILED
        raise CommandError("worker: the queues could not be purged, so nothing was started", known)


def _log_template(template: str | None) -> str | None:
    try:
        expand(template or "", DEFAULT_NODE)
    except BadLogFileTemplate as error:
        raise CommandError(f"--logfile {error}", ExitCode.USAGE) from error
    return template


def _settings(arguments: argparse.Namespace, options: GlobalOptions) -> dict[str, Any]:
    """Configuration keys that the command line sets; a key that was not given stays out."""
    weights = {name: weight for name, weight in _weighted(arguments.queues) if weight}
    given = {
        "broker_url": options.broker,
        "result_backend": options.result_backend,
        "worker_concurrency": _concurrency(arguments.concurrency),
        "worker_async_concurrency": arguments.async_concurrency,
        "worker_prefetch_multiplier": arguments.prefetch_multiplier,
        "task_time_limit": arguments.time_limit,
        "task_soft_time_limit": arguments.soft_time_limit,
        "worker_max_tasks_per_child": arguments.max_tasks_per_child,
        "worker_max_memory_per_child": arguments.max_memory_per_child,
        "worker_send_task_events": True if arguments.task_events else None,
        "worker_queue_weights": weights or None,
    }
    settings = {key: value for key, value in given.items() if value is not None}
    for override in arguments.overrides:
        key, separator, value = override.partition("=")
        section, dot, rest = key.partition(".")
        if not separator or not dot or not section or not rest:
            raise CommandError(
                f"worker: {override!r} is no option; a setting is written section.key=value",
                ExitCode.USAGE,
            )
        settings[f"{section}_{rest}"] = value
    return settings


def _concurrency(text: str | None) -> int | None:
    if text is None or text == "auto":
        return None
    count = _whole(text)
    if count is None or count < 1:
        raise CommandError(f"--concurrency {text}: a number of children from 1 on, or 'auto'", ExitCode.USAGE)
    return count


def _autoscale(text: str | None) -> list[int] | None:
    if text is None:
        return None
    first, separator, second = text.partition(",")
    maximum, least = _whole(first), _whole(second) if separator else 1
    if maximum is None or least is None:
        raise CommandError(f"--autoscale {text}: MAX,MIN or MAX, both whole numbers", ExitCode.USAGE)
    # One child always stays: it is what notices that there is work.
    minimum = max(1, least)
    if maximum < minimum:
        raise CommandError(
            f"--autoscale {text}: the maximum comes first, and {maximum} is less than {minimum}",
            ExitCode.USAGE,
        )
    return [maximum, minimum]


def _whole(text: str) -> int | None:
    """A whole number in plain digits; `int` alone would take `1_0` and digits of other scripts."""
    return int(text) if _WHOLE.fullmatch(text.strip()) else None


def _pool(name: str) -> str:
    if name not in _POOLS:
        raise CommandError(
            f"--pool {name}: not available; a task that must not block others runs in a process of its own "
            f"(choose from {', '.join(sorted(_POOLS))})",
            ExitCode.USAGE,
        )
    return _POOLS[name]


def _level(text: str) -> str:
    name = text.upper()
    if name not in LEVELS:
        raise CommandError(f"--loglevel {text}: one of {', '.join(LEVELS)}", ExitCode.USAGE)
    return "CRITICAL" if name == "FATAL" else name


def _listed(values: list[str] | None) -> list[str]:
    names = [name.strip() for value in values or [] for name in value.split(",")]
    return [name for name in names if name]


def _weighted(values: list[str] | None) -> list[tuple[str, int]]:
    """Queues with their weights; 0 where none is given, as in ``high=5,low``."""
    found = []
    for text in _listed(values):
        name, separator, weight = text.rpartition("=")
        if separator and name and _WHOLE.fullmatch(weight):
            found.append((name, _at_least_one(text, int(weight))))
        else:
            found.append((text, 0))
    return found


def _at_least_one(text: str, weight: int) -> int:
    if not weight:
        raise CommandError(
            f"worker: -Q {text}: a queue of weight 0 would never be served; leave it out, or see -X",
            ExitCode.USAGE,
        )
    return weight


def _no_effect(arguments: argparse.Namespace) -> list[str]:
    given = vars(arguments)
    return [flag for flag, name in WITHOUT_EFFECT.items() if given[name] not in (None, False)]
