"""The embedded broker and result store: a directory, no server.

``filesystem:///abs/path`` names a directory; ``filesystem://`` alone the user's state directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import UnsafeStorage
from .layout import encode_name
from .results import FilesystemResults
from .transport import FilesystemTransport

DEFAULT_APP = "default"

OPTIONS = frozenset({"app", "fsync"})
"""Options that have an effect here."""


def open_transport(url: str, options: Mapping[str, Any]) -> FilesystemTransport:
    """Open the broker of a URL.

    :param options: ``app`` names the default directory; ``fsync`` survives a loss of power.
    :raises UnsafeStorage: the directory cannot be trusted.
    """
    return FilesystemTransport(directory(url, options), fsync=bool(options.get("fsync", False)))


def open_results(url: str, options: Mapping[str, Any]) -> FilesystemResults:
    """Open the result store of a URL. Parameters and errors as in `open_transport`."""
    return FilesystemResults(directory(url, options), fsync=bool(options.get("fsync", False)))


def directory(url: str, options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Path:
    """The directory that a URL names (design §9; issue 2 §3.3).

    :raises UnsafeStorage: the URL names a relative path.
    """
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc:
        raise UnsafeStorage(url, "relative; write filesystem:///absolute/path, with three slashes")
    if path and path != "/":
        return Path(path)
    state = environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path(os.path.expanduser("~/.local/state"))
    return base / "prefork" / encode_name(str(options.get("app") or DEFAULT_APP))
