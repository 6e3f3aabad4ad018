"""The page about the command line says what the program says."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from prefork.engine.cli.failures import ExitCode
from support.source_tree import ROOT


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_parsers_make(generator: ModuleType) -> None:
    assert (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8") == generator.page()


def test_every_exit_code_is_explained(generator: ModuleType) -> None:
    assert set(generator.EXIT_CODES) == set(ExitCode)
