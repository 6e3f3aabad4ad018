"""Results for a store in a database, and what its file holds."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from prefork.transports.base import ResultStore, StoredResult

LIFE_S = 86400.0


def stored(key: str, status: str, result: object = None, **fields: object) -> StoredResult:
    """A result that is kept for a day.

    :param fields: of its document, beside status and result.
    """
    document = {"status": status, "result": result, **fields}
    return StoredResult(key, json.dumps(document).encode(), LIFE_S, status in {"SUCCESS", "FAILURE"})


def result_of(store: ResultStore, key: str) -> Any:
    """What a task returned, as the store has it, or None."""
    (found,) = store.get([key])
    return None if found is None else json.loads(found)["result"]


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What a query finds in the file, asked without the store."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()
