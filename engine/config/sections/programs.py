"""Values that Celery reads without listing them among its defaults."""

from __future__ import annotations

from typing import Any

from ..kinds import BOOLEAN, MAP, OBJECT, SECONDS, WORD, optional
from ..reasons import BEAT, DAEMONS, EVENTS, STORES
from ..setting import section, setting


@section
class ProgramsSettings:
    """Values that Celery reads without listing them among its defaults."""

    worker_executable: str | None = setting(
        optional(WORD),
        None,
        "Daemon value of `celery worker`: executable.",
        no_effect=DAEMONS,
    )
    worker_gid: Any = setting(
        OBJECT,
        None,
        "Daemon value of `celery worker`: gid.",
        no_effect=DAEMONS,
    )
    worker_logfile: str | None = setting(
        optional(WORD),
        None,
        "Log file of the worker when the command line names none; %n %h %d %i %I %p are expanded.",
    )
    worker_pidfile: str | None = setting(
        optional(WORD),
        None,
        "Pid file of the worker when the command line names none.",
        no_effect="the pid file is chosen on the command line: --pidfile",
    )
    worker_uid: Any = setting(
        OBJECT,
        None,
        "Daemon value of `celery worker`: uid.",
        no_effect=DAEMONS,
    )
    worker_umask: Any = setting(
        OBJECT,
        None,
        "Daemon value of `celery worker`: umask.",
        no_effect=DAEMONS,
    )
    beat_executable: str | None = setting(
        optional(WORD),
        None,
        "Daemon value of `celery beat`: executable.",
        no_effect=BEAT,
    )
    beat_gid: Any = setting(
        OBJECT,
        None,
        "Daemon value of `celery beat`: gid.",
        no_effect=BEAT,
    )
    beat_logfile: str | None = setting(
        optional(WORD),
        None,
        "Daemon value of `celery beat`: logfile.",
        no_effect=BEAT,
    )
    beat_pidfile: str | None = setting(
        optional(WORD),
        None,
        "Daemon value of `celery beat`: pidfile.",
        no_effect=BEAT,
    )
    beat_uid: Any = setting(
        OBJECT,
        None,
        "Daemon value of `celery beat`: uid.",
        no_effect=BEAT,
    )
    beat_umask: Any = setting(
        OBJECT,
        None,
        "Daemon value of `celery beat`: umask.",
        no_effect=BEAT,
    )
    events_executable: str | None = setting(
        optional(WORD),
        None,
        "Daemon value of `celery events`: executable.",
        no_effect=EVENTS,
    )
    events_gid: Any = setting(
        OBJECT,
        None,
        "Daemon value of `celery events`: gid.",
        no_effect=EVENTS,
    )
    events_logfile: str | None = setting(
        optional(WORD),
        None,
        "Daemon value of `celery events`: logfile.",
        no_effect=EVENTS,
    )
    events_pidfile: str | None = setting(
        optional(WORD),
        None,
        "Daemon value of `celery events`: pidfile.",
        no_effect=EVENTS,
    )
    events_uid: Any = setting(
        OBJECT,
        None,
        "Daemon value of `celery events`: uid.",
        no_effect=EVENTS,
    )
    events_umask: Any = setting(
        OBJECT,
        None,
        "Daemon value of `celery events`: umask.",
        no_effect=EVENTS,
    )
    override_backends: dict[str, Any] | None = setting(
        optional(MAP),
        None,
        "Map of result store alias to class.",
        no_effect=STORES,
    )
    redis_backend_credential_provider: Any = setting(
        OBJECT,
        None,
        "Credential provider of the Redis result store.",
    )
    redis_backend_health_check_interval: float | None = setting(
        optional(SECONDS),
        None,
        "Health check interval of the Redis result store.",
        unit="s",
        no_effect="a connection that was idle is looked at before each use",
    )
    redis_client_name: str | None = setting(
        optional(WORD),
        None,
        "Client name of the Redis result store.",
    )
    result_backend_thread_safe: bool = setting(
        BOOLEAN,
        False,
        "One result store object for all threads.",
        no_effect="result stores are always safe to share between threads",
    )
    cassandra_secure_bundle_path: str | None = setting(
        optional(WORD),
        None,
        "Documented name of cassandra_bundle_path.",
        no_effect=STORES,
    )
