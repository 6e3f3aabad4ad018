"""Documents that are no good, each with the reason that the engine must give.

The data is in ``tests/engine/corpus/bad_messages.json``: each entry says how it differs from a good
message. An entry may set or delete parts (by dotted path), replace the body, or be raw throughout.
"""

from __future__ import annotations

import base64
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

from prefork.serializers.compression import compress

_DATA = Path(__file__).parent.parent / "engine" / "corpus" / "bad_messages.json"
_BOMB_BYTES = 64 * 1024 * 1024


class Bad(NamedTuple):
    """One document, and why it is refused."""

    name: str
    document: bytes
    reason: str


def good_parts() -> dict[str, Any]:
    """A good message of protocol 2 as a peer writes it, to be spoilt; its body is still text."""
    return {
        "body": '[[2, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]',
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": "proj.add",
            "id": "11111111-1111-1111-1111-111111111111",
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": "11111111-1111-1111-1111-111111111111",
            "parent_id": None,
            "argsrepr": "(2, 2)",
            "kwargsrepr": "{}",
            "origin": "gen13061@vm",
            "ignore_result": False,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": "11111111-1111-1111-1111-111111111111",
            "reply_to": "590013f8-c302-30d0-9b8a-96edbbd51a1e",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "6bf8941d-0000-4000-8000-000000000000",
        },
    }


def document_of(parts: dict[str, Any], body: bytes | None = None) -> bytes:
    """The document of parts, the body in base64 if the properties say so."""
    whole = dict(parts)
    properties = whole.get("properties")
    text = whole.get("body")
    encoded = isinstance(properties, dict) and properties.get("body_encoding") == "base64"
    if body is not None:
        whole["body"] = base64.b64encode(body).decode("ascii")
    elif encoded and isinstance(text, str) and text.startswith("[["):
        whole["body"] = base64.b64encode(text.encode("utf-8")).decode("ascii")
    return json.dumps(whole).encode("ascii")


def good_document(**headers: Any) -> bytes:
    """A good message, with these headers changed or added."""
    parts = good_parts()
    parts["headers"].update(headers)
    return document_of(parts)


@functools.lru_cache(maxsize=1)
def bad_messages() -> tuple[Bad, ...]:
    """The corpus."""
    return tuple(_bad(entry) for entry in json.loads(_DATA.read_text("utf-8")))


def _bad(entry: dict[str, Any]) -> Bad:
    return Bad(entry["name"], _document(entry), entry["reason"])


def _document(entry: dict[str, Any]) -> bytes:
    if "raw" in entry:
        return str(entry["raw"]).encode("utf-8")
    if "raw_base64" in entry:
        return base64.b64decode(entry["raw_base64"])
    if "raw_repeat" in entry:
        return _repeated(entry["raw_repeat"])
    parts = good_parts()
    for path, value in entry.get("set", {}).items():
        _put(parts, path, value)
    for path, (text, times) in entry.get("set_repeat", {}).items():
        _put(parts, path, text * times)
    if "set_nan" in entry:
        nan = float("nan")
        _put(parts, entry["set_nan"], [nan, nan] if "timelimit" in entry["set_nan"] else nan)
    for path in entry.get("delete", ()):
        _delete(parts, path)
    body = _body(entry)
    if "bomb" in entry:
        body, parts["headers"]["compression"] = compress(b" " * _BOMB_BYTES, entry["bomb"])
    document = document_of(parts, body)
    return document.replace(b'"NAN"', b"NaN") if entry.get("nan") else document


def _body(entry: dict[str, Any]) -> bytes | None:
    if "body" in entry:
        return str(entry["body"]).encode("utf-8")
    if "body_base64" in entry:
        return base64.b64decode(entry["body_base64"])
    if "body_repeat" in entry:
        return _repeated(entry["body_repeat"])
    return None


def _repeated(recipe: list[Any]) -> bytes:
    before, part, times, after = recipe
    return f"{before}{part * times}{after}".encode()


def _put(parts: dict[str, Any], path: str, value: Any) -> None:
    *around, last = path.split(".")
    for name in around:
        parts = parts[name]
    parts[last] = value


def _delete(parts: dict[str, Any], path: str) -> None:
    *around, last = path.split(".")
    for name in around:
        parts = parts[name]
    del parts[last]
