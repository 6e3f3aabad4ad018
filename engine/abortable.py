"""Tasks that may be asked to stop, and look whether they are: as Celery's ``celery.contrib.abortable``.

Nothing interrupts such a task. It asks `is_aborted` where it can stop well:

    @app.task(bind=True, base=AbortableTask)
    def export(self, rows):
        for row in rows:
            if self.is_aborted():
                return "stopped"
            write(row)

    result = export.delay(rows)
    result.abort()

The request is a state in the result store, so it needs one. A state that the task stores itself afterwards
would hide it: therefore it is noted under a key of its own as well.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from ..transports.errors import TransportError
from . import states
from .async_result import AsyncResult
from .clock import mono_s
from .task import P, R, Task

ABORTED: Final = states.ABORTED
"""The state of a task that was asked to stop. It is not final: the task says how it ends."""

LOOK_EVERY_S: Final = 0.25
"""How often a task that asks again and again really looks."""

_log = logging.getLogger("prefork.abortable")


class AbortableAsyncResult(AsyncResult[R]):
    """The result of an `AbortableTask`."""

    __slots__ = ()

    def abort(self) -> None:
        """Ask the task to stop. One that has ended stays as it is; one that has not begun will see it.

        :raises ImproperlyConfigured: there is no result store.
        """
        if self.state not in states.READY_STATES:
            self.app.client.stored.abort(self.id)

    def is_aborted(self) -> bool:
        """Whether the task was asked to stop, and has not ended since."""
        return self.app.client.stored.is_aborted(self.id)


class AbortableTask(Task[P, R]):
    """A task that may be asked to stop; use it as ``base=AbortableTask``, with ``bind=True``."""

    abstract = True

    def apply_async(self, *args: Any, **options: Any) -> AsyncResult[R]:
        """Send it; as `Task.apply_async`, with a result that can be aborted."""
        result = super().apply_async(*args, **options)
        if type(result) is not AsyncResult:
            return result  # it ran here and now
        return AbortableAsyncResult(result.id, None, self.name, self.app, ignored=result.ignored)

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AbortableAsyncResult[R]:
        """The result of an id, which can be aborted."""
        return AbortableAsyncResult(task_id, app=self.app, task_name=self.name, **kwargs)

    def is_aborted(self, **kwargs: Any) -> bool:
        """Whether this execution was asked to stop; cheap enough to ask in every turn of a loop.

        While the result store cannot be reached the answer is what it was before.

        :param task_id: of another task than the one that runs here.
        """
        if "task_id" in kwargs:
            return self.AsyncResult(kwargs["task_id"]).is_aborted()
        request = self.request
        if request.id is None or request.is_eager:
            return False
        looked_mono_s, aborted = request.abort_seen
        now_mono_s = mono_s()
        if aborted or now_mono_s - looked_mono_s < LOOK_EVERY_S:
            return bool(aborted)
        try:
            aborted = self.app.client.stored.is_aborted(request.id)
        except TransportError as error:
            _log.warning("cannot tell whether %s was aborted: %s", request.id, error)
        request.abort_seen = (now_mono_s, aborted)
        return aborted
