"""What a task has to do with workflows: signatures of itself, and handing over to another task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .canvas import Signature, chunks, xmap, xstarmap
from .replacing import hand_over, replacement_of, signature_of_request
from .request import Context

if TYPE_CHECKING:
    from .app import App


class TaskCanvas:
    """The part of `Task` that makes signatures."""

    if TYPE_CHECKING:

        @property
        def app(self) -> App:
            """The app that the task belongs to."""

        @property
        def request(self) -> Context:
            """The request of the execution that runs here."""

    def signature(self, args: Any = None, *starargs: Any, **starkwargs: Any) -> Signature:
        """A call that has not been made: ``signature((2, 2), countdown=1)``."""
        starkwargs.setdefault("app", self.app)
        return Signature(self, args, *starargs, **starkwargs)

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """``.s(*a, **k) -> .signature(a, k)``."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Like `s`, and ignores what the task before it returned."""
        return self.signature(args, kwargs, immutable=True)

    def map(self, it: Iterable[Any]) -> Signature:
        """One message that calls the task with each item."""
        return xmap(self.s(), it, app=self.app)

    def starmap(self, it: Iterable[Any]) -> Signature:
        """One message that calls the task with each item as its arguments."""
        return xstarmap(self.s(), it, app=self.app)

    def chunks(self, it: Iterable[Any], n: int) -> Signature:
        """Calls of `n` items each."""
        return chunks(self.s(), it, n, app=self.app)

    def signature_from_request(
        self,
        request: Context | None = None,
        args: Any = None,
        kwargs: Any = None,
        queue: str | None = None,
        **extra: Any,
    ) -> Signature:
        """A signature that runs an execution again; of the one that runs here unless `request` is given."""
        return signature_of_request(self, request or self.request, args, kwargs, queue, extra)

    subtask_from_request = signature_from_request

    def replace(self, sig: Any) -> Any:
        """Have another task take this one's id and place: ``return self.replace(other.s(1))``.

        The result of this id is then the other's. Nothing after the call runs.

        :param sig: a signature, or a chain, whose last step takes the place.
        :raises Replaced: in a worker; the other task is sent together with the acknowledgement.
        :raises ImproperlyConfigured: it is part of a chord, or an empty chain.
        """
        return self.on_replace(replacement_of(self, sig))

    def on_replace(self, sig: Any) -> Any:
        """Called with the signature that takes this task's place. What overrides it must call it."""
        return hand_over(self, sig)
