"""Names of a worker: the node name that people see, the id of one incarnation."""

from __future__ import annotations

import re
from typing import Final

DEFAULT_NODE: Final = "worker@%h"

_UNSAFE = re.compile(r"[^A-Za-z0-9_@.-]")


def node_name(template: str | None, host: str) -> str:
    """Expand ``%h`` (full host name), ``%n`` (its first part), ``%d`` (its domain) and ``%%``.

    ``%i`` and ``%I`` differ from child to child and stay; a name without ``@`` gets the host's.
    """
    name, _, domain = host.partition(".")
    values = {"%h": host, "%n": name, "%d": domain, "%%": "%"}
    text = re.sub("%[hnd%]", lambda found: values[found.group()], template or DEFAULT_NODE)
    return text if "@" in text else f"{text}@{host}"


def safe(text: str) -> str:
    """Text as part of a file name or a broker's key."""
    return _UNSAFE.sub("-", text)[:80]


def incarnation(node: str, random: bytes) -> str:
    """The id of this incarnation of a worker, never used again.

    :param random: four random bytes.
    """
    return f"{safe(node)[:64]}-{random.hex()}"


def owner(worker_id: str, slot: int, generation: int) -> str:
    """The name under which a child holds messages."""
    return f"{worker_id}.{slot}.{generation}"
