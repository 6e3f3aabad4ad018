"""`transports.result_state`: the state of a result document, whatever its serializer."""

from __future__ import annotations

import json
import pickle

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.result_state import is_final, is_success

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


FINAL = {"SUCCESS", "FAILURE", "REVOKED"}


@given(st.sampled_from([*STATES, "REVOKED", "SUCCESSFUL", "my-state"]), values)
def test_the_end_is_known_in_every_serialization(state: str, result: object) -> None:
    content = {"status": state, "result": result, "traceback": None}
    documents = [json.dumps(content).encode(), msgpack.packb(content)]
    documents += [pickle.dumps(content, protocol=protocol) for protocol in range(2, 6)]
    assert {is_final(document) for document in documents} == {state in FINAL}


@pytest.mark.parametrize(
    ("document", "final"),
    [
        (b"date_done: null\nresult: 1\nstatus: SUCCESS\n", True),
        (b"date_done: null\nresult: 1\nstatus: STARTED\n", False),
        (b"<status>REVOKED</status>", True),
        (b"status='RETRY'", False),
        (b"", True),
        (b"not a document", True),
    ],
)
def test_in_an_unknown_serialization_the_end_is_looked_for_in_the_text(document: bytes, final: bool) -> None:
    assert is_final(document) is final


@pytest.mark.parametrize(
    ("method", "known"), [(b"gzip", True), (b"zstd", True), (b"application/x-gzip", False), (b"", False)]
)
def test_a_compressed_document_is_a_success_if_this_engine_wrote_it(method: bytes, known: bool) -> None:
    document = b"\0celery-compressed\0" + method + b"\0x\x9c\x03"
    assert is_success(document) is known
    assert is_final(document), "of another writer nobody knows before it is read"
