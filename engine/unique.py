"""Unique tasks: what a task may ask for, and what its messages bear. Pure.

A unique task holds a lock in the broker under its *key*, from before it is sent until it has started,
until it is done, or for a time. The value of the lock is the id of the task. Messages bear a mark with a
digest of the key, never the arguments.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from ..serializers.base import Serializer
from .exceptions import InvalidTaskError

HEADER: Final = "prefork_unique"
"""The header that says that a message belongs to a lock."""

STARTED, DONE, TIME = "started", "done", "time"
RETURN, REPLACE, RAISE = "return", "replace", "raise"
_CONFLICTS: Final = (RETURN, REPLACE, RAISE)
_DIGEST_BYTES: Final = 20

Key = Callable[[Sequence[Any], Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Unique:
    """That a task is to be queued only once. ``unique=True`` is ``Unique()``.

    :param by: which calls are the same: those with equal arguments (None), with equal values of some
        arguments (their names), or with the same text (a callable that gets args and kwargs).
    :param until: how long it is unique: until one has ``"started"``, until one is ``"done"`` (succeeded,
        failed for good, or was dropped; retries included), or for so many seconds from the call.
    :param ttl_s: after how long a lock ends whose task came to no end, counted from when it is due or was
        last started; None is the setting `task_unique_ttl`.
    :param on_conflict: what becomes of a second call: ``"return"`` the result of the first one,
        ``"replace"`` the first one unless it has started, or ``"raise"`` `DuplicateTaskError`. A step of
        a chain fails with that error also where ``"return"`` is said: its caller has another id.
    :raises InvalidTaskError: one of them is something else.
    """

    by: Key | str | Sequence[str] | None = None
    until: str | float | timedelta = DONE
    ttl_s: float | timedelta | None = None
    on_conflict: str = RETURN

    def __post_init__(self) -> None:
        names = (self.by,) if isinstance(self.by, str) else self.by
        if not (names is None or callable(names) or _are_texts(names)):
            raise InvalidTaskError(
                f"unique: by={self.by!r}: give a callable, or names of arguments, or None for all of them"
            )
        if self.until not in (STARTED, DONE):
            _seconds("until", self.until, "'started', 'done', or ")
        if self.ttl_s is not None:
            _seconds("ttl_s", self.ttl_s)
        if self.on_conflict not in _CONFLICTS:
            raise InvalidTaskError(f"unique: on_conflict={self.on_conflict!r}: give one of {_CONFLICTS}")

    def as_map(self) -> dict[str, Any]:
        """Its parameters, as they travel in a message; `unique_of` reads them again."""
        return {
            "by": self.by if self.by is None or isinstance(self.by, str) else list(self.names() or ()),
            "until": self.until if isinstance(self.until, str) else _seconds("until", self.until),
            "ttl_s": None if self.ttl_s is None else _seconds("ttl_s", self.ttl_s),
            "on_conflict": self.on_conflict,
        }

    def names(self) -> tuple[str, ...] | None:
        """The arguments that are compared; None for all."""
        if self.by is None or callable(self.by):
            return None
        return (self.by,) if isinstance(self.by, str) else tuple(self.by)


def unique_of(value: Any) -> Unique | None:
    """What the option `unique` means.

    :param value: None or False for not at all, True, a key function, `Unique`, or its parameters in a map.
    :raises InvalidTaskError: it is something else.
    """
    if value is None or value is False:
        return None
    if value is True:
        return Unique()
    if isinstance(value, Unique):
        return value
    if callable(value):
        return Unique(by=value)
    if isinstance(value, Mapping):
        try:
            return Unique(**value)
        except TypeError as error:
            raise InvalidTaskError(f"unique={dict(value)!r}: {error}") from None
    raise InvalidTaskError(f"unique={value!r}: give True, a callable of args and kwargs, or Unique(...)")


def declared(task: Any) -> Any:
    """What a task's own option `unique` says, as it was written; None for a task that is not known.

    :param task: a task, or None.
    """
    if task is None:
        return None
    # A function that is an attribute of a class would become a method of the task.
    value = inspect.getattr_static(task, "unique", None)
    return value.__func__ if isinstance(value, staticmethod) else value


def as_plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a signature, which any serializer can carry; a key function stays what it is, for calls of
    this process."""
    wish = options.get("unique")
    if isinstance(wish, Unique) and not callable(wish.by):
        return {**options, "unique": wish.as_map()}
    return options


class Mark(NamedTuple):
    """What a message bears in the header `HEADER`.

    :param digest: of the key, in hexadecimal.
    :param until: `STARTED`, `DONE` or `TIME`.
    :param ttl_s: how long a lock lasts without news.
    :param replaceable: a later call may take its place.
    """

    digest: str
    until: str
    ttl_s: float
    replaceable: bool = False

    def text(self) -> str:
        """The value of the header."""
        return f"{self.until}:{self.ttl_s!r}:{int(self.replaceable)}:{self.digest}"

    @property
    def lock(self) -> str:
        """The name of the lock."""
        return f"unique:{self.digest}"


def read_mark(value: Any) -> Mark | None:
    """The mark of a message; None when it bears none that can be read (somebody else's header)."""
    parts = value.split(":") if isinstance(value, str) else ()
    if len(parts) != 4:
        return None
    until, ttl, replaceable, digest = parts
    try:
        ttl_s = float(ttl)
        well_formed = len(bytes.fromhex(digest)) == _DIGEST_BYTES and 0.0 < ttl_s < math.inf
    except ValueError:
        return None
    if not well_formed or until not in (STARTED, DONE, TIME) or replaceable not in ("0", "1"):
        return None
    return Mark(digest, until, ttl_s, replaceable == "1")


def mark_of(wish: Unique, digest: str, default_ttl_s: float) -> Mark:
    """The mark of a call that is to be unique."""
    replaceable = wish.on_conflict == REPLACE
    if wish.until in (STARTED, DONE):
        ttl_s = default_ttl_s if wish.ttl_s is None else _seconds("ttl_s", wish.ttl_s)
        return Mark(digest, str(wish.until), ttl_s, replaceable)
    return Mark(digest, TIME, _seconds("until", wish.until), replaceable)


def replaced_lock(task_id: str) -> str:
    """The name of the lock that says that a task was replaced before it started."""
    return f"replaced:{_digest(task_id.encode('utf-8', 'surrogatepass'))}"


def started_lock(task_id: str) -> str:
    """The name of the lock that says that a task which could be replaced has started."""
    return f"started:{_digest(task_id.encode('utf-8', 'surrogatepass'))}"


def digest_of(
    task: str,
    wish: Unique,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    signature: inspect.Signature | None,
    serializer: Serializer,
) -> str:
    """The digest of the key of a call.

    :param signature: of the body; None when only the name of the task is known. Then ``add(1, 2)`` and
        ``add(1, y=2)`` are different calls.
    :param serializer: JSON: equal arguments are those that are written in the same way, with the keys of maps
        in any order.
    :raises EncodeError: an argument has no such form.
    :raises InvalidTaskError: `Unique.by` names what is no argument.
    """
    if callable(wish.by):
        key = str(wish.by(args, kwargs)).encode("utf-8", "surrogatepass")
    else:
        key = _canonical(_compared(task, wish, args, kwargs, signature), serializer)
    return _digest(task.encode("utf-8", "surrogatepass") + b"\0" + key)


def _compared(
    task: str,
    wish: Unique,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    signature: inspect.Signature | None,
) -> Any:
    bound = _bound(args, kwargs, signature)
    names = wish.names()
    if bound is None:
        if names is not None and not set(names) <= set(kwargs):
            raise InvalidTaskError(
                f"unique: {task} is not registered here: give the arguments by={names!r} as keywords"
            )
        return [list(args), dict(kwargs)] if names is None else {name: kwargs[name] for name in names}
    found = dict(bound.arguments)
    if names is None:
        return found
    bound.apply_defaults()
    with_defaults: dict[str, Any] = {}
    for parameter in bound.signature.parameters.values():
        value = bound.arguments[parameter.name]
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            with_defaults.update(value)
        else:
            with_defaults[parameter.name] = value
    missing = [name for name in names if name not in with_defaults]
    if missing:
        raise InvalidTaskError(f"unique: by={names!r}: {task} was called without an argument {missing[0]!r}")
    return {name: with_defaults[name] for name in names}


def _bound(
    args: Sequence[Any], kwargs: Mapping[str, Any], signature: inspect.Signature | None
) -> inspect.BoundArguments | None:
    if signature is None:
        return None
    try:
        return signature.bind(*args, **kwargs)
    except TypeError:
        return None  # a call that does not fit, of a task that does not check: taken as it is


def _canonical(value: Any, serializer: Serializer) -> bytes:
    plain = json.loads(serializer.dumps(value))
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode("ascii")


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def _are_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(one, str) for one in value)


def _seconds(name: str, value: Any, otherwise: str = "") -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise InvalidTaskError(f"unique: {name}={value!r}: give {otherwise}a number of seconds above 0")
