"""Names of settings as sources spell them: today's, Celery's old ones, and under a namespace."""

from __future__ import annotations

from difflib import get_close_matches
from enum import Enum

from .tree import OLD_NAMES, SETTINGS

# Names of a Python module that begin so are meant as settings, whatever else the module defines.
_OURS_BEYOND_DOUBT = ("task_", "worker_", "beat_", "event_", "control_", "CELERY")


class Style(Enum):
    """How a name is spelt. One source keeps to one style."""

    NEW = "lower-case"
    OLD = "old upper-case"


def translate(name: str) -> tuple[str, Style] | None:
    """The key that a name stands for and how it was spelt; None for a name that is no setting."""
    if name in SETTINGS:
        return name, Style.NEW
    old = OLD_NAMES.get(name)
    return None if old is None else (old, Style.OLD)


def looks_like_a_setting(name: str) -> bool:
    """Whether an unknown name in a Python module must be a misspelt setting, not a helper variable."""
    return name.startswith(_OURS_BEYOND_DOUBT) or bool(get_close_matches(name, SETTINGS, n=1, cutoff=0.88))


def advice(name: str, prefix: str = "") -> str:
    """What to write instead of a name that is no setting.

    :param prefix: put before every name, such as ``CELERY_`` or ``PREFORK_``; upper-case names then.
    """

    def spell(key: str) -> str:
        return f"{prefix}{key.upper()}" if prefix else key

    old = OLD_NAMES.get(f"{prefix}{name}".upper()) or OLD_NAMES.get(name.upper())
    if old is not None:
        return f"there is no such setting; its name is {spell(old)}"
    bare = name.lower()
    if bare in SETTINGS:
        return f"there is no such setting; write {spell(bare)}"
    if bare.startswith("celery_") and bare.removeprefix("celery_") in SETTINGS:
        key = bare.removeprefix("celery_")
        return f'there is no such setting; write {spell(key)}, or read this source with namespace="CELERY"'
    near = get_close_matches(bare, SETTINGS, n=1, cutoff=0.6)
    if near:
        return f"there is no such setting; did you mean {spell(near[0])}?"
    return "there is no such setting; `prefork config --defaults` lists them all"
