"""How values are shown: passwords and whatever is named like a secret masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

MASK = "********"

_SECRET_PARTS = frozenset(
    {"api", "token", "key", "secret", "pass", "passwd", "password", "database", "signature"}
)

# Named like a secret and never one.
_HARMLESS = frozenset({"task_default_routing_key", "routing_key", "cosmosdbsql_database_name"})


def redact(text: str) -> str:
    """Mask the passwords in every URL of a text.

    The module that knows URLs is looked up on use: values are shown in errors and reports only.
    """
    mask: Callable[[str], str] = import_module("...transports.url", __package__).redact
    return mask(text)


def is_secret(name: str) -> bool:
    """Whether the value under this name must not be shown (parity §1)."""
    lowered = name.lower()
    if lowered in _HARMLESS:
        return False
    return not _SECRET_PARTS.isdisjoint(lowered.replace("-", "_").replace(".", "_").split("_"))


def censor(name: str, value: Any) -> Any:
    """The value with its secrets masked, at any depth of maps and lists."""
    if value is None or isinstance(value, (bool, int, float)) and not is_secret(name):
        return value
    if isinstance(value, Mapping):
        return {key: censor(str(key), inner) for key, inner in value.items()}
    if is_secret(name):
        return value if isinstance(value, bool) else MASK
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, (list, tuple)):
        censored = [censor(name, inner) for inner in value]
        return tuple(censored) if type(value) is tuple else censored
    return value


def show(name: str, value: Any) -> str:
    """The value as text for people, secrets masked. Never raises."""
    try:
        return redact(repr(censor(name, value)))
    except Exception as error:  # noqa: BLE001 - a repr of the user's own may raise anything
        return f"<{type(value).__name__}: its repr raised {type(error).__name__}>"
