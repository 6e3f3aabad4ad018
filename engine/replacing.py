"""A running task hands over to another one, which takes its id and all that is to follow (parity §4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .canvas import Signature, chain, group, maybe_signature
from .eager_message import refuse_unsendable
from .exceptions import Ignore, ImproperlyConfigured
from .message import parse
from .request import Context
from .unique import DONE, HEADER, Mark, declared, read_mark, unique_of
from .unique_locks import mark_of_message

if TYPE_CHECKING:
    from ..transports.base import Outgoing


class Replaced(Ignore):
    """Another task has taken this one's place.

    :ivar messages: of that task; whoever runs this one sends them together with its acknowledgement.
    :ivar takes_lock: the lock of this unique task is the other one's from now on.
    :ivar due_wall_s: Unix time at which that one is due; None for now.
    :ivar by: in an eager call, where there are no messages, the signature that is to run instead.
    """

    def __init__(
        self,
        messages: Iterable[Outgoing],
        takes_lock: bool = False,
        due_wall_s: float | None = None,
        by: Any = None,
    ) -> None:
        super().__init__("replaced by another task")
        self.messages = tuple(messages)
        self.takes_lock = takes_lock
        self.due_wall_s = due_wall_s
        self.by = by


def replacement_of(task: Any, sig: Any) -> Any:
    """The signature that takes the place of the running task.

    It has the task's id, its place in a group, its callbacks and error callbacks, and what was to follow
    it in a chain. Of a chain the last step has all that.

    :raises ImproperlyConfigured: it is part of a chord, or an empty chain.
    :raises ChordNeeded: it is a group, or has one inside.
    """
    if "chord" in sig.options:
        raise ImproperlyConfigured("a signature that replaces a task must not be part of a chord")
    request = task.request
    steps = [maybe_signature(step, task.app) for step in (sig.tasks if isinstance(sig, chain) else [sig])]
    if not steps:
        raise ImproperlyConfigured(f"{task.name} cannot be replaced by an empty chain")
    if any(isinstance(step, group) for step in steps):
        # Says what is missing, as it does everywhere else.
        chain(*steps, task.s()).apply_async()
    if request.called_directly:
        return sig.clone()  # what follows the task follows its value, which is the replacement's
    steps = [step.clone() for step in steps]
    depth = request.replaced_task_nesting + 1
    for step in steps:
        step.set(replaced_task_nesting=depth)
    if isinstance(sig, chain):
        _link(steps, sig.options)
    last = steps[-1]
    last.set(task_id=request.id, chord=request.chord, group_id=request.group, group_index=request.group_index)
    if request.reply_to:
        last.set(reply_to=request.reply_to)  # its result is that of the task
    _hand_on_lock(task, last)
    _link([last], {"link": request.callbacks})
    _link(steps, {"link_error": request.errbacks})
    after = [
        {**step, "options": {**step["options"], "replaced_task_nesting": depth}} for step in _chain(request)
    ]
    rest = [*after, *(dict(step) for step in reversed(steps[1:]))]
    first = steps[0]
    first.set(chain=rest or None, root_id=request.root_id, reply_to=request.reply_to)
    first.set(parent_id=request.parent_id)
    return first


def _mark_until_done(task: Any) -> Mark | None:
    """What keeps equal tasks from being sent until the running one is done."""
    message = task.request.message
    mark = None if message is None else mark_of_message(message)
    return mark if mark is not None and mark.until == DONE else None


def _hand_on_lock(task: Any, last: Any) -> None:
    """Have the task that takes the id take the lock as well, unless it is to be unique in its own right."""
    mark = _mark_until_done(task)
    if mark is not None and not _own_wish(task.app, last):
        last.set(headers={**(last.options.get("headers") or {}), HEADER: mark.text()})


def _own_wish(app: Any, sig: Any) -> bool:
    own = declared(app.tasks.get(sig.task))
    return unique_of(sig.options.get("unique", own)) is not None


def _chain(request: Context) -> list[Mapping[str, Any]]:
    """What was to follow, last first."""
    return [{"options": {}, **step} for step in request.chain or ()]


def _link(steps: list[Any], options: Mapping[str, Any]) -> None:
    """Have callbacks called after the last step, error callbacks after each."""
    for callback in _listed(options.get("link")):
        steps[-1].link(maybe_signature(callback))
    for errback in _listed(options.get("link_error")):
        for step in steps:
            step.link_error(maybe_signature(errback))


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, Mapping) else list(value)


def hand_over(task: Any, sig: Any) -> Any:
    """Send the replacement in place of the result; of a task that is called as a function, run it.

    :raises Replaced: always, but in a task that is called as a function.
    :raises DuplicateTaskError: it is to be unique, and one with the same key is on its way.
    """
    request = task.request
    if request.called_directly:
        return sig.apply().get(disable_sync_subtasks=False)
    if request.is_eager:
        sig.type  # noqa: B018  (what is not known here cannot run here)
        if request.message is not None:
            refuse_unsendable(sig, request)
        raise Replaced((), by=sig)
    with task.app.client.following() as found:
        sig.apply_async(add_to_parent=False)
    if found.unsent:
        # It could never have this task's id, which somebody may wait for.
        found.unsent[0].warn()
        raise found.unsent[0].error
    raise _replaced(task, sig, found.messages)


def _replaced(task: Any, sig: Any, messages: list[Outgoing]) -> Replaced:
    mark = _mark_until_done(task)
    if mark is None or not messages:
        return Replaced(messages)
    first = parse(messages[0].document, task.app.client.table)
    if first.id == task.request.id:
        found = mark_of_message(first)
    else:  # the first step of a chain: the last one has the id
        follows = (step for step in sig.options.get("chain") or () if _id_of(step) == task.request.id)
        headers: Any = next((step["options"].get("headers") for step in follows), None)
        found = read_mark((headers or {}).get(HEADER))
    takes_lock = found is not None and found.digest == mark.digest
    return Replaced(messages, takes_lock, first.eta_wall_s)


def _id_of(step: Mapping[str, Any]) -> Any:
    return (step.get("options") or {}).get("task_id")


def signature_of_request(
    task: Any,
    request: Context,
    args: Any,
    kwargs: Any,
    queue: str | None,
    extra: Mapping[str, Any],
) -> Signature:
    """A signature that runs an execution's task again, with all its options.

    :param queue: where it goes; None is where the message came from.
    """
    options = request.as_execution_options()
    if request.ignore_result is not None:
        options["ignore_result"] = request.ignore_result
    info = request.delivery_info or {}
    if info.get("priority") is not None:
        options["priority"] = info["priority"]
    if queue is not None:
        options["queue"] = queue
    elif info.get("exchange"):
        options.update(exchange=info["exchange"], routing_key=info.get("routing_key"))
    elif info.get("routing_key"):
        options["queue"] = info["routing_key"]
    again: Signature = task.signature(
        request.args if args is None else args,
        request.kwargs if kwargs is None else kwargs,
        {**options, **extra},
    )
    return again
