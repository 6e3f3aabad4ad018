"""Contents, time and modules to import."""

from __future__ import annotations

from ..kinds import BOOLEAN, NAMES, POSITIVE, TIMEZONE, optional
from ..setting import section, setting


@section
class GeneralSettings:
    """Contents, time and modules to import."""

    accept_content: tuple[str, ...] = setting(
        NAMES,
        ("json",),
        "Serializers, by name or content type, whose messages are decoded; anything else is refused unread.",
        old="CELERY_ACCEPT_CONTENT",
    )
    result_accept_content: tuple[str, ...] | None = setting(
        optional(NAMES),
        None,
        "The same for results; none means accept_content.",
        old="RESULT_ACCEPT_CONTENT",
    )
    enable_utc: bool = setting(
        BOOLEAN,
        True,
        "Times are in UTC; false makes them local.",
        old="ENABLE_UTC",
    )
    timezone: str | None = setting(
        optional(TIMEZONE),
        None,
        "Name of the time zone of schedules, of naive eta values and of date_done; none means UTC, or "
        "local time when enable_utc is false.",
        old="CELERY_TIMEZONE",
    )
    imports: tuple[str, ...] = setting(
        NAMES,
        (),
        "Modules imported by the worker at start.",
        old="CELERY_IMPORTS",
    )
    include: tuple[str, ...] = setting(
        NAMES,
        (),
        "More modules imported by the worker at start; the application adds its include= to them.",
        old="CELERY_INCLUDE",
    )
    serializer_max_decompressed_bytes: int = setting(
        POSITIVE,
        16 * 1024 * 1024,
        "A compressed body that grows beyond this is malformed.",
        unit="bytes",
        ours=True,
    )
    serializer_max_message_bytes: int = setting(
        POSITIVE,
        64 * 1024 * 1024,
        "A message larger than this is malformed, and refused when it is sent.",
        unit="bytes",
        ours=True,
    )
