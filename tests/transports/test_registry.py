"""`transports.registry`: which module a scheme opens, and what is said of an unknown one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from prefork.transports import plugins, registry
from prefork.transports.errors import TransportError, UnsupportedTransport
from prefork.transports.memory import MemoryResults, MemoryTransport
from prefork.transports.registry import open_results, open_transport
from prefork.transports.url import InvalidUrl

Installed = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Pretend that packages with these entry points are installed."""

    def _install(*points: EntryPoint) -> None:
        monkeypatch.setattr(
            plugins, "entry_points", lambda group: [point for point in points if point.group == group]
        )

    return _install


def open_other(url: str, options: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """What a third-party factory would be; the tests name it in an entry point."""
    return url, options


def point(name: str, group: str = registry.TRANSPORT_GROUP) -> EntryPoint:
    return EntryPoint(name, "operator:itemgetter", group)


def test_memory_is_built_in() -> None:
    assert isinstance(open_transport("memory://registry"), MemoryTransport)
    assert isinstance(open_results("memory://registry"), MemoryResults)


LOCAL = ("file", "filesystem", "memory")
NETWORK = {
    "amqp": "amqp://127.0.0.1:1//",
    "amqps": "amqps://127.0.0.1:1//",
    "redis": "redis://127.0.0.1:1/0",
    "redis+socket": "redis+socket:///nowhere/redis.sock",
    "rediss": "rediss://127.0.0.1:1/0",
    "rpc": "rpc://",
    "sentinel": "sentinel://127.0.0.1:1/0?master_name=main",
}
"""Addresses where nobody listens: opening connects to nothing."""


@pytest.mark.parametrize("scheme", sorted(registry.BUILT_IN_TRANSPORTS))
def test_every_built_in_transport_can_be_opened(scheme: str, broker_root: Path) -> None:
    transport = open_transport(NETWORK.get(scheme) or f"{scheme}://{broker_root}", {})
    assert scheme.startswith(transport.capabilities.name) or scheme == "sentinel"
    transport.close()


@pytest.mark.parametrize("scheme", sorted(set(registry.BUILT_IN_RESULTS) & set(LOCAL)))
def test_every_local_result_store_can_be_opened(scheme: str, broker_root: Path) -> None:
    store = open_results(f"{scheme}://{broker_root}", {})
    assert store.get(["missing"]) == [None]
    store.close()


# rpc:// has no address of its own: tests/transports/amqp/test_rpc_results.py.
@pytest.mark.parametrize("scheme", sorted(set(registry.BUILT_IN_RESULTS) - set(LOCAL) - {"rpc"}))
def test_every_result_store_of_the_network_can_be_opened_and_says_when_nobody_is_there(scheme: str) -> None:
    store = open_results(NETWORK[scheme], {})
    with pytest.raises(TransportError):
        store.get(["missing"])
    store.close()


def test_an_installed_package_brings_its_scheme(install: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    install(point("other"), point("other", registry.RESULTS_GROUP))
    monkeypatch.setattr(EntryPoint, "load", lambda self: open_other)
    options = {"a": 1}
    assert open_transport("other://h/x", options) == ("other://h/x", options)
    assert open_results("OTHER://h") == ("OTHER://h", {})


def test_a_built_in_scheme_cannot_be_taken_over(install: Installed) -> None:
    install(point("memory"))
    assert isinstance(open_transport("memory://registry"), MemoryTransport)


def test_the_first_of_two_packages_with_one_scheme_wins(install: Installed) -> None:
    first = point("other")
    install(first, EntryPoint("other", "operator:attrgetter", registry.TRANSPORT_GROUP))
    assert plugins.installed(registry.TRANSPORT_GROUP) == {"other": first}


def test_an_unknown_scheme_is_named_with_the_known_ones_and_the_remedy(install: Installed) -> None:
    install(point("other"))
    with pytest.raises(UnsupportedTransport) as raised:
        open_transport("carrier+pigeon://user:S3cr3t@coop")
    assert raised.value.scheme == "carrier+pigeon"
    assert set(raised.value.known) >= {"filesystem", "memory", "other"}
    message = str(raised.value)
    assert "no transport is registered for carrier+pigeon://" in message
    assert registry.TRANSPORT_GROUP in message
    assert "S3cr3t" not in message


def test_transports_and_result_stores_are_separate(install: Installed) -> None:
    install(point("other"))
    with pytest.raises(UnsupportedTransport, match="no result store is registered for other://") as raised:
        open_results("other://")
    assert "other" not in raised.value.known


@pytest.mark.parametrize("opened", [open_transport, open_results])
@pytest.mark.parametrize("text", ["", "memory", "memory://a;filesystem://b"])
def test_a_text_that_is_no_url_is_refused(opened: Callable[[str], object], text: str) -> None:
    with pytest.raises(InvalidUrl):
        opened(text)


def test_preloading_refuses_what_opening_would_refuse_and_opens_nothing() -> None:
    good = NETWORK["redis"]
    registry.preload(good, good, broker_options={"max_connections": 3}, result_options={})
    registry.preload("memory://", None, broker_options={"max_connections": 0})
    with pytest.raises(TransportError, match="max_connections"):
        registry.preload(good, None, broker_options={"max_connections": 0})
    with pytest.raises(TransportError, match="socket_timeout"):
        registry.preload("memory://", good, result_options={"socket_timeout": "soon"})
    with pytest.raises(InvalidUrl):
        registry.preload("redis://host/zero", None)


def test_a_package_that_only_one_scheme_needs_is_named_with_its_extra() -> None:
    code = (
        "import sys; sys.modules['hiredis'] = None\n"
        "from prefork.transports.errors import UnsupportedTransport\n"
        "from prefork.transports.registry import open_results, open_transport\n"
        "import json; said = []\n"
        "for opened in (open_transport, open_results):\n"
        "    try: opened('redis://user:S3cr3t@host')\n"
        "    except UnsupportedTransport as error: said.append(str(error))\n"
        "print(json.dumps(said))"
    )
    said = loaded_by(code)
    assert len(said) == 2
    for message in said:
        assert "redis:// needs the package hiredis" in message
        assert "pip install 'prefork[redis]'" in message
        assert "S3cr3t" not in message


HEAVY = ("prefork.transports.filesystem", "importlib.metadata", "kombu", "redis", "asyncio")


def test_opening_one_transport_loads_no_other_and_no_package_metadata() -> None:
    report = f"import json; print(json.dumps([m for m in sys.modules if m.startswith({HEAVY!r})]))"
    opening = "from prefork.transports.registry import open_transport; open_transport('memory://')"
    # The finder of an editable install may read metadata before any code of ours runs.
    assert loaded_by(f"import sys; {opening}; {report}") == loaded_by(f"import sys; {report}")


def loaded_by(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return sorted(json.loads(done.stdout))
