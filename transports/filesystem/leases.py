"""Leases: a worker says that it lives; whoever finds that it stopped saying so recovers its owners.

Counted in time since the machine started (`clock.boot_ns`), which nobody can set; a lease of another
start of the machine has run out.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from . import clock
from .fileops import ForeignObject
from .layout import decode_name, encode_name
from .store import Store

GRACE_S = 60.0
"""The lease of a worker that registered an owner and never sent a heartbeat yet."""
_FILE_BYTES_MAX = 2 << 20
# What file systems without hard links answer.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class Lease(NamedTuple):
    """What a worker's file says."""

    worker: str
    boot_id: str
    until_boot_ns: int

    def lapsed(self, now_boot_ns: int, boot_id: str) -> bool:
        """Whether it has run out."""
        return self.boot_id != boot_id or now_boot_ns > self.until_boot_ns


def heartbeat(store: Store, worker: str, lease_s: float) -> None:
    """Write a lease that ends `lease_s` from now."""
    path = lease_path(store, worker)
    temporary = _written(store, worker, lease_s)
    try:
        store.ops.rename(temporary, path)
    except IsADirectoryError:
        store.quarantine(ForeignObject(path, "a directory"))
        store.ops.rename(temporary, path)


def ensure_lease(store: Store, worker: str) -> None:
    """Give a worker a first, short lease unless it has one: what it holds must not outlive it.

    Never in place of another: its agent may write a shorter one at this moment, and if the worker died
    before the next, others would wait for this one.
    """
    path = lease_path(store, worker)
    if os.path.lexists(path):
        return
    temporary = _written(store, worker, GRACE_S)
    try:
        store.ops.link(temporary, path)
    except FileExistsError:
        return  # somebody else was first, and that is as good
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        store.ops.rename(temporary, path)
    finally:
        store.ops.unlink_if_there(temporary)


def _written(store: Store, worker: str, lease_s: float) -> str:
    """The path of a file with a lease, still to be put in its place."""
    lease = Lease(worker, clock.boot_id(), clock.boot_ns() + int(lease_s * 1e9))
    temporary = f"{store.path('workers')}/.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    store.ops.write_new(temporary, json.dumps(lease._asdict()).encode("ascii"))
    return temporary


def unregister(store: Store, worker: str) -> None:
    """Forget a worker."""
    store.ops.unlink_if_there(lease_path(store, worker))


def lease_path(store: Store, worker: str) -> str:
    """Where the lease of a worker lies."""
    return store.path("workers", encode_name(worker))


def lapsed_workers(store: Store) -> dict[str, str]:
    """Workers whose lease has run out, and the paths of the leases."""
    now_boot_ns, boot_id = clock.boot_ns(), clock.boot_id()
    return {lease.worker: path for path, lease in _leases(store) if lease.lapsed(now_boot_ns, boot_id)}


def living_workers(store: Store) -> list[str]:
    """Workers that have a lease that goes on, sorted."""
    now_boot_ns, boot_id = clock.boot_ns(), clock.boot_id()
    return sorted(lease.worker for _, lease in _leases(store) if not lease.lapsed(now_boot_ns, boot_id))


def _leases(store: Store) -> Iterator[tuple[str, Lease]]:
    """Every lease there is, and its path."""
    for name in os.listdir(store.path("workers")):
        path = store.path("workers", name)
        if name.startswith(".") and name.endswith(".tmp"):
            continue
        lease = _read(store, path)
        if lease is not None:
            yield path, lease


def lives(store: Store, worker: str) -> bool:
    """Whether a worker has a lease that goes on."""
    lease = _read(store, lease_path(store, worker))
    return lease is not None and not lease.lapsed(clock.boot_ns(), clock.boot_id())


def _read(store: Store, path: str) -> Lease | None:
    """A lease; None when it is gone. A damaged one is quarantined and replaced by a short one."""
    try:
        data = store.ops.read_file(path, _FILE_BYTES_MAX)
        lease = Lease(**json.loads(data))
        if lease_path(store, lease.worker) == path and isinstance(lease.until_boot_ns, int):
            return lease
        raise ValueError(lease.worker)
    except FileNotFoundError:
        return None
    except ForeignObject as error:
        store.quarantine(error)
    except (ValueError, TypeError, AttributeError):
        store.quarantine(ForeignObject(path, "not a lease"))
    name = decode_name(os.path.basename(path))
    if name is not None:
        # Whose lease it was is in its name. A worker that lives renews it, one that does not lapses.
        heartbeat(store, name, GRACE_S)
    return None
