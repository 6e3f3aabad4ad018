"""The mark of "nothing was given", so that 0, "", None and False keep their own meaning."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal


class _Unset(Enum):
    """One member; an enum, because type checkers narrow on it."""

    UNSET = 0

    def __bool__(self) -> bool:
        raise TypeError("compare with `is UNSET`: an unset value is neither true nor false")

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset.UNSET
Unset = Literal[_Unset.UNSET]
