"""What must hold between settings. Pure: values in, problems out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from .errors import Problem
from .redaction import show

CONTENT_NAMES: Mapping[str, str] = {
    "application/json": "json",
    "application/x-python-serialize": "pickle",
    "application/x-msgpack": "msgpack",
    "application/x-yaml": "yaml",
}
_RETRY_KEYS = ("max_retries", "interval_start", "interval_step", "interval_max", "retry_errors")

Values = Mapping[str, Any]


def _limits(values: Values) -> Iterator[tuple[str, str]]:
    soft, hard = values["task_soft_time_limit"], values["task_time_limit"]
    if soft is not None and hard is not None and soft > hard:
        yield (
            "task_soft_time_limit",
            f"it must not exceed task_time_limit ({hard:g} s)",
        )
    recycle, kill = values["worker_max_memory_per_child"], values["worker_hard_memory_limit"]
    if recycle is not None and kill is not None and recycle > kill:
        yield "worker_max_memory_per_child", f"it must not exceed worker_hard_memory_limit ({kill} KiB)"
    grace, step = values["task_unknown_grace"], values["task_unknown_retry_delay"]
    if 0 < grace < step:
        yield "task_unknown_retry_delay", f"it must not exceed task_unknown_grace ({grace:g} s)"


def _lease(values: Values) -> Iterator[tuple[str, str]]:
    lease_s, renew_s = values["worker_lease"], values["worker_lease_renew_interval"]
    if renew_s * 3 > lease_s:
        yield (
            "worker_lease_renew_interval",
            f"it must be at most a third of worker_lease ({lease_s:g} s): a late renewal would cost "
            "the worker its messages",
        )


def _contents(values: Values) -> Iterator[tuple[str, str]]:
    accepted = _names_of(values["accept_content"])
    for key in ("task_serializer", "event_serializer"):
        if _name_of(values[key]) not in accepted:
            yield key, f"the workers would refuse it: add {_name_of(values[key])!r} to accept_content"
    result_accept = values["result_accept_content"]
    readable = accepted if result_accept is None else _names_of(result_accept)
    name = _name_of(values["result_serializer"])
    if name not in readable:
        where = "accept_content" if result_accept is None else "result_accept_content"
        yield "result_serializer", f"clients would refuse it: add {name!r} to {where}"


def _names_of(contents: tuple[str, ...]) -> set[str]:
    return {_name_of(content) for content in contents}


def _name_of(content: str) -> str:
    return CONTENT_NAMES.get(content, content)


def _control_queues(values: Values) -> Iterator[tuple[str, str]]:
    if values["control_queue_exclusive"] and values["control_queue_durable"]:
        yield (
            "control_queue_durable",
            "an exclusive queue goes with its connection; see control_queue_exclusive",
        )


def _priorities(values: Values) -> Iterator[tuple[str, str]]:
    default, highest = values["task_default_priority"], values["task_queue_max_priority"]
    if default is not None and highest is not None and default > highest:
        yield "task_default_priority", f"it must not exceed task_queue_max_priority ({highest})"


def _retry_policy(values: Values) -> Iterator[tuple[str, str]]:
    for name, value in values["task_publish_retry_policy"].items():
        if name not in _RETRY_KEYS:
            yield "task_publish_retry_policy", f"it has no {name!r}; it may have {', '.join(_RETRY_KEYS)}"
        elif name != "retry_errors" and value is not None and not _is_amount(value):
            yield "task_publish_retry_policy", f"its {name!r} must be a number that is not negative"


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _timezone(values: Values) -> Iterator[tuple[str, str]]:
    name = values["timezone"]
    if name is None:
        return
    # Looked up on use: most configurations name no time zone.
    zone_info = import_module("zoneinfo").ZoneInfo
    try:
        zone_info(name)
    except (KeyError, ValueError, OSError):
        yield "timezone", "there is no such time zone; write a name such as Europe/Berlin or UTC"


def _compression(values: Values) -> Iterator[tuple[str, str]]:
    method = values["result_compression"]
    if method is None:
        return
    # Looked up on use, like the above, and with it the library that the method may need.
    compression = import_module("prefork.serializers.compression")
    try:
        compression.compress(b"", method)
    except compression.UnknownCompression as error:
        yield "result_compression", error.remedy


_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Values], Iterator[tuple[str, str]]]], ...] = (
    (
        (
            "task_soft_time_limit",
            "task_time_limit",
            "worker_max_memory_per_child",
            "worker_hard_memory_limit",
            "task_unknown_grace",
            "task_unknown_retry_delay",
        ),
        _limits,
    ),
    (("worker_lease", "worker_lease_renew_interval"), _lease),
    (("control_queue_exclusive", "control_queue_durable"), _control_queues),
    (
        (
            "accept_content",
            "task_serializer",
            "event_serializer",
            "result_accept_content",
            "result_serializer",
        ),
        _contents,
    ),
    (("task_default_priority", "task_queue_max_priority"), _priorities),
    (("task_publish_retry_policy",), _retry_policy),
    (("timezone",), _timezone),
    (("result_compression",), _compression),
)


def check(values: Values, source_of: Callable[[str], str]) -> list[Problem]:
    """Every rule between settings that is broken.

    :param values: parsed values; rules whose settings are missing (they did not parse) are left out.
    """
    problems = []
    for keys, rule in _CHECKS:
        if all(key in values for key in keys):
            for key, remedy in rule(values):
                problems.append(Problem(key, show(key, values[key]), source_of(key), remedy))
    return problems
