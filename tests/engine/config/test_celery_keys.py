"""Every setting of Celery's is known here; every default that differs is in one table."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery.app import defaults as celery_defaults

from prefork.engine.config import SETTINGS, PendingConfig
from prefork.engine.config.tree import OLD_NAMES
from prefork.engine.unset import UNSET

CELERY: dict[str, Any] = {
    key: option.default for key, option in celery_defaults.flatten(celery_defaults.NAMESPACES)
}

# key: (Celery's default, ours)
CHANGED_DEFAULTS: dict[str, tuple[Any, Any]] = {
    "broker_url": (None, "filesystem://"),
    "broker_connection_retry_on_startup": (None, True),
    "redis_socket_keepalive": (False, True),
    "redis_socket_timeout": (120.0, 5.0),
    "task_acks_late": (False, True),
    "worker_prefetch_multiplier": (4, 0),
    "worker_soft_shutdown_timeout": (0.0, 25.0),
    "worker_hijack_root_logger": (True, False),
    "result_backend": (None, UNSET),
}

# Read by Celery without being among its defaults (parity §1.14).
UNLISTED = {
    *(
        f"{program}_{name}"
        for program in ("worker", "beat", "events")
        for name in ("executable", "gid", "logfile", "pidfile", "uid", "umask")
    ),
    "override_backends",
    "redis_backend_credential_provider",
    "redis_backend_health_check_interval",
    "redis_client_name",
    "result_backend_thread_safe",
    "cassandra_secure_bundle_path",
}


def _comparable(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


def test_every_key_of_celery_is_known() -> None:
    assert len(CELERY) == 207
    assert set(CELERY) <= set(SETTINGS)


def test_keys_beyond_celerys_are_marked_as_ours_or_are_those_it_does_not_list() -> None:
    ours = {key for key, fact in SETTINGS.items() if fact.ours}
    assert ours.isdisjoint(CELERY)
    assert set(SETTINGS) == set(CELERY) | UNLISTED | ours


@pytest.mark.parametrize("key", sorted(CELERY))
def test_a_default_is_celerys_or_is_in_the_table_of_changes(key: str) -> None:
    fact = SETTINGS[key]
    if key in CHANGED_DEFAULTS:
        assert (_comparable(CELERY[key]), fact.default) == CHANGED_DEFAULTS[key]
        assert fact.celery == CELERY[key] or key == "result_backend"
    else:
        assert fact.default == _comparable(CELERY[key])
        assert fact.celery is UNSET


@pytest.mark.parametrize("key", sorted(CELERY))
def test_celerys_own_default_is_a_value_that_is_taken(key: str) -> None:
    kind = SETTINGS[key].kind
    try:
        parsed = kind.parse(CELERY[key])
    except ValueError:
        # None is not a value for keys that have a default of their own here.
        assert CELERY[key] is None and key in CHANGED_DEFAULTS
        return
    assert parsed == _comparable(CELERY[key]) or (parsed is None and CELERY[key] == 0)


@pytest.mark.parametrize("key", sorted(SETTINGS))
def test_a_default_is_of_the_kind_of_its_setting(key: str) -> None:
    fact = SETTINGS[key]
    if fact.default is not UNSET:
        assert fact.kind.parse(fact.default) == fact.default


def test_the_old_names_are_celerys() -> None:
    assert {old: key for key, old in celery_defaults._TO_OLD_KEY.items()} == dict(OLD_NAMES)


@pytest.mark.parametrize("key", sorted(SETTINGS))
def test_every_setting_is_explained_in_a_sentence(key: str) -> None:
    fact = SETTINGS[key]
    assert fact.doc.endswith(".")
    assert fact.doc[0].isupper()
    assert "\n" not in fact.doc and "null" not in fact.doc


def test_the_defaults_pass_every_check() -> None:
    config = PendingConfig().resolve(environ={})
    assert len(config) == len(SETTINGS)
    assert all(config.source(key) == "default" for key in config)
