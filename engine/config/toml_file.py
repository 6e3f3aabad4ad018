"""The configuration file: ``prefork.toml``, or ``[tool.prefork]`` of ``pyproject.toml``."""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class UnreadableFile(ValueError):
    """A configuration file cannot be read.

    :param path: the file.
    :param why: what is wrong with it.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def read_toml(path: str, table: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings in a TOML file.

    :param table: the path of the table that holds them; an absent table is empty.
    :raises UnreadableFile: it is not readable, not TOML, or the table is not one.
    """
    try:
        found: Any = _load(path)
    except OSError as error:
        raise UnreadableFile(path, f"it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnreadableFile(path, "it is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise UnreadableFile(path, f"it is not TOML: {error}") from error
    for name in table:
        found = found.get(name, {}) if isinstance(found, dict) else found
    if not isinstance(found, dict):
        raise UnreadableFile(path, f"[{'.'.join(table)}] must be a table")
    return found


def _load(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        settings: dict[str, Any] = tomllib.load(file)
    return settings
