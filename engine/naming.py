"""Names of tasks that were not given one."""

from __future__ import annotations

import os
import sys

_SCRIPT_MODULES = frozenset({"__main__", "__mp_main__"})


def script_module_name() -> str:
    """The name under which another process would import the running script.

    ``python -m pkg.mod`` is ``pkg.mod``; ``python path/tasks.py`` is ``tasks``; a console has no
    name and stays ``__main__``.
    """
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name and spec.name not in _SCRIPT_MODULES:
        name: str = spec.name
        return name.removesuffix(".__main__")
    path = getattr(main, "__file__", None)
    if path:
        return os.path.splitext(os.path.basename(str(path)))[0]
    return "__main__"


def gen_task_name(main: str | None, name: str, module: str | None) -> str:
    """``module.name``; for a script ``main`` (the app's name), else the script's own module name.

    :param main: what the app was called when it was created, if anything.
    """
    module = module or "__main__"
    if module in _SCRIPT_MODULES:
        module = main or script_module_name()
    return f"{module}.{name}"
