"""Where settings come from: files, Python objects, the environment."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from datetime import timezone as timezone_class
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.config import SETTINGS, Config, ConfigError, PendingConfig
from prefork.engine.config.sources import read_environ, read_mapping, read_namespace


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("conf_"):
            del sys.modules[name]


def resolve(conf: PendingConfig | None = None, **environ: str) -> Config:
    return (conf or PendingConfig()).resolve(environ=environ)


def refused(conf: PendingConfig | None = None, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(conf, **environ)
    return str(caught.value)


def from_object(target: Any, **options: Any) -> PendingConfig:
    conf = PendingConfig()
    conf.config_from_object(target, **options)
    return conf


# --- the environment


def test_the_environment_gives_settings() -> None:
    config = resolve(
        PREFORK_TASK_ACKS_LATE="no", PREFORK_ACCEPT_CONTENT="json,msgpack", PREFORK_TASK_TIME_LIMIT="5m"
    )
    assert (config.task_acks_late, config.accept_content, config.task_time_limit) == (
        False,
        ("json", "msgpack"),
        300.0,
    )
    assert config.source("task_time_limit") == "env PREFORK_TASK_TIME_LIMIT"


def test_an_unknown_variable_is_refused_with_the_nearest_name() -> None:
    text = refused(PREFORK_TASK_TIME_LIMITS="5")
    assert "PREFORK_TASK_TIME_LIMITS (environment)" in text
    assert "did you mean PREFORK_TASK_TIME_LIMIT?" in text


def test_variables_of_celery_that_name_broker_and_store_count() -> None:
    config = resolve(
        CELERY_BROKER_URL="memory://a", CELERY_RESULT_BACKEND="memory://b", CELERY_BROKER_READ_URL=""
    )
    assert (config.broker_url, config.result_backend) == ("memory://a", "memory://b")
    assert config.broker_read_url is None
    assert resolve(CELERY_BROKER_URL="memory://a", PREFORK_BROKER_URL="memory://c").broker_url == "memory://c"


def test_variables_that_kubernetes_makes_for_a_service_are_passed_over() -> None:
    config = resolve(
        PREFORK_SERVICE_HOST="10.0.0.1",
        PREFORK_WORKER_SERVICE_PORT_HTTP="80",
        PREFORK_WORKER_PORT_6379_TCP_ADDR="10.0.0.1",
        PREFORK_REDIS_PORT="tcp://10.0.0.1:6379",
        PREFORK__INTERNAL="x",
    )
    assert config.redis_port is None
    assert resolve(PREFORK_REDIS_PORT="6379").redis_port == 6379


@given(st.dictionaries(st.from_regex(r"PREFORK_[A-Z_]{0,12}", fullmatch=True), st.text(max_size=5)))
def test_every_variable_is_a_setting_a_problem_or_reserved(environ: dict[str, str]) -> None:
    layer = read_environ(environ)
    named = {problem.key for problem in layer.problems} | {f"PREFORK_{key.upper()}" for key in layer.values}
    assert {name for name in environ if name not in named} <= {
        name
        for name in environ
        if name.startswith("PREFORK__") or name == "PREFORK_CONFIG" or "_SERVICE_" in name
    }


# --- files


def test_prefork_toml_gives_settings_with_their_types() -> None:
    Path("prefork.toml").write_text(
        'task_time_limit = 30\naccept_content = ["json"]\nworker_concurrency = "auto"\n'
        '[task_routes]\n"a.*" = {queue = "a"}\n'
    )
    config = resolve()
    assert (config.task_time_limit, config.worker_concurrency) == (30.0, "auto")
    assert config.task_routes == {"a.*": {"queue": "a"}}
    assert config.source("task_routes") == "prefork.toml"


def test_pyproject_toml_gives_settings_where_there_is_no_prefork_toml() -> None:
    Path("pyproject.toml").write_text("[tool.prefork]\ntask_max_crashes = 8\n")
    assert resolve().source("task_max_crashes") == "pyproject.toml [tool.prefork]"
    Path("prefork.toml").write_text("task_max_crashes = 9\n")
    assert resolve().task_max_crashes == 9


def test_a_pyproject_toml_without_our_table_gives_nothing() -> None:
    Path("pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert resolve().task_max_crashes == 3


def test_a_variable_names_another_file() -> None:
    Path("prefork.toml").write_text("task_max_crashes = 9\n")
    Path("other.toml").write_text("task_max_crashes = 7\n")
    config = resolve(PREFORK_CONFIG="other.toml")
    assert (config.task_max_crashes, config.source("task_max_crashes")) == (7, "other.toml")


def test_a_file_that_cannot_be_used_says_why() -> None:
    assert "it cannot be read: No such file" in refused(PREFORK_CONFIG="missing.toml")
    Path("prefork.toml").write_text("task_max_crashes = \n")
    assert "it is not TOML" in refused()
    Path("prefork.toml").write_bytes(b"\xff\xfe")
    assert "it is not UTF-8 text" in refused()
    Path("prefork.toml").write_text("taks_max_crashes = 1\n")
    assert (
        "taks_max_crashes (prefork.toml): there is no such setting; did you mean task_max_crashes?"
        in refused()
    )
    os.remove("prefork.toml")
    Path("pyproject.toml").write_text("[tool]\nprefork = 5\n")
    assert "[tool.prefork] must be a table" in refused()


# --- Python objects


def test_a_module_gives_settings_and_its_imports_and_helpers_are_passed_over() -> None:
    Path("conf_module.py").write_text(
        "import os\nfrom datetime import timezone\nredis_host_name = 'h'\nBASE_DIR = '/'\n"
        "def task_sent_handler(): pass\nclass task_class: pass\n"
        "broker_url = f'memory://{redis_host_name}'\nbeat_scheduler = task_class\n"
    )
    config = resolve(from_object("conf_module"))
    assert config.broker_url == "memory://h"
    assert config.timezone is None
    assert config.beat_scheduler.__name__ == "task_class"
    assert config.source("broker_url") == "conf_module"


def test_a_module_may_be_given_itself() -> None:
    module = types.ModuleType("conf_given")
    module.task_max_crashes = 6  # type: ignore[attr-defined]
    config = resolve(from_object(module))
    assert (config.task_max_crashes, config.source("task_max_crashes")) == (6, "conf_given")


@pytest.mark.parametrize("name", ["task_acks_lat", "worker_concurency", "result_expire", "CELERY_ACKS_LAET"])
def test_a_misspelt_setting_in_a_module_is_refused(name: str) -> None:
    Path("conf_misspelt.py").write_text(f"{name} = 1\n")
    assert f"{name} (conf_misspelt): there is no such setting" in refused(from_object("conf_misspelt"))


def test_a_class_or_an_instance_gives_settings() -> None:
    class Base:
        task_max_crashes = 5

    class Settings(Base):
        worker_lease = 30

        def helper(self) -> None:
            """Not a setting."""

    for target in (Settings, Settings()):
        config = resolve(from_object(target))
        assert (config.task_max_crashes, config.worker_lease) == (5, 30.0)
        assert config.source("worker_lease").endswith("Settings")


def test_a_time_zone_class_that_a_class_imports_is_no_setting() -> None:
    class Settings:
        timezone = timezone_class

    assert resolve(from_object(Settings)).timezone is None


def test_the_dotted_name_of_an_attribute_is_followed() -> None:
    Path("conf_dotted.py").write_text("class Settings:\n    task_max_crashes = 5\n")
    for name in ("conf_dotted:Settings", "conf_dotted.Settings"):
        assert resolve(from_object(name)).task_max_crashes == 5


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("conf_missing", "it cannot be imported (No module named 'conf_missing')"),
        ("conf_missing.Settings", "No module named 'conf_missing'"),
        ("conf_here.Missing", "No module named 'conf_here.Missing'"),
        ("conf_here:Missing", "has no attribute 'Missing'"),
        ("conf_here.py", "without .py: 'conf_here'"),
        ("", "it cannot be imported"),
    ],
)
def test_an_object_that_cannot_be_imported_is_a_problem_unless_silent(name: str, says: str) -> None:
    Path("conf_here.py").write_text("")
    assert says in refused(from_object(name))
    assert resolve(from_object(name, silent=True)).task_max_crashes == 3


@pytest.mark.parametrize("silent", [False, True])
def test_a_module_that_is_there_and_broken_is_never_passed_over(silent: bool) -> None:
    Path("conf_broken.py").write_text("import conf_needs_this\n")
    assert "No module named 'conf_needs_this'" in refused(from_object("conf_broken", silent=silent))


def test_a_mapping_may_have_no_unknown_key() -> None:
    assert resolve(from_object({"task_max_crashes": 5})).task_max_crashes == 5
    assert "helper (config_from_object(mapping))" in refused(from_object({"helper": 5}))


def test_under_a_namespace_only_names_with_the_prefix_count() -> None:
    settings = types.SimpleNamespace(
        CELERY_TASK_ALWAYS_EAGER=True, CELERY_BEAT_SCHEDULE={"x": {}}, DEBUG=True, TASK_MAX_CRASHES=5
    )
    for conf in (from_object(settings, namespace="CELERY"), from_object(settings, namespace="CELERY_")):
        config = resolve(conf)
        assert (config.task_always_eager, config.task_max_crashes) == (True, 3)
    conf = PendingConfig(namespace="CELERY")
    conf.config_from_object(settings)
    assert resolve(conf).beat_schedule == {"x": {}}
    conf = PendingConfig()
    conf.namespace = "CELERY"
    conf.config_from_object(settings)
    assert resolve(conf).task_always_eager is True


def test_under_a_namespace_an_unknown_or_old_name_is_refused() -> None:
    text = refused(from_object({"CELERY_ALWAYS_EAGER": 1, "CELERY_TASK_ROUTE": 1}, namespace="CELERY"))
    assert "its name is CELERY_TASK_ALWAYS_EAGER" in text
    assert "did you mean CELERY_TASK_ROUTES?" in text


def test_a_variable_may_name_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("conf_env.py").write_text("task_max_crashes = 5\n")
    conf = PendingConfig()
    conf.config_from_envvar("MY_CONFIG")
    assert resolve(conf, MY_CONFIG="conf_env").task_max_crashes == 5
    assert "MY_CONFIG (config_from_envvar): it is not set" in refused(conf)
    conf.config_from_envvar("MY_CONFIG", silent=True)
    assert resolve(conf).task_max_crashes == 3
    assert resolve(CELERY_CONFIG_MODULE="conf_env").task_max_crashes == 5


def test_nothing_is_read_before_it_is_needed() -> None:
    conf = from_object("conf_later")
    Path("conf_later.py").write_text("task_max_crashes = 5\n")
    assert resolve(conf).task_max_crashes == 5


@given(st.dictionaries(st.sampled_from(sorted(SETTINGS)) | st.text("xyzé_ ", max_size=9), st.integers()))
def test_every_name_of_a_mapping_is_a_setting_or_a_problem(mapping: dict[str, int]) -> None:
    layer = read_mapping(mapping.items(), "here")
    assert set(layer.values) == set(mapping) & set(SETTINGS)
    assert {problem.key for problem in layer.problems} == set(mapping) - set(SETTINGS)
    spaced = read_namespace(((f"X_{name.upper()}", value) for name, value in mapping.items()), "here", "X")
    assert set(mapping) & set(SETTINGS) <= set(spaced.values)
