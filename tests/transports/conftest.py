"""What every test of a transport may rely on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from prefork.transports.kombu import journal


@pytest.fixture(autouse=True)
def journals_of_the_test_alone(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message that an earlier run has left in the journal of a broker of the same address is in its way.

    A journal outlives its test: it is not beside the broker, but where temporary files are.
    """
    if "kombu" in request.node.nodeid:
        base = tmp_path_factory.mktemp("journals")
        monkeypatch.setattr(journal, "tempfile", SimpleNamespace(gettempdir=lambda: str(base)))
