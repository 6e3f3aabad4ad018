"""Fresh identifiers, in the form that peers use (random UUIDs as text)."""

from __future__ import annotations

import os

_VARIANTS = "89ab"


def fresh_id() -> str:
    """A random UUID (version 4) as text.

    Half the price of ``str(uuid.uuid4())``, and without state, so that it is safe across a fork.
    """
    digits = os.urandom(16).hex()
    variant = _VARIANTS[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
