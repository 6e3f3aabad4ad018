"""The periodic scheduler."""

from __future__ import annotations

from typing import Any

from ..kinds import BOOLEAN, COUNT, MAP, OBJECT, SECONDS, WORD, optional
from ..reasons import BEAT
from ..setting import section, setting


@section
class BeatSettings:
    """The periodic scheduler."""

    beat_schedule: dict[str, Any] = setting(
        MAP,
        {},
        "What is due when: a map from name to entry.",
        old="CELERYBEAT_SCHEDULE",
        no_effect=BEAT,
    )
    beat_scheduler: Any = setting(
        OBJECT,
        "celery.beat:PersistentScheduler",
        "Class or alias of the scheduler.",
        old="CELERYBEAT_SCHEDULER",
        no_effect=BEAT,
    )
    beat_schedule_filename: str = setting(
        WORD,
        "celerybeat-schedule",
        "File that keeps the schedule.",
        old="CELERYBEAT_SCHEDULE_FILENAME",
        no_effect=BEAT,
    )
    beat_sync_every: int = setting(
        COUNT,
        0,
        "Save the schedule after this many sends; 0 goes by time.",
        old="CELERYBEAT_SYNC_EVERY",
        no_effect=BEAT,
    )
    beat_max_loop_interval: float = setting(
        SECONDS,
        0.0,
        "Longest sleep between looks at the schedule; 0 leaves it to the scheduler.",
        unit="s",
        old="CELERYBEAT_MAX_LOOP_INTERVAL",
        no_effect=BEAT,
    )
    beat_cron_starting_deadline: float | None = setting(
        optional(SECONDS),
        None,
        "Pass over runs that were missed by more than this.",
        unit="s",
        old="CELERYBEAT_CRON_STARTING_DEADLINE",
        no_effect=BEAT,
    )
    beat_enable_remote_control: bool = setting(
        BOOLEAN,
        False,
        "Answer the control command ping.",
        old="CELERYBEAT_ENABLE_REMOTE_CONTROL",
        no_effect=BEAT,
    )
    beat_remote_control_max_tick_age: float | None = setting(
        optional(SECONDS),
        None,
        "Do not answer when the last look at the schedule is older.",
        unit="s",
        old="CELERYBEAT_REMOTE_CONTROL_MAX_TICK_AGE",
        no_effect=BEAT,
    )
