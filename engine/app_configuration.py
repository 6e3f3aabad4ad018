"""The part of an app that is configured: collected settings, resolved when first needed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from .config import Config, PendingConfig
from .signals import Signal


class Configurable:
    """Something with a `conf`, and with signals around the moment when it is resolved.

    :param namespace: prefix of the names in configuration objects, such as ``CELERY``.
    """

    def __init__(self, namespace: str | None) -> None:
        self.conf = PendingConfig(namespace)
        self.configured = False
        self.on_configure = Signal("app.on_configure")
        self.on_after_configure = Signal("app.on_after_configure", {"source"})
        self._lock = threading.RLock()

    @property
    def config(self) -> Config:
        """The configuration, checked and complete; the same object until something changes.

        :raises ConfigError: with every problem there is.
        """
        if not self.configured:
            self._configure()
        return self.conf.resolve()

    def _configure(self) -> None:
        with self._lock:
            if self.configured:
                return
            # Set first: receivers of these signals read the configuration themselves.
            self.configured = True
            self.on_configure.send(self)
            try:
                self.conf.resolve()
            except BaseException:
                self.configured = False
                raise
            self.on_after_configure.send(self, source=self.conf)

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Read settings from a module, class, instance, map, or its dotted name, when first needed.

        :param silent: an object that does not exist is not an error.
        :param force: read it now.
        :param namespace: prefix of the names, such as ``CELERY``.
        """
        self.conf.config_from_object(obj, silent=silent, namespace=namespace)
        if force:
            self.config  # noqa: B018 - reading it is what resolves it

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> None:
        """Read settings from the module that an environment variable names."""
        self.conf.config_from_envvar(variable_name, silent=silent)
        if force:
            self.config  # noqa: B018

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Any,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> str:
        """Have the scheduler send a task again and again: adds an entry to `beat_schedule`.

        :param schedule: seconds, a timedelta, or a schedule.
        :param sig: signature of the task; `args` and `kwargs` complete it.
        :param name: of the entry; None makes one of the signature. A name that exists is replaced.
        :returns: the name.
        """
        made = sig.clone(args, kwargs)
        key = name or repr(made)
        self.conf.beat_schedule = {
            **self.conf.beat_schedule,
            key: {
                "task": made.task,
                "schedule": schedule,
                "args": made.args,
                "kwargs": made.kwargs,
                "options": {**made.options, **options},
            },
        }
        return key

    def add_defaults(self, defaults: Any) -> None:
        """Give values that everything else overrides."""
        self.conf.add_defaults(defaults() if callable(defaults) else defaults)
