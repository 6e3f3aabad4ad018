"""What programs are told about messages that are sent: signals around publishing (parity §16)."""

from __future__ import annotations

from typing import Any

from . import result_document, signals
from .message import TaskDraft


def before(draft: TaskDraft, retry_policy: Any) -> None:
    """Send `before_task_publish`; what receivers put into the headers travels along."""
    headers = {"id": draft.id, "task": draft.task, **_described(draft), **(draft.headers or {})}
    known = dict(headers)
    properties = {"correlation_id": draft.correlation_id or draft.id, **(draft.properties or {})}
    sent = dict(properties)
    signals.before_task_publish.send(
        draft.task,
        body=_body(draft),
        exchange=draft.exchange,
        routing_key=draft.routing_key,
        headers=headers,
        properties=properties,
        declare=[],
        retry_policy=retry_policy,
    )
    added = {k: v for k, v in headers.items() if k not in known or known[k] is not v}
    if added:
        draft.headers = {**(draft.headers or {}), **added}
    more = {k: v for k, v in properties.items() if k not in sent or sent[k] is not v}
    if more:
        draft.properties = {**(draft.properties or {}), **more}


def after(draft: TaskDraft) -> None:
    """Send `after_task_publish` and `task_sent`."""
    headers = {"id": draft.id, "task": draft.task, **_described(draft), **(draft.headers or {})}
    signals.after_task_publish.send(
        draft.task,
        body=_body(draft),
        exchange=draft.exchange,
        routing_key=draft.routing_key,
        headers=headers,
    )
    signals.task_sent.send(
        draft.task,
        task_id=draft.id,
        task=draft.task,
        args=draft.args,
        kwargs=draft.kwargs,
        eta=headers["eta"],
        taskset=draft.group,
    )


def _described(draft: TaskDraft) -> dict[str, Any]:
    """The protocol's headers as receivers of signals know them."""
    return {
        "lang": "py",
        "shadow": draft.shadow,
        "eta": None if draft.eta_wall_s is None else result_document.iso_utc(draft.eta_wall_s),
        "expires": None if draft.expires_wall_s is None else result_document.iso_utc(draft.expires_wall_s),
        "group": draft.group,
        "group_index": draft.group_index,
        "retries": draft.retries,
        "timelimit": [draft.time_limit_s, draft.soft_time_limit_s],
        "root_id": draft.root_id,
        "parent_id": draft.parent_id,
        "argsrepr": draft.argsrepr,
        "kwargsrepr": draft.kwargsrepr,
        "origin": draft.origin,
        "ignore_result": draft.ignore_result,
    }


def _body(draft: TaskDraft) -> tuple[Any, ...]:
    embed = {
        "callbacks": draft.callbacks,
        "errbacks": draft.errbacks,
        "chain": draft.chain,
        "chord": draft.chord,
    }
    return draft.args, draft.kwargs, embed
