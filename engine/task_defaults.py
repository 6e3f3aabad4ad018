"""What a task class may say and override: options with their defaults, and hooks (parity §4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .retrying import DEFAULT_BACKOFF_MAX_S, DEFAULT_MAX_RETRIES, DEFAULT_RETRY_DELAY_S

if TYPE_CHECKING:
    from .app import App


class TaskDefaults:
    """Options and hooks of tasks. None means "as configured"."""

    name: str = ""
    bind: bool = False
    abstract: bool = True
    typing: bool | None = None
    serializer: str | None = None
    compression: str | None = None
    ignore_result: bool | None = None
    store_errors_even_if_ignored: bool | None = None
    store_eager_result: bool | None = None
    track_started: bool | None = None
    max_retries: int | None = DEFAULT_MAX_RETRIES
    default_retry_delay: float | None = DEFAULT_RETRY_DELAY_S
    retry_delays: Sequence[float] | None = None
    retry_for_s: float | None = None
    max_snoozes: int | None = None
    autoretry_for: Iterable[type[BaseException]] = ()
    dont_autoretry_for: Iterable[type[BaseException]] = ()
    retry_kwargs: Mapping[str, Any] = {}
    retry_backoff: bool | float = False
    retry_backoff_max: float = DEFAULT_BACKOFF_MAX_S
    retry_jitter: bool = True
    throws: type[BaseException] | Sequence[type[BaseException]] = ()
    rate_limit: str | float | None = None
    rate_limit_burst: float | None = None
    global_rate_limit: str | float | None = None
    max_concurrency: int | None = None
    key: str | Callable[..., Any] | None = None
    unique: Any = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    acks_late: bool | None = None
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    retry_on_worker_lost: bool | None = None
    trail: bool = True
    send_events: bool = True
    expires: float | datetime | None = None
    priority: int | None = None
    urgency: int | None = None
    queue: Any = None
    exchange: Any = None
    exchange_type: str | None = None
    routing_key: str | None = None
    delivery_mode: int | str | None = None
    resultrepr_maxsize: int = 1024
    pydantic: bool = False
    pydantic_strict: bool = False
    pydantic_context: Mapping[str, Any] | None = None
    pydantic_dump_kwargs: Mapping[str, Any] | None = None
    models: Any = None

    def on_bound(self, app: App) -> None:
        """Called when the task has been bound to an app. Override it."""

    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str | None:
        """Another name to show for one call in logs and events; None shows the task's own."""
        return None

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called before the body, in the process that runs it."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called after the body returned."""

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called after the body raised and no retry follows."""

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called after the body asked to be run again."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Called last, whatever happened."""
