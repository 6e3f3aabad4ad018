"""Which of kombu's transports a URL means, what it promises, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kombu.transport import TRANSPORT_ALIASES
from sqlalchemy.pool import NullPool

from prefork.engine import App
from prefork.transports import registry
from prefork.transports.errors import TransportError, UnsupportedTransport
from prefork.transports.kombu import address, check_options, known_schemes, knows, line, open_transport
from prefork.transports.kombu.address import read_address
from prefork.transports.kombu.gaps import capabilities_of
from prefork.transports.url import InvalidUrl


@pytest.mark.parametrize("scheme", ["sqs", "kombu+memory", "sqla+sqlite", "kombu+sqla+postgresql", "mongodb"])
def test_schemes_of_kombu_are_known(scheme: str) -> None:
    assert knows(scheme)


@pytest.mark.parametrize("scheme", ["nosuch", "kombu+nosuch", "kombu+", ""])
def test_other_schemes_are_not(scheme: str) -> None:
    assert not knows(scheme)


def test_the_registry_asks_kombu_last() -> None:
    transport = registry.open_transport("sqla+sqlite:////nowhere/x.db")
    assert transport.capabilities.name == "kombu+sqla"
    transport.close()
    with pytest.raises(UnsupportedTransport, match="kombu\\+\\*") as caught:
        registry.open_transport("nosuch://h")
    assert "memory" in caught.value.known
    with pytest.raises(UnsupportedTransport, match="kombu has no transport 'nosuch'"):
        registry.open_transport("kombu+nosuch://h")


def test_kombu_is_not_imported_before_a_url_needs_it() -> None:
    code = (
        "import sys; from prefork.transports import registry; registry.open_transport('memory://x');"
        "print('kombu' in sys.modules); registry.preload('kombu+pyamqp://127.0.0.1:1', None);"
        "print('kombu' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_our_prefix_is_taken_off_every_url_of_a_list() -> None:
    found = read_address("kombu+pyamqp://u:s3cret@a;kombu+pyamqp://b", {})
    assert found.url == "pyamqp://u:s3cret@a;pyamqp://b"
    assert "s3cret" not in found.shown + found.identity


def test_options_of_the_engine_are_kept_from_kombu() -> None:
    options = {
        "app": "a",
        "declarations": {},
        "socket_connect_timeout": 3.0,
        "publish_deadline": 5.0,
        "max_connections": 4,
        "visibility_timeout": 60,
    }
    found = read_address("kombu+pyro://", options)
    assert (dict(found.options), found.connect_timeout_s) == ({"visibility_timeout": 60}, 3.0)


def test_everything_that_an_application_tells_its_broker_is_kept_from_kombu() -> None:
    """A setting that becomes an option must be known to the bridge, too: SQLAlchemy refuses unknown ones."""
    app = App("told", set_as_current=False)
    app.conf.update(
        broker_login_method="PLAIN",
        broker_use_ssl={"cert_reqs": "none"},
        task_create_missing_queue_exchange_type="topic",
        task_default_queue_type="quorum",
    )
    told = app.client.transport_options()
    app.conf.update(broker_pool_limit=None)
    told |= app.client.transport_options()
    assert {"keep_connections", "login_method", "max_connections", "quorum_queues", "ssl"} <= set(told)
    found = read_address("kombu+pyro://", told)
    assert (dict(found.options), found.login_method) == ({}, "PLAIN")


def test_some_options_have_better_defaults_than_those_of_kombu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_transport_class", lambda scheme: line.virtual.Transport)
    assert read_address("sqs://", {}).options["wait_time_seconds"] == 0
    assert read_address("sqs://", {"wait_time_seconds": 5}).options["wait_time_seconds"] == 5
    assert read_address("sqla+sqlite:///x", {}).options["poolclass"] is NullPool
    assert read_address("kombu+pyamqp://", {}).options["confirm_publish"] is True
    folders = read_address("kombu+filesystem:///a/b", {"control_folder": "/c"}).options
    assert folders == {"data_folder_in": "/a/b", "data_folder_out": "/a/b", "control_folder": "/c"}
    assert read_address("kombu+filesystem://", {}).options == {}


@pytest.mark.parametrize(
    ("scheme", "takes", "local"),
    [
        ("memory", True, True),
        ("filesystem", True, False),
        ("sqla", True, False),
        ("redis", False, False),
        ("pyamqp", False, False),
    ],
)
def test_who_keeps_what_is_read_is_known(scheme: str, takes: bool, local: bool) -> None:
    found = read_address(f"kombu+{scheme}://", {})
    assert (found.takes, found.local) == (takes, local)
    capabilities = capabilities_of(found)
    assert capabilities.several_processes is not local
    assert capabilities.recall_by_others is capabilities.counts_in_work is takes
    assert capabilities.shares_queues and not capabilities.schedule
    words = " ".join(capabilities.gaps)
    assert ("journal" in words) is takes and ("crashes are not counted" in words) is not takes


@pytest.mark.parametrize("value", [0, -1, "often"])
def test_an_interval_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="polling_interval") as caught:
        read_address("kombu+pyro://", {"polling_interval": value})
    assert isinstance(caught.value, TransportError)


def test_the_interval_is_shorter_where_looking_is_cheap() -> None:
    assert read_address("kombu+filesystem://", {}).poll_s < read_address("kombu+redis://", {}).poll_s
    assert read_address("kombu+redis://", {"polling_interval": 3}).poll_s == 3.0


def test_a_pool_of_processes_is_refused_where_messages_stay_in_one(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTransport, match="-P solo"):
        registry.preload("kombu+memory://", None)
    check_options(f"kombu+filesystem://{tmp_path}", {})


@pytest.mark.parametrize("error", [ImportError("no botocore"), AttributeError("ack"), NameError("Kafka")])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def missing(scheme: str) -> Any:
        raise error

    monkeypatch.setattr(address, "get_transport_cls", missing)
    with pytest.raises(UnsupportedTransport, match=r"kombu\[sqs\]"):
        open_transport("sqs://", {})


def test_a_library_that_kombu_misses_later_is_named_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(line.virtual.Transport):  # type: ignore[misc]
        def __init__(self, client: Any, **kwargs: Any) -> None:
            raise ImportError("no etcd")

    monkeypatch.setattr(address, "get_transport_cls", lambda scheme: Lazy)
    monkeypatch.setattr(line, "_Connection", lambda *args, **kwargs: Opened(Lazy))
    with pytest.raises(UnsupportedTransport, match="no etcd"):
        open_transport("etcd://h", {})


class Opened:
    def __init__(self, cls: Callable[[Any], Any]) -> None:
        self._cls = cls

    @property
    def transport(self) -> Any:
        return self._cls(self)


def test_a_text_that_is_no_url_is_refused() -> None:
    with pytest.raises(InvalidUrl):
        read_address("kombu", {})


def test_every_transport_of_kombu_has_a_name_here() -> None:
    assert set(known_schemes()) == {name.lower() for name in TRANSPORT_ALIASES}
