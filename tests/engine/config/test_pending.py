"""`app.conf`: how settings are given, in what order they count, and what is refused."""

from __future__ import annotations

import pickle
import types
from pathlib import Path
from typing import Any

import pytest

from prefork.engine.config import Config, ConfigError, PendingConfig, effective, no_effect
from prefork.engine.exceptions import ImproperlyConfigured

Environ = dict[str, str]


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pending(environ: Environ | None = None, **changes: Any) -> PendingConfig:
    conf = PendingConfig()
    conf.update(changes)
    # Remembered; nothing is resolved by setting it.
    conf.__dict__["_environ"] = environ or {}
    return conf


def problems(conf: PendingConfig) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        conf.resolve()
    return {problem.key: problem.remedy for problem in caught.value.problems}


def test_values_are_given_and_read_as_attributes_and_as_items() -> None:
    conf = pending()
    conf.task_time_limit = 30
    conf["task_soft_time_limit"] = "20s"
    assert (conf["task_time_limit"], conf.task_soft_time_limit) == (30.0, 20.0)
    assert conf.get("task_time_limit") == 30.0
    assert conf.get("no_such_key", "x") == "x"
    assert "task_time_limit" in conf and "CELERYD_TASK_TIME_LIMIT" in conf and "nope" not in conf
    assert conf.CELERYD_TASK_TIME_LIMIT == 30.0


def test_sources_count_in_their_order(tmp_path: Path) -> None:
    module = types.SimpleNamespace(task_max_crashes=3, worker_lease=50, task_default_queue="object")
    (tmp_path / "prefork.toml").write_text(
        'task_max_crashes = 2\ntask_default_queue = "file"\ntimezone = "UTC"\n'
    )
    environ = {
        "PREFORK_TASK_MAX_CRASHES": "4",
        "PREFORK_WORKER_LEASE": "60",
        "PREFORK_WORKER_CONCURRENCY": "7",
    }
    conf = pending(environ, task_max_crashes=5, worker_lease=70)
    conf.add_defaults({"task_max_crashes": 1, "worker_read_ahead_max": 9})
    conf.config_from_object(module)
    config = conf.resolve(cli={"task_max_crashes": 6})
    assert {key: (config[key], config.source(key)) for key in config if config.is_given(key)} == {
        "task_max_crashes": (6, "command line"),
        "worker_lease": (70.0, "app.conf"),
        "worker_concurrency": (7, "env PREFORK_WORKER_CONCURRENCY"),
        "task_default_queue": ("object", "types.SimpleNamespace"),
        "timezone": ("UTC", "prefork.toml"),
        "worker_read_ahead_max": (9, "add_defaults"),
    }
    assert (config.task_serializer, config.source("task_serializer")) == ("json", "default")


def test_a_source_can_be_named_by_whoever_gives_the_value() -> None:
    conf = pending()
    conf.set("broker_url", "memory://", source="App(broker=...)")
    assert conf.resolve().source("broker_url") == "App(broker=...)"


def test_the_resolved_configuration_is_kept_until_something_changes() -> None:
    conf = pending()
    first = conf.resolve()
    assert conf.resolve() is first
    conf.task_max_crashes = 9
    second = conf.resolve()
    assert (first.task_max_crashes, second.task_max_crashes) == (3, 9)
    conf.add_defaults({"task_unknown_grace": 1000})
    assert conf.resolve().task_unknown_grace == 1000.0


def test_the_command_line_is_remembered() -> None:
    conf = pending()
    conf.resolve(cli={"worker_concurrency": "3"})
    conf.task_max_crashes = 9
    assert conf.resolve().worker_concurrency == 3
    assert conf.resolve(cli={}).worker_concurrency is None


def test_a_resolved_configuration_cannot_be_changed() -> None:
    config = pending().resolve()
    with pytest.raises(ImproperlyConfigured, match="app.conf.task_time_limit"):
        config.task_time_limit = 5  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del config.task_time_limit  # type: ignore[misc]
    assert config.task_time_limit is None


def test_a_resolved_configuration_is_a_mapping_and_travels_between_processes() -> None:
    config = pending(task_max_crashes=7).resolve()
    copy = pickle.loads(pickle.dumps(config))
    assert isinstance(copy, Config)
    assert dict(copy.items()) == dict(config.items())
    assert copy.source("task_max_crashes") == "app.conf"
    assert config["task_max_crashes"] == config.get("task_max_crashes") == 7
    assert config.get("nope", 1) == 1
    assert "task_max_crashes" in config and "nope" not in config
    assert list(config) == list(config.keys())
    assert repr(config).startswith("<Config: 1 of ")
    with pytest.raises(KeyError):
        config["nope"]


def test_a_map_that_is_changed_in_place_counts_as_a_change() -> None:
    conf = pending()
    conf.beat_schedule["nightly"] = {"task": "t"}
    conf.broker_transport_options["x"] = 1
    config = conf.resolve()
    assert config.beat_schedule == {"nightly": {"task": "t"}}
    assert config.source("broker_transport_options") == "app.conf"
    assert PendingConfig().resolve(environ={}).beat_schedule == {}


def test_setdefault_gives_a_value_only_where_there_is_none() -> None:
    conf = pending(task_max_crashes=5)
    assert conf.setdefault("task_max_crashes", 8) == 5
    assert conf.setdefault("task_default_queue", "q") == "q"


def test_all_problems_are_reported_at_once_with_value_source_and_remedy() -> None:
    conf = pending({"PREFORK_WORKER_LEASE": "soon"}, task_time_limt=1, task_max_crashes="many")
    with pytest.raises(ConfigError) as caught:
        conf.resolve()
    texts = [str(problem) for problem in caught.value.problems]
    assert texts == [
        "task_time_limt (app.conf): there is no such setting; did you mean task_time_limit?",
        "worker_lease = 'soon' (env PREFORK_WORKER_LEASE): 'soon' is not a duration: write seconds (90) or "
        "parts (1m30s, 500ms)",
        "task_max_crashes = 'many' (app.conf): write a whole number",
    ]
    assert "3 problems" in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems


def test_one_problem_is_announced_in_the_singular() -> None:
    with pytest.raises(ConfigError, match="has a problem"):
        pending(nope=1).resolve()


def test_a_wrong_value_that_a_higher_source_replaces_does_no_harm() -> None:
    conf = pending({"PREFORK_TASK_MAX_CRASHES": "many"}, task_max_crashes=4)
    assert conf.resolve().task_max_crashes == 4


def test_an_unknown_attribute_or_item_says_what_is_meant() -> None:
    conf = pending()
    with pytest.raises(AttributeError, match="did you mean task_serializer"):
        _ = conf.task_serialiser
    with pytest.raises(AttributeError):
        _ = conf._nothing
    with pytest.raises(KeyError):
        conf["task_serialiser"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("task_acks_lat", "did you mean task_acks_late?"),
        ("TASK_ACKS_LATE", "write task_acks_late"),
        ("CELERY_TASK_ACKS_LATE", 'write task_acks_late, or read this source with namespace="CELERY"'),
        ("celery_acks_late", "its name is task_acks_late"),
        ("xyzzy", "prefork config --defaults"),
    ],
)
def test_an_unknown_name_is_answered_with_what_to_write(name: str, advice: str) -> None:
    assert advice in problems(pending(**{name: 1}))[name]


def test_old_names_of_celery_are_taken() -> None:
    config = pending(
        CELERY_TASK_RESULT_EXPIRES=60,
        CELERYD_CONCURRENCY=2,
        BROKER_URL="memory://",
        CELERY_ANNOTATIONS={"*": {}},
    ).resolve()
    assert (config.result_expires, config.worker_concurrency) == (60.0, 2)
    assert (config.broker_url, config.task_annotations) == ("memory://", {"*": {}})


def test_old_and_new_names_in_one_source_are_refused_with_both_named() -> None:
    remedy = problems(pending(CELERYD_CONCURRENCY=2, task_max_crashes=1))["CELERYD_CONCURRENCY"]
    assert "task_max_crashes" in remedy and "worker_concurrency" in remedy


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        (
            {"task_soft_time_limit": 20, "task_time_limit": 10},
            "task_soft_time_limit",
            "task_time_limit (10 s)",
        ),
        (
            {"worker_max_memory_per_child": 9, "worker_hard_memory_limit": 5},
            "worker_max_memory_per_child",
            "worker_hard_memory_limit (5 KiB)",
        ),
        ({"task_unknown_grace": 1}, "task_unknown_retry_delay", "task_unknown_grace (1 s)"),
        ({"worker_lease": 5}, "worker_lease_renew_interval", "a third of worker_lease (5 s)"),
        ({"task_serializer": "pickle"}, "task_serializer", "add 'pickle' to accept_content"),
        ({"event_serializer": "yaml"}, "event_serializer", "add 'yaml' to accept_content"),
        ({"result_serializer": "pickle"}, "result_serializer", "add 'pickle' to accept_content"),
        (
            {"result_serializer": "json", "result_accept_content": ["msgpack"]},
            "result_serializer",
            "add 'json' to result_accept_content",
        ),
        ({"task_default_priority": 9, "task_queue_max_priority": 5}, "task_default_priority", "(5)"),
        ({"task_publish_retry_policy": {"tries": 1}}, "task_publish_retry_policy", "has no 'tries'"),
        ({"task_publish_retry_policy": {"max_retries": -1}}, "task_publish_retry_policy", "not negative"),
        ({"timezone": "Mars/Olympus"}, "timezone", "Europe/Berlin"),
        ({"result_compression": "rar"}, "result_compression", "zlib"),
        ({"timezone": "../../etc/passwd"}, "timezone", "Europe/Berlin"),
        ({"worker_pool": "gevent"}, "worker_pool", "prefork, solo"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes: dict[str, Any], key: str, says: str
) -> None:
    assert says in problems(pending(**changes))[key]


def test_settings_that_agree_pass() -> None:
    config = pending(
        accept_content=["application/json", "pickle"],
        task_serializer="pickle",
        result_serializer="application/json",
        task_time_limit=10,
        task_soft_time_limit=10,
        task_publish_retry_policy={"max_retries": None, "retry_errors": (OSError,)},
        timezone="Europe/Berlin",
        task_unknown_grace=0,
    ).resolve()
    assert config.timezone == "Europe/Berlin"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "filesystem://"),
        ({"broker_url": "memory://x"}, "memory://x"),
        ({"broker_url": "redis://h"}, None),
        ({"result_backend": None}, None),
        ({"result_backend": "disabled"}, None),
        ({"result_backend": "filesystem:///r"}, "filesystem:///r"),
    ],
)
def test_results_go_where_it_says_or_to_a_broker_that_keeps_results(
    changes: dict[str, Any], expected: str | None
) -> None:
    assert pending(**changes).resolve().result_backend == expected


def test_zero_is_zero_and_none_is_none() -> None:
    config = pending(task_unknown_grace=0, worker_soft_shutdown_timeout=0, result_expires=0).resolve()
    assert (config.task_unknown_grace, config.worker_soft_shutdown_timeout) == (0.0, 0.0)
    assert config.result_expires is None
    assert problems(pending(task_time_limit=0))["task_time_limit"] == "a duration must be more than 0 s"


def test_given_keys_without_effect_are_listed_with_the_reason() -> None:
    conf = pending(worker_pool_putlocks=False, task_max_crashes=2)
    assert no_effect(conf.resolve()) == [
        "worker_pool_putlocks (children take their messages from the broker themselves)"
    ]
    assert no_effect(pending().resolve()) == []


def test_the_effective_configuration_is_shown_without_secrets() -> None:
    conf = pending(
        {"PREFORK_RESULT_BACKEND": "redis://u:geheim@h/0"},
        broker_url="redis://:geheim@h/0",
        redis_password="geheim",
        broker_transport_options={"sentinel_kwargs": {"password": "geheim"}, "n": 1},
    )
    shown = {key: (value, source) for key, value, source in effective(conf.resolve())}
    assert "geheim" not in repr(shown)
    assert shown["redis_password"] == ("'********'", "app.conf")
    assert shown["broker_transport_options"][0] == "{'sentinel_kwargs': {'password': '********'}, 'n': 1}"
    assert shown["result_backend"][1] == "env PREFORK_RESULT_BACKEND"
    assert list(shown) == sorted(shown)


def test_table_and_humanize_show_what_was_given() -> None:
    conf = pending(task_max_crashes=4, redis_password="geheim")
    assert conf.table() == {"task_max_crashes": 4, "redis_password": "********"}
    assert conf.table(censored=False)["redis_password"] == "geheim"
    assert len(conf.table(with_defaults=True)) == len(conf)
    assert conf.humanize() == "task_max_crashes: 4\nredis_password: '********'"
    assert "geheim" not in repr(conf)


def test_a_pending_configuration_is_iterated_like_a_mapping() -> None:
    conf = pending(task_max_crashes=4)
    assert list(conf) == list(conf.keys()) == [key for key, _value in conf.items()]
    assert len(list(conf.values())) == len(conf)
    assert dict(conf.items())["task_max_crashes"] == 4
    assert "not resolved" in repr(PendingConfig())


def test_a_secret_never_appears_in_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        pending(broker_url=["redis://u:geheim@h", 5], redis_password=["geheim"]).resolve()
    assert "geheim" not in str(caught.value)
    assert len(caught.value.problems) == 2
