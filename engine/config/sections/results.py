"""Results, in any store."""

from __future__ import annotations

from typing import Any

from ...unset import UNSET
from ..kinds import BOOLEAN, COUNT, MAP, SECONDS, TEXT, URLS, WORD, integer, number, optional, zero_is_none
from ..reasons import AMQP, CHORDS, STORES
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
        "Backend options: global_keyprefix, master_name, retry_policy, result_chord_ordered, "
        "sentinel_kwargs, ….",
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
        "Compress stored results (zlib/bz2/lzma/zstd …).",
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
        "Lifetime of FAILURE results, where it differs from result_expires.",
        unit="s",
        old="CELERY_RESULT_FAILURE_EXPIRES",
    )
    result_chord_expires: float | None = setting(
        optional(SECONDS),
        None,
        "Separate lifetime for chord bookkeeping.",
        unit="s",
        old="CELERY_RESULT_CHORD_EXPIRES",
        no_effect=CHORDS,
    )
    result_extended: bool = setting(
        BOOLEAN,
        False,
        "Store name, args, kwargs, worker, retries, queue with each result.",
        old="CELERY_RESULT_EXTENDED",
    )
    result_persistent: bool | None = setting(
        optional(BOOLEAN),
        None,
        "RPC results use persistent messages.",
        old="CELERY_RESULT_PERSISTENT",
        no_effect=AMQP,
    )
    result_cache_max: int = setting(
        integer(-1),
        -1,
        "Client-side cache of results (-1 = off, 0/null unlimited).",
        old="CELERY_MAX_CACHED_RESULTS",
        no_effect="a client keeps no cache of results",
    )
    result_exchange: str = setting(
        TEXT,
        "celeryresults",
        "Exchange name option of the old amqp backend.",
        old="CELERY_RESULT_EXCHANGE",
        no_effect=AMQP,
    )
    result_exchange_type: str = setting(
        TEXT,
        "direct",
        "Exchange type option of the old amqp backend.",
        old="CELERY_RESULT_EXCHANGE_TYPE",
        no_effect=AMQP,
    )
    result_chord_retry_interval: float = setting(
        SECONDS,
        1.0,
        "Seconds between chord_unlock polls.",
        unit="s",
        old="CELERY_RESULT_CHORD_RETRY_INTERVAL",
        no_effect=CHORDS,
    )
    result_chord_join_timeout: float = setting(
        SECONDS,
        3.0,
        "Seconds allowed to collect the header results when a chord completes.",
        unit="s",
        old="CELERY_RESULT_CHORD_JOIN_TIMEOUT",
        no_effect=CHORDS,
    )
    result_backend_always_retry: bool = setting(
        BOOLEAN,
        False,
        "Retry backend operations on errors.",
        old="CELERY_RESULT_BACKEND_ALWAYS_RETRY",
        no_effect=STORES,
    )
    result_backend_max_retries: float = setting(
        number(0),
        float("inf"),
        "How many times when always_retry.",
        old="CELERY_RESULT_BACKEND_MAX_RETRIES",
        no_effect=STORES,
    )
    result_backend_base_sleep_between_retries_ms: int = setting(
        COUNT,
        10,
        "First back-off step.",
        unit="ms",
        old="CELERY_RESULT_BACKEND_BASE_SLEEP_BETWEEN_RETRIES_MS",
        no_effect=STORES,
    )
    result_backend_max_sleep_between_retries_ms: int = setting(
        COUNT,
        10000,
        "Back-off ceiling.",
        unit="ms",
        old="CELERY_RESULT_BACKEND_MAX_SLEEP_BETWEEN_RETRIES_MS",
        no_effect=STORES,
    )
