"""What is revoked, as the keys that brokers remember and the digests that children compare.

A key is a text of at most `KEY_BYTES_MAX` bytes: what is longer is told by its digest. A digest has 128
bits: two ids with the same one are not to be met with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final

KEY_BYTES_MAX: Final = 255
DIGEST_BYTES: Final = 16
SLOT_ID_BYTES_MAX: Final = 254

_TASK: Final = "task:"
_STAMP: Final = "stamp:"
_LONG: Final = "digest:"
_ENDING: Final = "ending:"


def task_key(task_id: str) -> str:
    """The key of a task id of any length."""
    return _bounded(_TASK + task_id)


def stamp_key(header: str, value: Any) -> str:
    """The key of one value of a stamped header; values are compared as texts."""
    return _bounded(_STAMP + json.dumps([header, str(value)], ensure_ascii=False))


def stamp_keys(headers: Mapping[str, Any] | Iterable[str]) -> list[str]:
    """The keys of stamped headers, as remote control names them (interop §11.5).

    :param headers: values (or lists of values) by header, or texts ``header=value``.
    :raises ValueError: it is neither.
    """
    if isinstance(headers, Mapping):
        pairs = [(str(name), value) for name, values in headers.items() for value in _listed(values)]
    else:
        pairs = [_split(text) for text in headers]
    return [stamp_key(name, value) for name, value in pairs]


def is_stamp(key: str) -> bool:
    """Whether a key is of a stamped header. A long one does not tell."""
    return key.startswith((_STAMP, _LONG))


def task_of(key: str) -> str | None:
    """The task id of a key; None when it is of something else, or too long to be told."""
    return key[len(_TASK) :] if key.startswith(_TASK) else None


def digest_of(key: str) -> bytes:
    """The digest of a key."""
    if key.startswith(_LONG):
        try:
            return bytes.fromhex(key[len(_LONG) :])[:DIGEST_BYTES].ljust(DIGEST_BYTES, b"\0")
        except ValueError:
            pass  # nobody of ours wrote it; whatever it is, its own digest is as good as any
    return _digest(key)


def task_digest(task_id: str) -> bytes:
    """The digest of a task id: `digest_of(task_key(task_id))`."""
    return _digest(_TASK + task_id)


def slot_id(task_id: str) -> bytes:
    """A task id as a slot of the scoreboard bears it: exact, whatever its length."""
    raw = task_id.encode("utf-8", "surrogatepass")
    if len(raw) <= SLOT_ID_BYTES_MAX:
        return raw
    told = blake2b(raw, digest_size=DIGEST_BYTES).hexdigest().encode()
    return raw[: SLOT_ID_BYTES_MAX - len(told)] + told


def ending_digest(task_id: str) -> bytes:
    """The digest that says that an execution is to be ended. No key has it: it is for this worker alone."""
    return _digest(_ENDING + task_id)


def stamp_digests(stamps: Mapping[str, Any]) -> list[bytes]:
    """The digests of everything that a message is stamped with."""
    return [
        _digest(_STAMP + json.dumps([str(name), str(value)], ensure_ascii=False))
        for name, values in stamps.items()
        for value in _listed(values)
    ]


def _digest(text: str) -> bytes:
    # Ids come from outside, and JSON lets half characters through: each of them is told from the others.
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


def _bounded(key: str) -> str:
    try:
        if len(key.encode()) <= KEY_BYTES_MAX:
            return key
    except UnicodeEncodeError:
        pass  # half a character: no broker takes it as text
    return _LONG + _digest(key).hex()


def _listed(values: Any) -> Iterable[Any]:
    return values if isinstance(values, (list, tuple, set, frozenset)) else (values,)


def _split(text: Any) -> tuple[str, str]:
    name, found, value = text.partition("=") if isinstance(text, str) else ("", "", "")
    if not found:
        raise ValueError(f"not a stamped header: {text!r:.200}; write header=value")
    return name, value
