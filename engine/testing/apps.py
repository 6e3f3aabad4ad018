"""Apps for tests: a broker in memory of their own, current while a test runs, gone afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...transports.memory.names import forget_broker
from ..app import App
from ..local import apps

DEFAULT_NAME = "prefork.tests"


@contextmanager
def temporary_app(
    main: str = DEFAULT_NAME, config: Mapping[str, Any] | None = None, **parameters: Any
) -> Iterator[App]:
    """An app with a broker and results in memory, which is the current one within the block.

    :param config: settings by name; a `broker_url` among them takes the place of the memory's.
    :param parameters: of `App`; ``set_as_current=False`` leaves the current app as it is.
    """
    name = f"test-{os.urandom(6).hex()}"
    settings = dict(config or {})
    if "broker_url" not in settings and parameters.get("broker") is None:
        settings["broker_url"] = f"memory://{name}"
        settings.setdefault("result_backend", f"memory://{name}")
    becomes_current = parameters.pop("set_as_current", True)
    before = (apps.current, apps.default)
    app = App(main, set_as_current=becomes_current, **parameters)
    if becomes_current:
        app.set_default()
    app.conf.update(settings)
    try:
        yield app
    finally:
        app.close()
        apps.current, apps.default = before
        forget_broker(name)
