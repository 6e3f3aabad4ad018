"""Finding what inside a value a serializer could not encode. Only runs after a failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .base import EncodeError, Step

PASS_AN_ID = "pass an id, or a plain value made from it"
STRING_KEYS = "use string keys"
BREAK_THE_CYCLE = "break the cycle: the value contains itself"
FLATTEN = "flatten it, or pass an id"
NODES_MAX = 1_000_000


def blame(
    value: Any,
    encode: Callable[[Any], Any],
    *,
    serializer: str,
    key_types: tuple[type, ...],
    cause: BaseException,
) -> EncodeError:
    """The error that names the first part of `value` that has no form in the format.

    :param encode: the encoder that failed; tried on every value inside that is not a container.
    :param key_types: the types that keys of mappings may have.
    :param cause: what the encoder raised; shown when no part can be blamed.
    """
    found = _first_bad(value, encode, key_types)
    if found is not None:
        steps, value_type, remedy = found
        return EncodeError(steps, value_type, remedy, serializer=serializer)
    if isinstance(cause, RecursionError):
        return EncodeError((), "a value nested too deeply", FLATTEN, serializer=serializer)
    why = f"{_type_text(value)} ({type(cause).__name__}: {str(cause)[:200]})"
    return EncodeError((), why, PASS_AN_ID, serializer=serializer)


def _first_bad(
    value: Any, encode: Callable[[Any], Any], key_types: tuple[type, ...]
) -> tuple[tuple[Step, ...], str, str] | None:
    """Depth first, in order, without recursion: a value may be nested deeper than the stack."""
    # Each entry: the value, its path as a linked list, the ids of the containers around it.
    pending: list[tuple[Any, Any, Any]] = [(value, None, None)]
    for _ in range(NODES_MAX):
        if not pending:
            return None
        item, path, around = pending.pop()
        if not isinstance(item, (dict, list, tuple)):
            if not _encodes(encode, item):
                return _unlink(path), _type_text(item), PASS_AN_ID
            continue
        if _is_around(id(item), around):
            return _unlink(path), _type_text(item), BREAK_THE_CYCLE
        around = (id(item), around)
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, key_types):
                    return _unlink((_key_step(key), path)), f"a key of {_type_text(key)}", STRING_KEYS
            parts: list[tuple[Any, Any]] = [(part, (_key_step(key), path)) for key, part in item.items()]
        else:
            parts = [(part, (index, path)) for index, part in enumerate(item)]
        pending.extend((part, where, around) for part, where in reversed(parts))
    return None


def _encodes(encode: Callable[[Any], Any], item: Any) -> bool:
    try:
        encode(item)
    # Whatever it raises (a value may bring code of its own), the answer is no.
    except Exception:  # noqa: BLE001
        return False
    return True


def _is_around(identity: int, around: Any) -> bool:
    while around is not None:
        known, around = around
        if known == identity:
            return True
    return False


def _unlink(path: Any) -> tuple[Step, ...]:
    steps: list[Step] = []
    while path is not None:
        step, path = path
        steps.append(step)
    return tuple(reversed(steps))


def _key_step(key: Any) -> Step:
    return key if isinstance(key, str) else (key,)


def _type_text(value: Any) -> str:
    return f"<class {type(value).__qualname__}>"
