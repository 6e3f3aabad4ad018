"""Logging of the worker."""

from __future__ import annotations

from ..kinds import BOOLEAN, LOG_FORMAT, LOG_LEVEL, TEXT, optional
from ..setting import section, setting


@section
class WorkerLogsSettings:
    """Logging of the worker."""

    worker_hijack_root_logger: bool = setting(
        BOOLEAN,
        False,
        "Replace the handlers of the root logger; otherwise they are left alone where there are any.",
        celery=True,
        old="CELERYD_HIJACK_ROOT_LOGGER",
    )
    worker_log_color: bool | None = setting(
        optional(BOOLEAN),
        None,
        "Colour log lines; none colours them on a terminal.",
        old="CELERYD_LOG_COLOR",
    )
    worker_log_format: str = setting(
        LOG_FORMAT,
        "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s",
        "Format of log lines; names as in the logging module.",
        old="CELERYD_LOG_FORMAT",
    )
    worker_log_datefmt: str | None = setting(
        optional(TEXT),
        None,
        "Date format of log lines.",
        old="CELERYD_LOG_DATEFMT",
    )
    worker_task_log_format: str = setting(
        LOG_FORMAT,
        "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s",
        "Format of the log lines of task loggers; also has task_name and task_id.",
        old="CELERYD_TASK_LOG_FORMAT",
    )
    worker_task_log_datefmt: str | None = setting(
        optional(TEXT),
        None,
        "Date format of the log lines of task loggers.",
        old="CELERYD_TASK_LOG_DATEFMT",
    )
    worker_redirect_stdouts: bool = setting(
        BOOLEAN,
        True,
        "Log what tasks print.",
        old="CELERY_REDIRECT_STDOUTS",
    )
    worker_redirect_stdouts_level: str | int = setting(
        LOG_LEVEL,
        "WARNING",
        "The level at which it is logged.",
        old="CELERY_REDIRECT_STDOUTS_LEVEL",
    )
    worker_json_logs: bool = setting(
        BOOLEAN,
        False,
        "Write log records as JSON, one object a line.",
        ours=True,
    )
