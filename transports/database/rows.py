"""What stands in a row for a document, and when a row has expired. Pure.

A row has no column for its lifetime: whoever reads adds the one that is configured to ``date_done``,
and so does Celery's clean-up (interop §8.7). A document with another lifetime is therefore dated so
that it expires on time, and one that is to be kept is not dated at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from ..base import StoredResult
from ..result_state import SUCCESS
from .codec import Codec, NoDocument
from .old_pickle import OPCODE, load_plain, lowered
from .tables import KEY_CHARACTERS, STATUS_CHARACTERS, TEXT_CHARACTERS

FINAL_STATES = ("SUCCESS", "FAILURE", "REVOKED")
_YEAR_S = 365.0 * 86400
_LIFETIME_S_MAX = 100 * _YEAR_S
_ENCODED = ("result", "children", "args", "kwargs")
_TEXTS = ("name", "worker", "queue")


def key_of(text: str) -> str:
    """What names a task or group in a column that is short and cannot hold everything."""
    encoded = text.encode("utf-8", "surrogatepass")
    if len(text) <= KEY_CHARACTERS and "\0" not in text and encoded.decode("utf-8", "replace") == text:
        return text
    return "sha256:" + hashlib.sha256(encoded).hexdigest()


def utc(now_wall_s: float) -> datetime:
    """Unix time as the naive UTC that the columns hold."""
    return datetime.fromtimestamp(now_wall_s, timezone.utc).replace(tzinfo=None)


def date_of(expires_s: float | None, lifetime_s: float | None, now_wall_s: float) -> datetime | None:
    """The date of a row that shall live so long, where others live as long as `lifetime_s`."""
    if lifetime_s is None or expires_s == lifetime_s:
        return utc(now_wall_s)
    if expires_s is None:
        return None
    lives_s = min(max(expires_s, 0.0), _LIFETIME_S_MAX)
    return utc(now_wall_s) + timedelta(seconds=lives_s - min(lifetime_s, _LIFETIME_S_MAX))


def expired_before(lifetime_s: float | None, now_wall_s: float) -> datetime | None:
    """Rows with a date up to this one have expired; None when rows never do."""
    if lifetime_s is None:
        return None
    return utc(now_wall_s) - timedelta(seconds=min(max(lifetime_s, 0.0), _LIFETIME_S_MAX))


def row_of(
    stored: StoredResult, codec: Codec, columns: frozenset[str], lifetime_s: float | None, now_wall_s: float
) -> dict[str, Any]:
    """The values of a row of the table of tasks.

    :param columns: those that the table has.
    :raises NoDocument: the document has no status, or is none.
    """
    parts = codec.split(stored.document)
    status = _plain(parts, "status", codec)
    if not isinstance(status, str):
        raise NoDocument("it has no status")
    row: dict[str, Any] = dict.fromkeys(columns - {"id"})
    row["task_id"] = key_of(stored.key)
    row["status"] = _text(status, STATUS_CHARACTERS)
    row["date_done"] = date_of(stored.expires_s, lifetime_s, now_wall_s)
    row["traceback"] = _text(_plain(parts, "traceback", codec), None)
    null, nothing = codec.encode(None), codec.encode([])
    values: dict[str, Any] = {name: parts.get(name) for name in _ENCODED}
    if values["result"] is None:
        values["result"] = null
    if values["children"] in (null, nothing):
        values["children"] = None
    values.update({name: _text(_plain(parts, name, codec), TEXT_CHARACTERS) for name in _TEXTS})
    retries = _plain(parts, "retries", codec)
    values["retries"] = retries if isinstance(retries, int) and 0 <= retries < 2**31 else None
    values["stamps"] = _stamps(parts, codec)
    row.update({name: value for name, value in values.items() if name in columns})
    return row


def _plain(parts: Mapping[str, bytes], name: str, codec: Codec) -> Any:
    data = parts.get(name)
    return None if data is None else codec.decode(data)


def _stamps(parts: Mapping[str, bytes], codec: Codec) -> bytes | None:
    names = _plain(parts, "stamped_headers", codec)
    if not isinstance(names, (list, tuple)) or not names:
        return None
    stamps = codec.join({name: parts[name] for name in names if name in parts})
    return codec.join({"stamped_headers": parts["stamped_headers"], "stamps": stamps})


def _text(value: Any, characters_max: int | None) -> str | None:
    """A text that every database takes: no NUL, no half of a character, no more than fits."""
    if not isinstance(value, str):
        return None
    return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")[:characters_max]


def folded(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per task, by the rule that a SUCCESS stays; sorted, so that writers lock in one order."""
    last: dict[str, dict[str, Any]] = {}
    for row in rows:
        earlier = last.get(row["task_id"])
        if earlier is None or earlier["status"] != SUCCESS:
            last[row["task_id"]] = row
    return [last[key] for key in sorted(last)]


def document_of(key: str, row: Mapping[str, Any], codec: Codec) -> bytes:
    """The document of a row.

    What cannot be read is returned as it stands in the column: whoever decodes it says what it is.
    """
    try:
        return codec.join(_parts(key, row, codec))
    except ValueError:
        return bytes(row["result"] or b"")


def _parts(key: str, row: Mapping[str, Any], codec: Codec) -> dict[str, bytes]:
    encode = codec.encode
    status, date = row["status"], row["date_done"]
    done = status in FINAL_STATES and date is not None
    parts = {
        "status": encode(status),
        "result": _value(row["result"], codec),
        "traceback": encode(row["traceback"]),
        "children": _value(row.get("children"), codec, absent=[]),
        "date_done": encode(date.replace(tzinfo=timezone.utc).isoformat() if done else None),
    }
    if row.get("name") is not None:
        parts["name"] = encode(row["name"])
        parts["args"] = _value(row.get("args"), codec)
        parts["kwargs"] = _value(row.get("kwargs"), codec)
        parts.update({name: encode(row.get(name)) for name in ("worker", "retries", "queue")})
    if row.get("stamps") is not None:
        stamped = codec.split(bytes(row["stamps"]))
        parts.update(codec.split(stamped.pop("stamps", codec.encode({}))))
        parts.update(stamped)
    parts["task_id"] = encode(key)
    return parts


def _value(data: Any, codec: Codec, absent: Any = None) -> bytes:
    if data is None:
        return codec.encode(absent)
    data = bytes(data)
    try:
        return codec.checked(data)
    except NoDocument:
        if data[:1] != OPCODE:
            raise
    return codec.encode(lowered(load_plain(data)))


def group_row(key: str, document: bytes, codec: Codec, date: datetime | None) -> dict[str, Any]:
    """The values of a row of the table of groups.

    :raises NoDocument: the document has no ``result``, or is none.
    """
    parts = codec.split(document)
    if "result" not in parts:
        raise NoDocument("a group without a result")
    return {"taskset_id": key_of(key), "result": parts["result"], "date_done": date}


def group_document(row: Mapping[str, Any], codec: Codec) -> bytes:
    """The document of a row of the table of groups; see `document_of`."""
    try:
        return codec.join({"result": _value(row["result"], codec)})
    except ValueError:
        return bytes(row["result"] or b"")
