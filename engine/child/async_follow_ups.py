"""What follows the success of a coroutine that ran beside others.

For a unique task that follows, the broker must be asked. Nobody may stand still for that on an event
loop: it is asked from another thread, again and again while it is away, and the outcome is built once the
answer is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from ...transports.base import Outcome
from ...transports.errors import BrokerUnavailable
from ..execution import Interrupted
from ..follow_ups import Following, on_success
from ..message import TaskMessage
from ..request import Context
from .following import AGAIN_S, Unmade, complain, leaving
from .outcomes import Outcomes
from .parts import Parts

if TYPE_CHECKING:
    from ..app import App

_DEEPEST: Final = 20

_log = logging.getLogger("prefork.child")

Answer = Following | BaseException


class AsyncFollowUps:
    """Makes messages in place of `FollowingHere`. Used by the thread of the event loop only."""

    def __init__(self, parts: Parts, outcomes: Outcomes) -> None:
        self._parts = parts
        self._alone = outcomes.after_success
        self._beside = False  # an outcome is built for one that ran beside others
        self._answer: Answer | None = None  # of the broker, for the outcome that is built now
        outcomes.after_success = self._after_success

    async def outcome(
        self, build: Callable[[], Outcome], waits: Callable[[], None], ended_by: Callable[[], Any]
    ) -> Outcome:
        """Build an outcome, once what follows is known.

        :param build: builds it; called again when what follows was made.
        :param waits: called when it has to wait for that.
        :param ended_by: why the asyncio task that this runs in was cancelled, if it shall wait no longer.
        """
        answer: Answer | None = None
        while True:
            self._beside, self._answer = True, answer
            try:
                return build()
            except Unmade as error:
                unmade = error
            finally:
                self._beside, self._answer = False, None
            waits()
            answer = await self._until_answered(unmade, ended_by)

    def _after_success(self, message: TaskMessage, request: Context, value: Any) -> Following:
        if not self._beside:
            return self._alone(message, request, value)  # the others stand still anyhow
        answer, app = self._answer, self._parts.app
        if isinstance(answer, BaseException):
            raise answer
        if answer is not None:
            return answer
        if is_unique_among(app, [*(request.callbacks or ()), *(request.chain or ())[-1:]]):
            raise Unmade(message, request, value)
        try:
            return on_success(app, request, value)
        except BrokerUnavailable:
            raise Unmade(message, request, value) from None

    async def _until_answered(self, unmade: Unmade, ended_by: Callable[[], Any]) -> Answer:
        app, said = self._parts.app, False
        while True:
            try:
                return await app.client.aio.call(on_success, app, unmade.request, unmade.value)
            except BrokerUnavailable as error:
                given_up = leaving(self._parts, error)
                if given_up is not None:
                    return given_up
                if not said:
                    said = True
                    complain(unmade.message, error)
            except asyncio.CancelledError:
                pass  # judged below
            except BaseException as error:
                return error
            reason = ended_by()
            if reason is not None:
                return Interrupted(f"what follows was not made: {reason}")
            await _pause(AGAIN_S)


async def _pause(seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        _log.debug("a pause was cut short")  # why is asked when the next attempt has failed


def is_unique_among(app: App, signatures: Iterable[Any]) -> bool:
    """Whether a task is among signatures, or what they are made of, that wants to be the only one."""
    for signature in _flat(signatures, 0):
        options = signature.get("options")
        if isinstance(options, Mapping) and "unique" in options:
            if options["unique"]:
                return True
        elif getattr(app.tasks.get(str(signature.get("task"))), "unique", None):
            return True
    return False


def _flat(signatures: Iterable[Any], depth: int) -> Iterator[Mapping[str, Any]]:
    for signature in signatures:
        if not isinstance(signature, Mapping):
            continue  # whoever sends it will say so
        yield signature
        kwargs = signature.get("kwargs")
        parts = kwargs.get("tasks") if isinstance(kwargs, Mapping) else None
        if isinstance(parts, (list, tuple)) and depth < _DEEPEST:
            yield from _flat(parts, depth + 1)
