"""The next minute that a crontab matches. Pure."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

YEARS_MAX = 40
"""How far the search goes: the rarest dates (29 February on a given weekday) come every 28 years,
or 40 across a century that has no leap year."""


def next_match(sets: tuple[frozenset[int], ...], after: datetime) -> datetime:
    """The first matching minute later than `after`, in its time zone.

    A local time that a change of the clocks leaves out is taken at the moment of the change; one
    that comes twice is taken the first time only.

    :param sets: minutes, hours, days of the week (Sunday 0), days of the month, months.
    :param after: aware.
    :raises ValueError: no date ever matches.
    """
    minutes, hours, weekdays, days, months = sets
    zone = after.tzinfo
    local = after.replace(tzinfo=None)
    start = local.replace(second=0, microsecond=0) + timedelta(minutes=1)
    day = start.date()
    times = [(hour, minute) for hour in sorted(hours) for minute in sorted(minutes)]
    last_year = day.year + YEARS_MAX
    while day.year <= last_year:
        if day.month not in months:
            day = _first_of_next_month(day)
            continue
        if day.day in days and day.isoweekday() % 7 in weekdays:
            for hour, minute in times:
                candidate = datetime(day.year, day.month, day.day, hour, minute)
                if candidate < start:
                    continue
                found = _exists(candidate.replace(tzinfo=zone))
                if found.astimezone(timezone.utc) > after.astimezone(timezone.utc):
                    return found
        day += timedelta(days=1)
    raise ValueError("this crontab matches no date: check day_of_month against month_of_year")


def _first_of_next_month(day: date) -> date:
    return date(day.year + 1, 1, 1) if day.month == 12 else date(day.year, day.month + 1, 1)


def _exists(moment: datetime) -> datetime:
    """The moment itself, or the first that exists after it when the clocks skip it."""
    back = moment.astimezone(timezone.utc).astimezone(moment.tzinfo)
    if back.replace(tzinfo=None) == moment.replace(tzinfo=None):
        return moment
    # Inside the gap: as wall time counted on from before it.
    return back
