"""A result store that keeps the parts of documents, seen as one that returns what was written.

The conformance suite writes documents of two fields, and arbitrary bytes as groups; such a store
returns documents with all fields, and takes groups only as they are on the wire.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from prefork.transports.base import ResultStore, StoredResult


class WrittenFieldsOnly:
    """Implements `transports.base.ResultStore` over another."""

    def __init__(self, store: ResultStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def store(self, results: Sequence[StoredResult]) -> None:
        self._store.store(results)

    def store_soon(self, results: Sequence[StoredResult]) -> None:
        self._store.store_soon(results)

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        return [None if found is None else _written(found) for found in self._store.get(keys)]

    def wait(self, keys: Sequence[str], timeout_s: float | None) -> dict[str, bytes]:
        return {key: _written(found) for key, found in self._store.wait(keys, timeout_s).items()}

    def save_group(self, group_id: str, document: bytes, expires_s: float | None) -> None:
        text = base64.b64encode(document).decode("ascii")
        self._store.save_group(group_id, json.dumps({"result": text}).encode(), expires_s)

    def get_group(self, group_id: str) -> bytes | None:
        found = self._store.get_group(group_id)
        return None if found is None else base64.b64decode(json.loads(found)["result"])


def _written(document: bytes) -> bytes:
    found = json.loads(document)
    return json.dumps({name: found[name] for name in ("status", "result")}).encode()
