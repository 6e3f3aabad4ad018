"""Why messages crashed: a small file beside the queue for each message that ever did."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .fileops import ForeignObject
from .layout import SegmentId
from .queuedir import QueueDir

_BYTES_MAX = 1 << 20
_CAUSE_CHARS_MAX = 2000


def causes_of(queue: QueueDir, segment_id: SegmentId, slot: int) -> dict[int, str]:
    """The causes of a message by the number of the crash. The lock is held."""
    try:
        data = queue.ops.read_file(_path(queue, segment_id, slot), _BYTES_MAX)
        return {int(number): str(cause) for number, cause in json.loads(data).items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ForeignObject as error:
        queue.store.quarantine(error)
    except (ValueError, AttributeError):
        queue.store.quarantine(ForeignObject(_path(queue, segment_id, slot), "not a list of causes"))
    return {}


def write_causes(queue: QueueDir, segment_id: SegmentId, slot: int, causes: dict[int, str]) -> None:
    """Replace the causes of a message. The lock is held. Repeating it changes nothing."""
    try:
        queue.ops.make_dir(f"{queue.path}/causes")
    except ForeignObject as error:
        queue.store.quarantine(error)
        queue.ops.make_dir(f"{queue.path}/causes")
    path = _path(queue, segment_id, slot)
    queue.ops.unlink_if_there(f"{path}.tmp")
    short = {number: cause[:_CAUSE_CHARS_MAX] for number, cause in causes.items()}
    queue.ops.write_new(f"{path}.tmp", json.dumps(short).encode("ascii"), sync=queue.store.fsync)
    queue.ops.rename(f"{path}.tmp", path)


def add_causes(queue: QueueDir, segment_id: SegmentId, slot: int, crash: int, causes: Sequence[str]) -> None:
    """Record why a message crashed for the `crash`-th time. The lock is held."""
    if causes:
        known = causes_of(queue, segment_id, slot)
        known[crash] = "; ".join(causes)
        try:
            write_causes(queue, segment_id, slot, known)
        except OSError as error:
            # On a full disk the message must come back all the same; its crash is counted anyway.
            queue.store.notice(f"cannot record in {queue.path} why a message crashed: {error.strerror}")


def in_order(causes: dict[int, str]) -> tuple[str, ...]:
    """Oldest first."""
    return tuple(causes[number] for number in sorted(causes))


def _path(queue: QueueDir, segment_id: SegmentId, slot: int) -> str:
    return f"{queue.path}/causes/{segment_id.causes_prefix()}{slot}"
