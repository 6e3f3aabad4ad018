"""Taking the lock of a unique task before it is sent, and what becomes of the lock when it is not.

While a message is on its way its lock lasts for `SENDING_S` only: who is killed between the two leaves
nothing behind that keeps others from sending for long.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import NAMESPACE_OID, uuid5

from ..transports.base import Answers
from ..transports.coordination import Coordinates
from ..transports.errors import BrokerUnavailable, ResultStoreUnavailable, TransportError
from ..transports.presence import KnowsWorkers
from . import states
from .broker_gaps import no_locks
from .exceptions import DuplicateTaskError, ImproperlyConfigured
from .message import TaskDraft
from .revoked_keys import task_key
from .unique import (
    HEADER,
    RAISE,
    REPLACE,
    TIME,
    Mark,
    Unique,
    declared,
    digest_of,
    mark_of,
    replaced_lock,
    started_lock,
    unique_of,
)

if TYPE_CHECKING:
    from .client import Client
    from .options import TaskPlan

SENDING_S: Final = 60.0
"""How long a lock lasts before its message is known to be sent."""

REPLACED_S: Final = 86_400.0
"""How long it is known of a task that it was replaced, at least."""

_TAKEOVERS: Final = 3

_log = logging.getLogger("prefork.client")


def coordinates_of(transport: object, task: str) -> Coordinates:
    """The broker as the keeper of locks.

    :raises ImproperlyConfigured: it cannot be one.
    """
    if isinstance(transport, Coordinates):
        return transport
    name = getattr(getattr(transport, "capabilities", None), "name", type(transport).__name__)
    raise ImproperlyConfigured(no_locks(task, name))


class UniqueTasks:
    """What a client needs for unique tasks."""

    def __init__(self, client: Client) -> None:
        self._client = client
        # Signatures of registered tasks. Written by any thread that sends one.
        self._signatures: dict[str, inspect.Signature | None] = {}
        # The broker, once it is known to have locks. Written by any thread that sends.
        self._coordinates: tuple[object, Coordinates] | None = None

    def claim(
        self,
        plan: TaskPlan,
        draft: TaskDraft,
        options: Mapping[str, Any],
        now_wall_s: float,
        *,
        later: bool,
        again: bool,
    ) -> Claim | None:
        """Mark a draft as unique and take its lock; None when the call need not be unique.

        :param later: it is not sent now, but together with others: its lock must last from the start.
        :param again: should the process that sends it die before it has, another one will send it again.
        :raises DuplicateTaskError: see `Claim.take`.
        :raises ImproperlyConfigured: the broker has no locks.
        :raises InvalidTaskError: `unique` is none, or names what is no argument.
        :raises EncodeError: an argument that is compared cannot be written in JSON; give `Unique.by`.
        :raises BrokerUnavailable: the broker cannot be reached.
        """
        wish = unique_of(options["unique"]) if "unique" in options else plan.options.unique
        if wish is None:
            return None
        digest = self.digest(draft.task, wish, draft.args, draft.kwargs)
        if again:
            _name_again(draft, digest)
        mark = mark_of(wish, digest, plan.config.task_unique_ttl)
        draft.headers = {**(draft.headers or {}), HEADER: mark.text()}
        waits_s = 0.0
        if draft.eta_wall_s is not None and mark.until != TIME:
            waits_s = max(0.0, draft.eta_wall_s - now_wall_s)
        claim = Claim(
            self._client,
            self._port(draft.task),
            draft,
            mark,
            wish.on_conflict,
            mark.ttl_s + waits_s,
            later=later,
        )
        self._client.persist(claim.take, retry=options.get("retry"), policy=options.get("retry_policy"))
        return claim

    def digest(self, name: str, wish: Unique, args: Any, kwargs: Any) -> str:
        """The digest of the key of a call, see `digest_of`."""
        serializer = self._client.table.by_name("json")
        return digest_of(name, wish, args, kwargs, signature=self._signature(name), serializer=serializer)

    def holder(self, name: str, args: Any = (), kwargs: Any = None, unique: Any = None) -> str | None:
        """The id of the task that such a call would meet with; None when it would be sent.

        :param unique: as given to the call; None takes the task's own, or True.
        :raises BrokerUnavailable: the broker cannot be reached.
        """
        return self._port(name).locked(self.lock_name(name, args, kwargs, unique))

    def free(self, name: str, args: Any = (), kwargs: Any = None, unique: Any = None) -> str | None:
        """Let the next such call be sent, whatever became of the last one; returns whose lock it was.

        :raises BrokerUnavailable: the broker cannot be reached.
        """
        port, lock = self._port(name), self.lock_name(name, args, kwargs, unique)
        held = port.locked(lock)
        return held if held is not None and port.unlock(lock, held) else None

    def lock_name(self, name: str, args: Any = (), kwargs: Any = None, unique: Any = None) -> str:
        """The name of the lock of such a call; parameters as in `holder`."""
        task = self._client.app.tasks.get(name)
        wish = unique_of(declared(task) if unique is None else unique) or Unique()
        digest = self.digest(name, wish, tuple(args or ()), dict(kwargs or {}))
        return Mark(digest, TIME, 1.0).lock

    def _port(self, name: str) -> Coordinates:
        transport = self._client.transport
        known = self._coordinates
        if known is None or known[0] is not transport:
            # To look at a protocol takes longer than to take a lock.
            known = self._coordinates = (transport, coordinates_of(transport, name))
        return known[1]

    def _signature(self, name: str) -> inspect.Signature | None:
        if name not in self._signatures:
            known = self._client.app.tasks.get(name)
            if known is None:
                return None
            try:
                self._signatures[name] = inspect.signature(known.run)
            except (TypeError, ValueError):
                self._signatures[name] = None  # written in C: its arguments are taken as they are given
        return self._signatures[name]


def _name_again(draft: TaskDraft, digest: str) -> None:
    """Give what follows from a task the same id whenever it follows: else its lock would keep it from being
    sent, should the process that made it die before it was."""
    named = str(uuid5(NAMESPACE_OID, f"{draft.parent_id}:{digest}"))
    if draft.root_id == draft.id:
        draft.root_id = named
    draft.id = named


class Claim:
    """One call that wants to be the only one with its key.

    :ivar duplicate: names the task that has the lock, if it is another one; written by `take`.
    """

    def __init__(
        self,
        client: Client,
        port: Coordinates,
        draft: TaskDraft,
        mark: Mark,
        on_conflict: str,
        full_s: float,
        *,
        later: bool,
    ) -> None:
        self._client = client
        self._task = draft.task
        self._task_id = draft.id
        self._mark = mark
        self._on_conflict = on_conflict
        self._full_s = full_s
        self._later = later or full_s <= SENDING_S
        self._port = port
        self.duplicate: DuplicateTaskError | None = None

    def take(self, _failed: int = 0, _left_s: float = 0.0) -> None:
        """Take the lock, or find out who has it.

        :raises DuplicateTaskError: somebody has it, and that is to be an error.
        :raises BrokerUnavailable: the broker cannot be reached. To try again is harmless.
        """
        lock, ttl_s = self._mark.lock, self._full_s if self._later else SENDING_S
        if self._on_conflict == REPLACE:
            previous = self._port.relock(lock, self._task_id, ttl_s)
            if previous is not None and previous != self._task_id:
                self._replace(previous)
            return
        held = self._port.lock(lock, self._task_id, ttl_s)
        for _takeover in range(_TAKEOVERS):
            if held is None or not self._is_over(held):
                break
            # Whoever ran it died before it could free the lock.
            self._port.unlock(lock, held)
            held = self._port.lock(lock, self._task_id, ttl_s)
        if held is None:
            return
        self.duplicate = DuplicateTaskError(self._task, self._mark.digest, held)
        if self._on_conflict == RAISE:
            raise self.duplicate

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it the message is sent; if that fails, the lock is freed."""
        try:
            yield
        except BaseException as error:
            self.abandon(error)
            raise
        self.confirm()

    def confirm(self) -> None:
        """The message is with the broker, or may be."""
        if self._later:
            return
        try:
            self._port.prolong(self._mark.lock, self._task_id, self._full_s)
        except TransportError as error:
            _log.warning(
                "%s[%s] was sent, and may be sent again in %g s: its lock cannot be kept: %s",
                self._task,
                self._task_id,
                SENDING_S,
                error,
            )

    def abandon(self, error: BaseException) -> None:
        """The message was not sent; where nobody knows, the lock stays until its time is over."""
        if isinstance(error, BrokerUnavailable) and error.outcome_unknown:
            _log.warning(
                "%s[%s] may have been sent: it stays unique for %g s", self._task, self._task_id, self._full_s
            )
            self.confirm()
            return
        try:
            self._port.unlock(self._mark.lock, self._task_id)
        except TransportError as again:
            _log.warning("%s[%s] was not sent, and its lock stays: %s", self._task, self._task_id, again)

    def _is_over(self, task_id: str) -> bool:
        """Whether the task that holds the lock has ended, as far as anybody can tell."""
        store = self._client.results
        if self._mark.until == TIME or store is None or isinstance(store, Answers):
            return False
        try:
            document = self._client.stored.read(task_id)
        except ResultStoreUnavailable as error:
            _log.info("cannot tell whether %s, which holds a lock, has ended: %s", task_id, error)
            return False
        if document is not None and document.status in states.READY_STATES:
            return True
        # A broker that does not know its workers only remembers it: REVOKED is stored when one meets it.
        return not isinstance(self._port, KnowsWorkers) and task_key(task_id) in self._port.revoked()

    def _replace(self, previous: str) -> None:
        """Keep the task that had the lock from starting."""
        self._port.lock(replaced_lock(previous), self._task_id, max(self._full_s, REPLACED_S))
        store = self._client.results
        if (
            store is None
            or isinstance(store, Answers)
            or self._port.locked(started_lock(previous)) is not None
        ):
            return
        try:
            # Workers need not look for it: they know the lock.
            self._client.stored.revoke([previous], waiting_only=True, announce=False)
        except ResultStoreUnavailable as error:
            _log.warning("%s is replaced, which its result does not say: %s", previous, error)
