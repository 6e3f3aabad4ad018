"""Pickle, for those who ask for it by name and trust everybody who can write to the broker.

Reading a pickle executes code that its writer chose. So this serializer is absent from every
table whose configuration does not name it, and reads only in processes that were allowed to.
Facts: interop §1.2; threats: faults §4.1.
"""

from __future__ import annotations

import pickle
from typing import Any

from .base import DecodeError, DecodeFault
from .blame import blame

PROTOCOL = 4

WARNING = (
    "pickle is accepted: whoever can write to the broker or to the result store can run any code in "
    "these processes; use json, or make sure that every writer is trusted"
)
"""What a process that accepts pickle logs, once, when it starts."""


class PickleSerializer:
    """The ``pickle`` serializer. Refuses to read until `allow_unpickling` was called."""

    name = "pickle"
    content_type = "application/x-python-serialize"
    content_encoding = "binary"

    def __init__(self) -> None:
        # Written once, by the set-up of a child or client; the supervisor and the agent never do.
        self._may_read = False

    def allow_unpickling(self) -> None:
        """Let this process read pickles from now on."""
        self._may_read = True

    def dumps(self, value: Any) -> bytes:
        """Serialize a value.

        :raises EncodeError: names the part of the value that cannot be pickled.
        """
        try:
            return _pickle(value)
        # Pickling calls into the values, which may raise anything.
        except Exception as exc:
            raise blame(value, _pickle, serializer=self.name, key_types=(object,), cause=exc) from exc

    def loads(self, data: bytes) -> Any:
        """Read a document, which executes what it says.

        :raises DecodeError: not a pickle, or this process may not read pickles.
        """
        if not self._may_read:
            raise DecodeError(DecodeFault.REFUSED_HERE, "this process never reads pickles")
        try:
            return pickle.loads(data)
        except RecursionError as exc:
            raise DecodeError(DecodeFault.TOO_DEEP, "pickle nested too deeply") from exc
        # A pickle can raise anything.
        except Exception as exc:
            # What is missing helps; other texts may quote an argument.
            why = f": {str(exc)[:200]}" if isinstance(exc, (ImportError, AttributeError)) else ""
            detail = f"cannot unpickle ({type(exc).__name__}{why})"
            raise DecodeError(DecodeFault.MALFORMED, detail) from exc


def _pickle(value: Any) -> bytes:
    return pickle.dumps(value, protocol=PROTOCOL)
