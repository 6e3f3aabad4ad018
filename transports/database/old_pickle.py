"""Reads the ``result`` column as Celery wrote it before 5.7: a pickle, whatever the serializer.

A pickle may name any class, and loading it then runs code of its writer's choice. This reader makes
plain values and a few harmless ones only, so that old rows stay readable where pickle is not allowed.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID, SafeUUID

OPCODE = b"\x80"
"""How every pickle of protocol 2 and later begins."""

_HARMLESS: Mapping[tuple[str, str], Any] = MappingProxyType(
    {
        (cls.__module__, cls.__qualname__): cls
        for cls in (date, datetime, time, timedelta, timezone, Decimal, UUID, SafeUUID)
    }
)


class UnsafePickle(pickle.UnpicklingError):
    """A pickle that names a class which is not on the list.

    :param name: module and class.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"names {self.name}, which is read only where result_serializer is pickle"


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = _HARMLESS.get((module_name, global_name))
        if found is None:
            raise UnsafePickle(f"{module_name}.{global_name}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickle("a persistent id")


def load_plain(data: bytes) -> Any:
    """The value of a pickle of plain values.

    :raises ValueError: it cannot be read, or names a class that is not harmless.
    """
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"a pickle that cannot be read: {error}") from error


def lowered(value: Any) -> Any:
    """A value as the JSON of peers has it: two-key objects for what JSON cannot hold (interop §1.3).

    :raises ValueError: it has no form.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): lowered(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [lowered(item) for item in value]
    if isinstance(value, bytes):
        return {"__type__": "bytes", "__value__": value.decode("utf-8")}
    for cls, marker in ((datetime, "datetime"), (date, "date"), (time, "time")):
        if isinstance(value, cls):
            return {"__type__": marker, "__value__": value.isoformat()}
    if isinstance(value, Decimal):
        return {"__type__": "decimal", "__value__": str(value)}
    if isinstance(value, UUID):
        return {"__type__": "uuid", "__value__": {"hex": value.hex}}
    raise ValueError(f"a {type(value).__name__} has no form")
