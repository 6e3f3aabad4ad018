"""`transports.result_state`: the state of a result document, whatever its serializer."""

from __future__ import annotations

import json
import pickle

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.result_state import is_success

STATES = ["SUCCESS", "FAILURE", "REVOKED", "RETRY", "STARTED", "PENDING", "success", ""]

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(STATES), values, st.booleans())
def test_the_state_of_json_is_read(state: str, result: object, state_first: bool) -> None:
    entries = [("status", state), ("result", result), ("traceback", None)]
    document = json.dumps(dict(entries if state_first else reversed(entries))).encode()
    assert is_success(document) is (state == "SUCCESS")
    assert is_success(b" \n" + document) is (state == "SUCCESS")


@given(st.sampled_from(STATES), values)
def test_the_state_of_msgpack_is_read(state: str, result: object) -> None:
    assert is_success(msgpack.packb({"result": result, "status": state})) is (state == "SUCCESS")


@given(st.sampled_from(STATES), values, st.integers(2, 5))
def test_the_state_of_a_pickle_is_found_without_decoding_it(
    state: str, result: object, protocol: int
) -> None:
    document = pickle.dumps({"status": state, "result": result, "traceback": None}, protocol=protocol)
    assert is_success(document) is (state == "SUCCESS")


def test_a_failure_with_the_result_success_is_no_success() -> None:
    content = {"status": "FAILURE", "result": "SUCCESS"}
    for protocol in range(2, 6):
        assert is_success(pickle.dumps(content, protocol=protocol)) is False
    assert is_success(msgpack.packb(content)) is False


@given(st.binary())
def test_any_bytes_have_an_answer(document: bytes) -> None:
    assert is_success(document) in (True, False)


@pytest.mark.parametrize(
    "document", [b"", b"null", b"{}", b"\x80", b'{"status": ["SUCCESS"]}', b"[" * 100_000, b'{"a":' * 100_000]
)
def test_a_foreign_document_is_no_success(document: bytes) -> None:
    assert is_success(document) is False
