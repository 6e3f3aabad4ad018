"""The script that stores results, and what a result store calls its keys.

The part of it that writes one result (``lua/store_result.lua``) is also a part of the script that
settles messages, so that both keep the same rule about a SUCCESS that is there already.
"""

from __future__ import annotations

from typing import Final

from ..base import StoredResult
from .keys import encode
from .scripts import read_script

STORE_RESULTS: Final = read_script("store_results")

TASK_PREFIX: Final = b"celery-task-meta-"
GROUP_PREFIX: Final = b"celery-taskset-meta-"
_SEPARATORS: Final = (":", "_", "-", ".")

CALL_RESULTS_MAX: Final = 200
CALL_BYTES_MAX: Final = 4 * 1024 * 1024


def separated(keyprefix: str) -> str:
    """The prefix of a result store as it stands before its keys (interop §8.1).

    Unlike that of a broker it is followed by ``_``, unless it ends in a separator already.
    """
    if not keyprefix or keyprefix.endswith(_SEPARATORS):
        return keyprefix
    return keyprefix + "_"


class ResultKeys:
    """Every key of one result store.

    :param keyprefix: as `separated` returns it.
    """

    def __init__(self, keyprefix: str) -> None:
        self._tasks = encode(keyprefix) + TASK_PREFIX
        self._groups = encode(keyprefix) + GROUP_PREFIX

    def task(self, task_id: str) -> bytes:
        """Key of a result, which is also the channel on which it is announced."""
        return self._tasks + encode(task_id)

    def group(self, group_id: str) -> bytes:
        """Key of a saved group."""
        return self._groups + encode(group_id)


def lifetime_ms(expires_s: float | None) -> int:
    """A lifetime as the script takes it: 0 is for ever, and no time at all is the shortest there is."""
    return 0 if expires_s is None else max(1, int(expires_s * 1000))


def calls(keys: ResultKeys, results: list[StoredResult]) -> list[tuple[list[bytes], list[bytes | int]]]:
    """Results as arguments of the script, in pieces that do not keep the server from others for long."""
    found: list[tuple[list[bytes], list[bytes | int]]] = []
    named: list[bytes] = []
    args: list[bytes | int] = []
    size_bytes = 0
    for result in results:
        size_bytes += len(result.document)
        if named and (len(named) >= CALL_RESULTS_MAX or size_bytes > CALL_BYTES_MAX):
            found.append((named, args))
            named, args, size_bytes = [], [], len(result.document)
        named.append(keys.task(result.key))
        args += (result.document, lifetime_ms(result.expires_s))
    if named:
        found.append((named, args))
    return found
