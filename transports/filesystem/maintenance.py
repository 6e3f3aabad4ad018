"""Bounded housekeeping: what does not belong here goes to quarantine, what processes left is removed."""

from __future__ import annotations

import contextlib
import os
from functools import partial

from . import clock, deadletters, owners
from .agreements_sweep import AgreementsSweep
from .expiry import ExpirySweep
from .fileops import ForeignObject, foreign_reason
from .layout import CLAIM, State, parse_segment_name
from .queuedir import QueueDir
from .queues import Queues
from .revocations import Revocations
from .segment import Segment
from .store import Store

_EXPIRED_MAX = 1000
_AGREEMENTS_MAX = 2000
_NAMES_MAX = 20_000
_LEFTOVER_AGE_S = 3600.0
_FOLDERS = frozenset({"delayed", "causes"})
_FILES = frozenset({"lock", "in", "out", "name"})


class Maintenance:
    """Housekeeping of one broker directory."""

    def __init__(self, store: Store, queues: Queues, revocations: Revocations) -> None:
        self._store = store
        self._queues = queues
        self._sweep = ExpirySweep(store)
        self._agreements = AgreementsSweep(store, revocations)

    def run(self) -> list[str]:
        """One round; returns what an operator should know."""
        for queue in self._queues.all():
            self._check_queue(queue)
        self._check_dead()
        self._forget_unfinished_owners()
        self._drop_unfinished_leases()
        self._sweep.sweep(_EXPIRED_MAX)
        self._sweep.drop_leftovers()
        self._agreements.sweep(_AGREEMENTS_MAX)
        return self._store.take_notices()

    def _check_queue(self, queue: QueueDir) -> None:
        with queue.locked():
            for name in sorted(os.listdir(queue.path))[:_NAMES_MAX]:
                path = f"{queue.path}/{name}"
                if name.endswith(".tmp"):
                    # Made and renamed under the lock, which is held here: its maker is dead.
                    self._store.ops.unlink_if_there(path)
                elif name in _FOLDERS:
                    if os.path.islink(path) or not os.path.isdir(path):
                        self._store.quarantine(ForeignObject(path, "not a directory"))
                        self._store.ops.make_dir(path)
                elif name in _FILES or parse_segment_name(name) is not None:
                    self._check_file(path)
                else:
                    self._store.quarantine(ForeignObject(path, "no file of a queue has this name"))
            for name in os.listdir(f"{queue.path}/delayed"):
                self._check_hour(queue, name)
        queue.visit_segments(queue.segment_ids()[:_NAMES_MAX], partial(self._void_orphans, queue))

    def _check_hour(self, queue: QueueDir, hour: str) -> None:
        folder = f"{queue.path}/delayed/{hour}"
        if not hour.isdigit() or os.path.islink(folder) or not os.path.isdir(folder):
            self._store.quarantine(ForeignObject(folder, "no hour of a schedule"))
            return
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            if name.endswith(".tmp"):
                self._store.ops.unlink_if_there(path)
            elif parse_segment_name(name) is None:
                self._store.quarantine(ForeignObject(path, "no bucket of a schedule"))
            else:
                self._check_file(path)

    def _check_file(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            why = foreign_reason(os.lstat(path))
            if why:
                self._store.quarantine(ForeignObject(path, why))

    def _void_orphans(self, queue: QueueDir, segment: Segment) -> None:
        """Remove staged messages of owners that are forgotten: nobody will ever show them."""
        states = bytearray(segment.states())
        slot = states.find(State.STAGED)
        changed = False
        while slot >= 0:
            owner_id = int(CLAIM.unpack(segment.claims(slot, 1))[0])
            if not os.path.isdir(owners.owner_path(self._store, owner_id)):
                states[slot] = State.DONE
                changed = True
            slot = states.find(State.STAGED, slot + 1)
        if changed:
            segment.write_states(0, states)
        queue.drop_if_done(segment, states)

    def _check_dead(self) -> None:
        for name in sorted(os.listdir(self._store.path("dead")))[:_NAMES_MAX]:
            path = self._store.path("dead", name)
            if not deadletters.is_key(name):
                self._store.quarantine(ForeignObject(path, "no dead letter has this name"))
            else:
                self._check_file(path)

    def _forget_unfinished_owners(self) -> None:
        for one in owners.registered(self._store):
            if one.name:
                continue
            path = owners.owner_path(self._store, one.id)
            with contextlib.suppress(FileNotFoundError):
                # Old enough not to be a registration that is under way.
                if clock.wall_s() - os.lstat(path).st_mtime > _LEFTOVER_AGE_S:
                    owners.forget(self._store, one.id)

    def _drop_unfinished_leases(self) -> None:
        for name in os.listdir(self._store.path("workers")):
            path = self._store.path("workers", name)
            if name.startswith(".") and name.endswith(".tmp"):
                with contextlib.suppress(FileNotFoundError):
                    if clock.wall_s() - os.lstat(path).st_mtime > _LEFTOVER_AGE_S:
                        self._store.ops.unlink_if_there(path)
