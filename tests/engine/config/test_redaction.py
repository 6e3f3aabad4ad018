"""Secrets in the configuration are never shown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.config.redaction import censor, is_secret, show


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("redis_password", True),
        ("s3_secret_access_key", True),
        ("s3_access_key_id", True),
        ("API-TOKEN", True),
        ("aws.signature", True),
        ("task_default_routing_key", False),
        ("task_serializer", False),
        ("monkey_business", False),
    ],
)
def test_a_name_tells_whether_its_value_is_a_secret(name: str, secret: bool) -> None:
    assert is_secret(name) is secret


def test_numbers_none_and_flags_with_plain_names_are_shown() -> None:
    assert [censor("x", value) for value in (None, True, 5, 1.5)] == [None, True, 5, 1.5]
    assert [censor("password", value) for value in (None, True, 5, b"x")] == [
        None,
        True,
        "********",
        "********",
    ]


SECRET = "geheim"
HIDING = st.recursive(
    st.just(f"redis://u:{SECRET}@h/0") | st.builds(dict, password=st.just(SECRET)) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
)


@given(HIDING)
def test_no_structure_hides_a_secret_from_the_censor(value: Any) -> None:
    assert SECRET not in show("broker_transport_options", value)
    assert SECRET not in repr(censor("broker_transport_options", value))
    assert SECRET not in show("task_routes", (value,))


def test_a_value_whose_repr_raises_is_shown_by_its_type() -> None:
    class Angry:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert show("x", Angry()) == "<Angry: its repr raised RuntimeError>"
