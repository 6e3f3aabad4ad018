"""The configuration as people see it."""

from __future__ import annotations

from typing import Any

from .redaction import censor, show
from .tree import SETTINGS, Config


def effective(config: Config) -> list[tuple[str, str, str]]:
    """Every key with its value as text (secrets masked) and where the value came from."""
    return [(key, show(key, value), config.source(key)) for key, value in sorted(config.items())]


def no_effect(config: Config) -> list[str]:
    """The keys that somebody gave and that do nothing here, each with the reason."""
    return [
        f"{key} ({SETTINGS[key].no_effect})"
        for key in sorted(config)
        if config.is_given(key) and not SETTINGS[key].has_effect
    ]


def table(config: Config, *, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
    """The settings that were given (or all of them) by key.

    :param censored: mask secrets.
    """
    shown = {key: value for key, value in config.items() if with_defaults or config.is_given(key)}
    return {key: censor(key, value) for key, value in shown.items()} if censored else shown


def humanize(config: Config, *, with_defaults: bool = False, censored: bool = True) -> str:
    """The same as text, one setting a line."""
    shown = table(config, with_defaults=with_defaults, censored=censored)
    return "\n".join(f"{key}: {value!r}" for key, value in shown.items())
