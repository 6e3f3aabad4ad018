"""When periodic work is due: intervals and crontabs (parity §13.3).

A schedule answers two questions about a moment when it last ran: how long until the next time, and
whether that time has come. Both take "now" from `nowfun`, so a test can hold the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING, Any, NamedTuple

from .crontab_fields import FIELDS, ParseException, parse_field
from .crontab_search import next_match
from .local import get_current_app

if TYPE_CHECKING:
    from .app import App

__all__ = [
    "BaseSchedule",
    "ParseException",
    "crontab",
    "maybe_schedule",
    "schedstate",
    "schedule",
]


class schedstate(NamedTuple):
    """What `is_due` answers.

    :ivar is_due: run it now.
    :ivar next: seconds until it should be asked again.
    """

    is_due: bool
    next: float


class BaseSchedule:
    """A schedule; derive from it and define `remaining_estimate` and `is_due`.

    :param nowfun: gives the time, aware; None takes the app's clock.
    :param app: whose time zone counts; None takes the current app.
    """

    def __init__(self, nowfun: Callable[[], datetime] | None = None, app: App | None = None) -> None:
        self.nowfun = nowfun
        self._app = app

    @property
    def app(self) -> App:
        """The app whose time zone counts."""
        return self._app if self._app is not None else get_current_app()

    @app.setter
    def app(self, app: App) -> None:
        self._app = app

    @property
    def tz(self) -> tzinfo:
        """The time zone in which the schedule is read."""
        return self.app.timezone if self.nowfun is None else (self.nowfun().tzinfo or timezone.utc)

    def now(self) -> datetime:
        """The time, aware."""
        return self.app.now() if self.nowfun is None else _aware(self.nowfun(), timezone.utc)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long until the next time after `last_run_at`; negative when it has passed."""
        raise AttributeError(f"{type(self).__name__} defines no remaining_estimate()")

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether to run it now, and in how many seconds to ask again."""
        raise AttributeError(f"{type(self).__name__} defines no is_due()")

    def maybe_make_aware(self, moment: datetime) -> datetime:
        """A naive moment is UTC, as in messages."""
        return _aware(moment, timezone.utc)

    def __ne__(self, other: object) -> bool:
        return not self == other


def _aware(moment: datetime, zone: tzinfo) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)


class schedule(BaseSchedule):
    """Every so often.

    :param run_every: seconds, or a timedelta.
    :param relative: start at round multiples of the period (of the day's midnight, UTC epoch).
    :raises ValueError: the period is negative.
    """

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: App | None = None,
    ) -> None:
        super().__init__(nowfun, app)
        every = run_every if run_every is not None else timedelta(0)
        self.run_every = every if isinstance(every, timedelta) else timedelta(seconds=every)
        self.relative = relative
        if self.run_every < timedelta(0):
            raise ValueError(f"run_every={run_every!r}: a period cannot be negative")

    @property
    def seconds(self) -> float:
        """The period in seconds."""
        return self.run_every.total_seconds()

    @property
    def human_seconds(self) -> str:
        """The period in words."""
        return f"{self.seconds:g} seconds"

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long until the next time after `last_run_at`; negative when it has passed."""
        last = self.maybe_make_aware(last_run_at)
        due = last + self.run_every
        if self.relative and self.run_every:
            epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
            due = epoch + self.run_every * ((last - epoch) // self.run_every + 1)
        return due - self.now()

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether to run it now, and in how many seconds to ask again."""
        left_s = self.remaining_estimate(last_run_at).total_seconds()
        if left_s > 0:
            return schedstate(False, left_s)
        if not self.relative:
            return schedstate(True, self.seconds)
        return schedstate(True, max(0.0, self.remaining_estimate(self.now()).total_seconds()))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, schedule):
            return self.run_every == other.run_every
        return self.run_every == other

    def __hash__(self) -> int:
        return hash(self.run_every)

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_every, self.relative, self.nowfun)


class crontab(BaseSchedule):
    """At times that match every field, in the app's time zone. Note the order of the parameters.

    Fields are ``*``, numbers, names (``mon``, ``jan``), ranges ``a-b`` (which wrap), steps ``*/n`` and
    ``a-b/n``, lists of these, or sets of numbers. Days of the week: Sunday is 0. Day of the week, day
    of the month and month must all match.

    :raises ParseException: a field that cannot be read.
    :raises ValueError: a number out of range, or a date that never comes (30 February).
    """

    def __init__(
        self,
        minute: Any = "*",
        hour: Any = "*",
        day_of_week: Any = "*",
        day_of_month: Any = "*",
        month_of_year: Any = "*",
        nowfun: Callable[[], datetime] | None = None,
        app: App | None = None,
        **_: Any,
    ) -> None:
        super().__init__(nowfun, app)
        given = (minute, hour, day_of_week, day_of_month, month_of_year)
        self._orig_minute, self._orig_hour, self._orig_day_of_week = minute, hour, day_of_week
        self._orig_day_of_month, self._orig_month_of_year = day_of_month, month_of_year
        parsed = [parse_field(field, value) for field, value in zip(FIELDS, given)]
        self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year = parsed
        # Looking once says whether any date matches at all.
        next_match(self._sets(), datetime(2000, 1, 1, tzinfo=timezone.utc))

    @classmethod
    def from_string(cls, text: str, **kwargs: Any) -> crontab:
        """The five fields of a crontab line, in cron's own order: ``minute hour day month weekday``.

        :raises ParseException: not five fields.
        """
        fields = text.split()
        if len(fields) != 5:
            raise ParseException(f"{text!r} has {len(fields)} fields; a crontab line has five")
        minute, hour, day_of_month, month_of_year, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month_of_year, **kwargs)

    def _sets(self) -> tuple[frozenset[int], ...]:
        return (self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year)

    def next_after(self, moment: datetime) -> datetime:
        """The first matching minute after a moment, in the schedule's time zone."""
        return next_match(self._sets(), self.maybe_make_aware(moment).astimezone(self.tz))

    def remaining_delta(
        self, last_run_at: datetime, tz: tzinfo | None = None, ffwd: Any = None
    ) -> tuple[datetime, timedelta, datetime]:
        """The last run, the time from it to the next one, and now."""
        last = self.maybe_make_aware(last_run_at).astimezone(tz or self.tz)
        due = next_match(self._sets(), last)
        return last, _elapsed(last, due), self.now()

    def remaining_estimate(self, last_run_at: datetime, ffwd: Any = None) -> timedelta:
        """How long until the next time after `last_run_at`; negative when it has passed."""
        return _elapsed(self.now(), self.next_after(last_run_at))

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether to run it now, and in how many seconds to ask again.

        A time missed by more than `beat_cron_starting_deadline` is passed over.
        """
        left_s = self.remaining_estimate(last_run_at).total_seconds()
        if left_s > 0:
            return schedstate(False, left_s)
        now = self.now()
        due_again_s = max(0.0, _elapsed(now, self.next_after(now)).total_seconds())
        deadline_s = self.app.config.beat_cron_starting_deadline if self.nowfun is None else None
        if deadline_s is not None and -left_s > deadline_s:
            return schedstate(False, due_again_s)
        return schedstate(True, due_again_s)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, crontab) and self._sets() == other._sets()

    def __hash__(self) -> int:
        return hash(self._sets())

    def __repr__(self) -> str:
        return (
            f"<crontab: {self._orig_minute} {self._orig_hour} {self._orig_day_of_month} "
            f"{self._orig_month_of_year} {self._orig_day_of_week} (m/h/dM/MY/d)>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (
            self._orig_minute,
            self._orig_hour,
            self._orig_day_of_week,
            self._orig_day_of_month,
            self._orig_month_of_year,
        )
        return type(self), (*fields, self.nowfun)


def _elapsed(start: datetime, end: datetime) -> timedelta:
    """Real time between two aware moments, also across a change of the clocks."""
    return end.astimezone(timezone.utc) - start.astimezone(timezone.utc)


def maybe_schedule(value: Any, relative: bool = False, app: App | None = None) -> Any:
    """Numbers (seconds) and timedeltas become schedules; schedules get their app."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = timedelta(seconds=value)
    if isinstance(value, timedelta):
        return schedule(value, relative, app=app)
    if app is not None:
        value.app = app
    return value
