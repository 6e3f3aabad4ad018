"""The configuration: collected by `PendingConfig`, frozen as `Config` (design §9, parity §1)."""

from __future__ import annotations

from .errors import ConfigError, Problem
from .pending import PendingConfig
from .setting import Setting
from .show import effective, no_effect
from .tree import SETTINGS, Config

__all__ = [
    "SETTINGS",
    "Config",
    "ConfigError",
    "PendingConfig",
    "Problem",
    "Setting",
    "effective",
    "no_effect",
]
