"""Imports the application and works out the effective configuration of the worker, once."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from setproctitle import setproctitle

from ..transports.declarations import copy_for
from ..transports.registry import copies_broadcasts
from ..transports.url import redact
from . import signals
from .app import App
from .boot import BootSpec
from .broker_demands import options_without_effect, refuse_unkept
from .broker_options import consume_url, refuse_split_worker
from .config import no_effect
from .cpus import allowed_cpus
from .discovery import find_app
from .limits.policy import limits_of
from .logs import setup_worker_logging
from .process_link import ProcessLink
from .retry_options import check_retries
from .routes import queue_specs, worker_direct
from .worker_names import safe
from .worker_sender import WorkerSender

_TASKS_REPORTED = 50


@dataclass
class Loaded:
    """The application, its configuration, and the part of it that the supervisor needs.

    :ivar options: plain data for the supervisor, which never sees the configuration itself.
    """

    app: App
    config: Any
    options: dict[str, Any]
    node: str

    @property
    def sender(self) -> WorkerSender:
        """Who sends the signals of this worker."""
        return WorkerSender(self.node, self.app, self.options["concurrency"])

    def set_title(self, role: str) -> None:
        """Show in the process list what this process is."""
        setproctitle(f"prefork: {self.node}: {role}")


def load(link: ProcessLink) -> Loaded:
    """Import the application that the boot specification names, and resolve its configuration.

    :raises BaseException: whatever the application raises; the caller reports it.
    """
    spec = link.spec
    if spec.workdir:
        os.chdir(spec.workdir)
    for entry in reversed([spec.workdir or os.getcwd(), *spec.sys_path]):
        if entry not in sys.path:
            sys.path.insert(0, entry)
    app = find_app(spec.app)
    app.set_current()
    app.set_default()
    app.conf.resolve(cli=spec.settings)
    # Receivers may still change settings; they are read for good below.
    early = WorkerSender(link.node, app, 0)  # nobody knows yet how many children there will be
    signals.celeryd_init.send(link.node, instance=early, conf=app.conf, options=asdict(spec))
    for name in spec.include:
        import_module(name)
    app.import_task_modules()
    app.finalize(auto=True)
    # Only now: modules, and receivers of the app's signals, may have changed settings.
    config = app.config
    setup_worker_logging(
        config,
        loglevel=spec.loglevel,
        logfile=spec.logfile,
        node=link.node,
        process_name="template" if spec.pool == "prefork" else "solo",
    )
    loaded = Loaded(app, config, worker_options(spec, app, config, link.node), link.node)
    loaded.set_title("template")
    signals.celeryd_after_setup.send(link.node, instance=loaded.sender, conf=app.conf)
    signals.worker_init.send(loaded.sender)
    return loaded


def load_here(link: ProcessLink, app: App) -> Loaded:
    """Resolve the configuration of an application for a worker in the process of somebody else.

    Logging, directory and title of the process are left alone.

    :raises BaseException: whatever the application's modules raise.
    """
    early = WorkerSender(link.node, app, 0)  # as above
    signals.celeryd_init.send(link.node, instance=early, conf=app.conf, options=asdict(link.spec))
    for name in link.spec.include:
        import_module(name)
    app.import_task_modules()
    config = app.config
    loaded = Loaded(app, config, worker_options(link.spec, app, config, link.node), link.node)
    refuse_unkept(app, config, loaded.options["queues"])
    signals.celeryd_after_setup.send(link.node, instance=loaded.sender, conf=app.conf)
    signals.worker_init.send(loaded.sender)
    return loaded


def worker_options(spec: BootSpec, app: App, config: Any, node: str = "") -> dict[str, Any]:
    """What the supervisor has to know of a configuration, as plain data.

    :param node: the name of the worker, for queues of its own.
    :raises ImproperlyConfigured: no worker can do what it says.
    """
    refuse_split_worker(config)
    for task in app.tasks.values():
        limits_of(task, config)
        check_retries(task)
    tasks = sorted(name for name in app.tasks if not name.startswith("celery."))
    concurrency = config.worker_concurrency
    if concurrency in (None, "auto"):
        concurrency = allowed_cpus(override=os.environ.get("PYTHON_CPU_COUNT"))
    limits = (config.task_time_limit, config.task_soft_time_limit)
    return {
        "app": app.main or spec.app,
        "concurrency": concurrency,
        "autoscale": spec.autoscale,
        "max_tasks_per_child": config.worker_max_tasks_per_child,
        "max_memory_kib": config.worker_max_memory_per_child,
        "hard_memory_kib": config.worker_hard_memory_limit,
        "soft_shutdown_s": config.worker_soft_shutdown_timeout,
        "soft_shutdown_on_idle": config.worker_enable_soft_shutdown_on_idle,
        "lease_s": config.worker_lease,
        "boot_timeout_s": config.worker_boot_timeout,
        "max_boot_failures": config.worker_max_boot_failures,
        "start_method": config.worker_start_method,
        "queues": queues_to_consume(spec, config, node),
        # As many as the banner may show: with all of them the report might not fit into a packet.
        "tasks": tasks[:_TASKS_REPORTED],
        "task_count": len(tasks),
        "broker": redact(config.broker_url or "filesystem://"),
        "backend": redact(config.result_backend) if config.result_backend else "disabled",
        "pidfile": spec.pidfile,
        "has_limits": any(limit is not None for limit in limits),
        "no_effect": [*no_effect(config), *spec.no_effect],
        "warnings": options_without_effect(config),
        "log": {
            "format": config.worker_log_format,
            "datefmt": config.worker_log_datefmt,
            "json": config.worker_json_logs,
            "level": spec.loglevel,
            "file": spec.logfile,
        },
    }


def queues_to_consume(spec: BootSpec, config: Any, node: str) -> list[str]:
    """The queues of ``-Q``, else all that the configuration declares, less those of ``-X``.

    In place of a broadcast queue stands the one with this worker's copies; with `worker_direct`, the
    worker's own comes last.

    :raises ValueError: nothing is left.
    """
    specs = queue_specs(config)
    names = spec.queues or list(specs)
    chosen = [name for name in names if name not in spec.exclude_queues]
    if not chosen:
        excluded = ", ".join(spec.exclude_queues)
        raise ValueError(f"no queue to consume from: -X {excluded} leaves none of {', '.join(names)}")
    broadcasts = {name for name in chosen if name in specs and specs[name].broadcast}
    if broadcasts and not copies_broadcasts(consume_url(config)):
        chosen = [copy_for(name, safe(node)) if name in broadcasts else name for name in chosen]
    return [*chosen, worker_direct(node)] if config.worker_direct else chosen
