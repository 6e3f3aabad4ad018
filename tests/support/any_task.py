"""A task of which only the calls matter."""

from __future__ import annotations

from typing import Any

from prefork.engine.app import App


def make(app: App, function: Any = None, **options: Any) -> Any:
    """A task named ``proj.t`` unless another name is given.

    :param function: what it runs; without one, it takes ``x`` and perhaps ``y``, and adds them.
    :param options: of the task.
    """
    return app.task(name=options.pop("name", "proj.t"), **options)(function or (lambda x, y=0: x + y))
