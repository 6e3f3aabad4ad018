"""Results, in any store."""

from __future__ import annotations

from typing import Any

from ...unset import UNSET
from ..kinds import (
    BOOLEAN,
    COUNT,
    MAP,
    POSITIVE,
    SECONDS,
    TEXT,
    URLS,
    WORD,
    integer,
    number,
    optional,
    zero_is_none,
)
from ..reasons import CHORDS
from ..setting import section, setting


@section
class ResultsSettings:
    """Results, in any store."""

    result_backend: str | None = setting(
        optional(URLS),
        UNSET,
        "Address of the result store; not set, it is the broker itself where that can keep results "
        '(filesystem, memory), and nothing otherwise; none or "disabled" stores nothing.',
        old="CELERY_RESULT_BACKEND",
    )
    result_backend_transport_options: dict[str, Any] = setting(
        MAP,
        {},
        "Options of the result store, free-form.",
        old="CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS",
    )
    result_serializer: str = setting(
        WORD,
        "json",
        "Serializer of result documents.",
        old="CELERY_RESULT_SERIALIZER",
    )
    result_compression: str | None = setting(
        optional(WORD),
        None,
        "Compression of results: zlib, bz2, lzma, brotli, zstd. Only a SUCCESS that gets shorter is "
        "compressed, so that every store knows one; in a database, and with rpc://, there is no effect.",
        old="CELERY_RESULT_COMPRESSION",
    )
    result_expires: float | None = setting(
        zero_is_none(SECONDS),
        86400.0,
        "Lifetime of results; none or 0 keeps them.",
        unit="s",
        old="CELERY_TASK_RESULT_EXPIRES",
    )
    result_failure_expires: float | None = setting(
        optional(SECONDS),
        None,
        "Lifetime of FAILURE results, where it differs from result_expires; 0 keeps them.",
        unit="s",
        old="CELERY_RESULT_FAILURE_EXPIRES",
    )
    result_chord_expires: float | None = setting(
        optional(SECONDS),
        None,
        "Lifetime of what a chord remembers.",
        unit="s",
        old="CELERY_RESULT_CHORD_EXPIRES",
        no_effect=CHORDS,
    )
    result_max_bytes: int = setting(
        POSITIVE,
        64 * 1024 * 1024,
        "A larger result becomes a FAILURE that says so; no store should be asked to hold it.",
        unit="bytes",
        ours=True,
    )
    result_extended: bool = setting(
        BOOLEAN,
        False,
        "Keep name, arguments, worker, retries and queue with each result.",
        old="CELERY_RESULT_EXTENDED",
    )
    result_persistent: bool | None = setting(
        optional(BOOLEAN),
        None,
        "Messages that carry results (rpc://) survive a restart of the broker.",
        old="CELERY_RESULT_PERSISTENT",
    )
    result_cache_max: int = setting(
        integer(-1),
        -1,
        "How many results a client remembers; -1 remembers none.",
        old="CELERY_MAX_CACHED_RESULTS",
        no_effect="a client keeps no cache of results",
    )
    result_exchange: str = setting(
        TEXT,
        "celeryresults",
        "Name of the exchange for results.",
        old="CELERY_RESULT_EXCHANGE",
        no_effect="a result goes straight to the queue of who called",
    )
    result_exchange_type: str = setting(
        TEXT,
        "direct",
        "Type of the exchange for results.",
        old="CELERY_RESULT_EXCHANGE_TYPE",
        no_effect="a result goes straight to the queue of who called",
    )
    result_chord_retry_interval: float = setting(
        SECONDS,
        1.0,
        "How often a chord is looked at while it waits.",
        unit="s",
        old="CELERY_RESULT_CHORD_RETRY_INTERVAL",
        no_effect=CHORDS,
    )
    result_chord_join_timeout: float = setting(
        SECONDS,
        3.0,
        "How long collecting the results of a header may take.",
        unit="s",
        old="CELERY_RESULT_CHORD_JOIN_TIMEOUT",
        no_effect=CHORDS,
    )
    result_backend_always_retry: bool = setting(
        BOOLEAN,
        False,
        "Try again, with growing pauses and for half a minute at most, when the Redis result store fails; "
        "workers try again whatever this says.",
        old="CELERY_RESULT_BACKEND_ALWAYS_RETRY",
    )
    result_backend_max_retries: float = setting(
        number(0),
        float("inf"),
        "How often, at most.",
        old="CELERY_RESULT_BACKEND_MAX_RETRIES",
    )
    result_backend_base_sleep_between_retries_ms: int = setting(
        COUNT,
        10,
        "The first pause between tries.",
        unit="ms",
        old="CELERY_RESULT_BACKEND_BASE_SLEEP_BETWEEN_RETRIES_MS",
    )
    result_backend_max_sleep_between_retries_ms: int = setting(
        COUNT,
        10000,
        "The longest pause between tries.",
        unit="ms",
        old="CELERY_RESULT_BACKEND_MAX_SLEEP_BETWEEN_RETRIES_MS",
    )
