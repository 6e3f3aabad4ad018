"""Turns errors of the file system into errors of the port, at its edge."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import TypeVar

from typing_extensions import ParamSpec

from ..errors import BrokerFull, BrokerUnavailable, TransportError, Unacceptable

P = ParamSpec("P")
R = TypeVar("R")

_FULL = (errno.ENOSPC, errno.EDQUOT)


def broker_errors(operation: Callable[P, R]) -> Callable[P, R]:
    """Let an operation raise `BrokerFull` or `BrokerUnavailable` instead of `OSError`."""

    @functools.wraps(operation)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return operation(*args, **kwargs)
        except OSError as error:
            raise as_broker_error(operation.__name__, error) from error

    return checked


def as_broker_error(what: str, error: OSError) -> TransportError:
    """The error to raise for one of the file system's."""
    place = f" at {error.filename}" if error.filename else ""
    if error.errno == errno.EFBIG:
        return too_large(f"{what}: {error.strerror}{place}")
    if error.errno in _FULL:
        return BrokerFull(f"{what}: {error.strerror}{place}; free some space, what is stored can be drained")
    return BrokerUnavailable(f"{what}: {error.strerror}{place}")


def too_large(what: str) -> Unacceptable:
    """The error for a document that fits into no file."""
    return Unacceptable(f"{what}; keep large data elsewhere and pass on where they are, or raise ulimit -f")
