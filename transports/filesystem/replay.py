"""Puts a dead letter back into its queue: the letter goes and the message comes in one step."""

from __future__ import annotations

import os

from . import leases, owners
from .append import Item, append
from .consequences import Consequences
from .deadletters import read_dead_letter
from .intent import Intent, IntentFile, Parent, Staged
from .queues import Queues
from .store import Store


def replay_dead_letter(store: Store, queues: Queues, key: str) -> bool:
    """Replay a letter with a clean record; False if it is gone.

    The process that does it is an owner for that long, so that one which dies is recovered like any.
    """
    letter = read_dead_letter(store, key)
    if letter is None:
        return False
    name = f"replay-{os.getpid()}-{os.urandom(6).hex()}"
    leases.heartbeat(store, name, leases.GRACE_S)
    owner = owners.register(store, name, name)
    record = IntentFile(store, owner)
    settle_id = int.from_bytes(os.urandom(8), "little")
    queue = queues.get(letter.queue)
    with queue.locked():
        item = Item(letter.document, letter.priority)
        place = append(queue, [item], (owner.id, settle_id))[0]
    if store.fsync:
        place.segment.sync()
    staged = Staged(letter.queue, *place.segment.id, slot=place.slot, due_ms=0)
    intent = Intent(settle_id, (Parent(b"", (staged,), (), key),))
    record.write(intent)
    consequences = Consequences(store, queues, owner.id, owner.path)
    try:
        store.ops.rename(store.path("dead", key), f"{owner.path}/out/{key}")
    except FileNotFoundError:
        consequences.void(intent, intent.parents)
        replayed = False
    else:
        consequences.forward(intent, intent.parents)
        replayed = True
    record.clear()
    record.close()
    owner.close()
    owners.forget(store, owner.id)
    leases.unregister(store, name)
    return replayed
