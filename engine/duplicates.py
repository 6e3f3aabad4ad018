"""What becomes of a call that is not sent because it is to be unique, and is not.

Who makes a single call gets the result of the one that is on its way instead. Of a step of a chain, or of
a call whose id was told before, somebody may wait for a result under that id, which nobody would ever
store: such a call has failed, and so has what was to follow it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from ..transports.errors import TransportError
from . import states
from .einfo import ExceptionInfo
from .exceptions import DuplicateTaskError
from .execution import Executed
from .message import TaskDraft
from .request import Context
from .result_writer import ResultWriter
from .unreached import Unreached

if TYPE_CHECKING:
    from ..transports.base import StoredResult
    from .client import Client

_log = logging.getLogger("prefork.unique")


class Unsent(NamedTuple):
    """A call that was not sent.

    :ivar error: names the task that is on its way.
    :ivar named: its id was given by the caller, or told before, as those of a chain's steps are.
    """

    draft: TaskDraft
    error: DuplicateTaskError
    named: bool

    @property
    def is_lost(self) -> bool:
        """Whether something is missing, besides a call that is made already."""
        draft = self.draft
        return self.named or bool(draft.chain or draft.callbacks or draft.chord)

    def warn(self) -> None:
        """Say that it was not sent, with both ids."""
        draft, existing_id = self.draft, self.error.existing_id
        follows = ", and what was to follow it does not" if draft.chain or draft.callbacks else ""
        _log.warning(
            "%s[%s] is not sent, as %s has the same key%s",
            draft.task,
            draft.id,
            existing_id,
            follows,
        )

    def ended(self) -> tuple[Context, Executed]:
        """What there would be of it, had it been sent and failed: for its error callbacks."""
        draft = self.draft
        request = Context(
            id=draft.id,
            task=draft.task,
            args=list(draft.args),
            kwargs=dict(draft.kwargs),
            root_id=draft.root_id,
            parent_id=draft.parent_id,
            group=draft.group,
            errbacks=draft.errbacks,
            called_directly=False,
        )
        return request, Executed(states.FAILURE, self.error, ExceptionInfo(self.error))

    def results(self, unreached: Unreached) -> tuple[StoredResult, ...]:
        """Its failure, if its id was told, and that of what was to follow it."""
        draft = self.draft
        options = {"task_id": draft.id, "group_id": draft.group, "ignore_result": draft.ignore_result}
        own: list[Any] = [{"task": draft.task, "options": options}] if self.named else []
        return unreached.after(
            [*(draft.chain or ()), *own],
            self.error,
            ignored=bool(draft.ignore_result),
            reply_to=draft.reply_to or None,
        )


def end_here(client: Client, unsent: Unsent) -> None:
    """Store in the process of the caller that a chain does not begin: no worker will."""
    if not unsent.is_lost:
        return
    draft, store = unsent.draft, client.results
    if draft.chain or draft.callbacks or draft.chord:
        unsent.warn()
    if not draft.chain or store is None:
        return
    writer = ResultWriter(client.config, client.result_table, enabled=True, node="")
    results = unsent.results(Unreached(client.app, client.config, writer))
    try:
        store.store(results)
    except TransportError as error:
        _log.warning("%s[%s] is not sent, which its result does not say: %s", draft.task, draft.id, error)
