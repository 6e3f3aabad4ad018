"""Finding what inside a value a serializer could not encode. Only runs after a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .base import EncodeError, Step

PASS_AN_ID = "pass an id, or a plain value made from it"
STRING_KEYS = "use string keys"
BREAK_THE_CYCLE = "break the cycle: the value contains itself"
FLATTEN = "flatten it, or pass an id"
NODES_MAX = 1_000_000
DEPTH_MAX = 500


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
    why = f"{_type_text(value)} ({type(cause).__name__}: {str(cause)[:200]})"
    return EncodeError((), why, PASS_AN_ID, serializer=serializer)


def _first_bad(
    value: Any, encode: Callable[[Any], Any], key_types: tuple[type, ...]
) -> tuple[tuple[Step, ...], str, str] | None:
    """Depth first, in order, without recursion: a value may be nested deeper than the stack."""
    # Each entry: the value, its path as a linked list, the ids of the containers around it, their number.
    pending: list[tuple[Any, Any, Any, int]] = [(value, None, None, 0)]
    for _ in range(NODES_MAX):
        if not pending:
            break
        item, path, around, depth = pending.pop()
        if not isinstance(item, (dict, list, tuple)):
            if not _encodes(encode, item):
                return _unlink(path), _type_text(item), PASS_AN_ID
            continue
        if _is_around(id(item), around):
            return _unlink(path), _type_text(item), BREAK_THE_CYCLE
        if depth == DEPTH_MAX:
            return _unlink(path), f"{_type_text(item)} nested too deeply", FLATTEN
        around = (id(item), around)
        parts: list[tuple[Any, Any]] = []
        for key, part in _parts(item):
            if isinstance(item, dict) and not isinstance(key, key_types):
                return _unlink((_key_step(key), path)), f"a key of {_type_text(key)}", STRING_KEYS
            parts.append((part, (_key_step(key), path)))
        pending.extend((part, where, around, depth + 1) for part, where in reversed(parts))
    return None


def _parts(container: Any) -> Iterable[tuple[Any, Any]]:
    """Keys and parts, by the methods of the built-in classes: a subclass's may raise anything."""
    if isinstance(container, dict):
        return dict.items(container)
    base = list if isinstance(container, list) else tuple
    return enumerate(base.__iter__(container))


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
    return key if isinstance(key, (str, int)) else (key,)


def _type_text(value: Any) -> str:
    return f"<class {type(value).__qualname__}>"
