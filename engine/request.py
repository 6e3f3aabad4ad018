"""`Context`: what a task knows about its own execution (``self.request``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from ..serializers import iso8601
from .clock import wall_s
from .retrying import FIRST_STARTED_HEADER, SNOOZES_HEADER

if TYPE_CHECKING:
    from .message import Embed, TaskMessage


_OURS = "prefork_"
"""How the headers begin that workers of this engine write for one another."""


class Context:
    """The request of one execution; every field has a default, so the worker sets what it knows.

    Written by whoever runs the task, before it starts. `children` grows while the task runs, and
    `retry_plan` is set by `Task.retry`, `reporter` by `Task.progress`, `shields` by `shield`.

    :ivar timelimit: ``[hard, soft]`` in seconds, or None.
    :ivar message: the message that it came in, when a worker runs it.
    :ivar started_wall_s: Unix time when this attempt began, or would have in a worker.
    :ivar first_started_wall_s: the same of the first attempt, where that is told without a message.
    """

    _protected = 0
    id: str | None = None
    task: str | None = None
    args: Any = None
    kwargs: Any = None
    retries: int = 0
    called_directly: bool = True
    is_eager: bool = False
    hostname: str | None = None
    delivery_info: dict[str, Any] | None = None
    redelivered: bool | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    taskset: str | None = None
    chord: Any = None
    chain: Any = None
    callbacks: Any = None
    errbacks: Any = None
    timelimit: Any = None
    message: TaskMessage | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    origin: str | None = None
    shadow: str | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: int = 0
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    compression: str | None = None
    serializer: str | None = None
    priority: int | None = None
    utc: bool = True
    loglevel: int | None = None
    logfile: str | None = None
    crashes: int = 0
    _children: list[Any] | None = None
    retry_plan: Any = None
    reporter: Any = None
    shields: Any = None
    on_shield: Any = None
    abort_seen: tuple[float, bool] = (float("-inf"), False)
    started_wall_s: float | None = None
    first_started_wall_s: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for fields in args:
            self.__dict__.update(fields)
        if kwargs:
            self.__dict__.update(kwargs)

    # The next three are made of the message when a task asks for them: hardly any does.

    @property
    def headers(self) -> dict[str, Any] | None:
        """Custom headers of the message, or None."""
        if "headers" in self.__dict__:
            return cast("dict[str, Any] | None", self.__dict__["headers"])
        found = None if self.message is None else self.message.headers
        if not found:
            return found
        return {key: value for key, value in found.items() if not key.startswith(_OURS)} or None

    @headers.setter
    def headers(self, value: dict[str, Any] | None) -> None:
        self.__dict__["headers"] = value

    @property
    def eta(self) -> str | None:
        """When it was to start, ISO 8601, or None."""
        return self._moment("eta", None if self.message is None else self.message.eta_wall_s)

    @eta.setter
    def eta(self, value: str | None) -> None:
        self.__dict__["eta"] = value

    @property
    def expires(self) -> str | None:
        """After when it is worthless, ISO 8601, or None."""
        return self._moment("expires", None if self.message is None else self.message.expires_wall_s)

    @expires.setter
    def expires(self, value: str | None) -> None:
        self.__dict__["expires"] = value

    def _moment(self, name: str, wall_s: float | None) -> str | None:
        if name in self.__dict__:
            return cast("str | None", self.__dict__[name])
        return None if wall_s is None else iso8601.utc_text(wall_s)

    @property
    def children(self) -> list[Any]:
        """Results of the tasks that this one sent."""
        if self._children is None:
            self._children = []
        return self._children

    @children.setter
    def children(self, value: list[Any] | None) -> None:
        self._children = value

    @property
    def properties(self) -> dict[str, Any] | None:
        """Properties of the message, as peers show them, or None."""
        if "properties" in self.__dict__ or self.message is None:
            return cast("dict[str, Any] | None", self.__dict__.get("properties"))
        return properties_of(self.message)

    @properties.setter
    def properties(self, value: dict[str, Any] | None) -> None:
        self.__dict__["properties"] = value

    @property
    def time_limit(self) -> float | None:
        """The hard limit in seconds that came with the message."""
        return self.timelimit[0] if self.timelimit else None

    @property
    def soft_time_limit(self) -> float | None:
        """The soft limit in seconds that came with the message."""
        return self.timelimit[1] if self.timelimit else None

    def first_started(self, now_wall_s: float) -> float:
        """Unix time when the first attempt of this task began, of those that are known of."""
        told = self.first_started_wall_s
        if told is None:
            told = self._number(FIRST_STARTED_HEADER)
        # Anybody may have written the header: only a moment of the past counts.
        if told is not None and 0 <= told <= now_wall_s:
            return told
        return now_wall_s if self.started_wall_s is None else self.started_wall_s

    @property
    def snoozes(self) -> int:
        """How often the task has put itself off (`Snooze`)."""
        if "snoozes" in self.__dict__:
            return cast(int, self.__dict__["snoozes"])
        told = self._number(SNOOZES_HEADER)
        return int(told) if told is not None and 0 <= told < 2**31 else 0

    @snoozes.setter
    def snoozes(self, value: int) -> None:
        self.__dict__["snoozes"] = value

    def _number(self, header: str) -> float | None:
        headers = None if self.message is None else self.message.headers
        value = headers.get(header) if headers else None
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def __getattr__(self, name: str) -> Any:
        """A custom header by its name, as Celery has it; asked only for what is no field."""
        headers = None if name.startswith("_") else self.headers
        if not headers or name not in headers:
            raise AttributeError(f"the request has neither a field nor a custom header {name!r}")
        return headers[name]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set fields, as `dict.update` does."""
        self.__dict__.update(*args, **kwargs)

    def clear(self) -> None:
        """Forget everything that was set."""
        self.__dict__.clear()

    def get(self, key: str, default: Any = None) -> Any:
        """A field by name."""
        return getattr(self, key, default)

    def __repr__(self) -> str:
        return f"<Context: {self.__dict__!r}>"

    def as_execution_options(self) -> dict[str, Any]:
        """What a copy of this task must be sent with in order to be the same one."""
        limits = self.timelimit or (None, None)
        return {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": limits[1],
            "time_limit": limits[0],
            "headers": self.custom_headers(),
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
            **self._stamping(),
        }

    def _stamping(self) -> dict[str, Any]:
        """The options that stamp a copy as this one is stamped."""
        if self.stamps is None or self.stamped_headers is None:
            return {}
        stamps = {name: value for name, value in self.stamps.items() if name in self.stamped_headers}
        return {"stamped_headers": self.stamped_headers, **stamps}

    def custom_headers(self) -> dict[str, Any] | None:
        """The message's headers that no protocol defines; ``x-death`` stays behind (interop §2.1)."""
        if not self.headers:
            return None
        return {key: value for key, value in self.headers.items() if key != "x-death"} or None


def properties_of(message: TaskMessage) -> dict[str, Any]:
    """The properties of a message, by the names that peers show them under."""
    told = message.envelope.properties
    known = {
        "correlation_id": message.correlation_id,
        "reply_to": message.reply_to,
        "delivery_mode": told.delivery_mode,
        "priority": message.priority,
        "expiration": told.expiration,
        "delivery_info": {"exchange": message.exchange, "routing_key": message.routing_key},
    }
    given = {name: value for name, value in known.items() if value is not None}
    return {**(message.envelope.more_properties or {}), **given}


def context_of(
    message: TaskMessage,
    payload: tuple[list[Any], dict[str, Any], Embed],
    *,
    queue: str,
    redelivered: bool,
    crashes: int,
    node: str,
    on_shield: Callable[[bool], None] | None = None,
) -> Context:
    """What a task sees as ``self.request``, and an error callback as the request of what failed.

    :param queue: where the message came from.
    :param crashes: how many processes died of it.
    :param on_shield: see `shielding`.
    """
    args, kwargs, embed = payload
    context = Context.__new__(Context)
    # As it is, and not copied field by field: that would be done for every message.
    context.__dict__ = {
        "id": message.id,
        "task": message.task,
        "args": args,
        "kwargs": kwargs,
        "retries": message.retries,
        "called_directly": False,
        "hostname": node,
        "delivery_info": {
            "exchange": message.exchange,
            "routing_key": message.routing_key or queue,
            "priority": message.priority,
            "redelivered": redelivered,
        },
        "redelivered": redelivered,
        "root_id": message.root_id or message.id,
        "parent_id": message.parent_id,
        "group": message.group,
        "group_index": message.group_index,
        "chord": embed.chord,
        "chain": embed.chain,
        "callbacks": embed.callbacks,
        "errbacks": embed.errbacks,
        "timelimit": [message.time_limit_s, message.soft_time_limit_s],
        "reply_to": message.reply_to,
        "correlation_id": message.correlation_id,
        "origin": message.origin,
        "shadow": message.shadow,
        "ignore_result": message.ignore_result,
        "replaced_task_nesting": message.replaced_task_nesting,
        "stamped_headers": message.stamped_headers,
        "stamps": message.stamps,
        "priority": message.priority,
        "crashes": crashes,
        "message": message,
        "started_wall_s": wall_s(),
        "on_shield": on_shield,
    }
    return context
