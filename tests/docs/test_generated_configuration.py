"""The page about the settings says what the settings say."""

from __future__ import annotations

import importlib.util

from support.source_tree import ROOT


def test_the_page_is_what_the_settings_make() -> None:
    spec = importlib.util.spec_from_file_location(
        "generate_configuration", ROOT / "docs" / "generate_configuration.py"
    )
    assert spec is not None and spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    assert page == generator.page()
