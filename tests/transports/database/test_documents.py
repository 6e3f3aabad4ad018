"""Documents become rows and rows become documents: codecs, keys, dates, old pickles."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.base import StoredResult
from prefork.transports.database.codec import CODECS, NoDocument
from prefork.transports.database.old_pickle import UnsafePickle, load_plain, lowered
from prefork.transports.database.rows import (
    date_of,
    document_of,
    expired_before,
    folded,
    group_document,
    group_row,
    key_of,
    row_of,
    utc,
)

SHORT = frozenset({"id", "task_id", "status", "result", "date_done", "traceback"})
COLUMNS = SHORT | {"children", "name", "args", "kwargs", "worker", "retries", "queue", "stamps"}
NOW_S = 1_800_000_000.25
LIFE_S = 86400.0
DUMPS: dict[str, Callable[[Any], bytes]] = {
    "json": lambda value: json.dumps(value).encode(),
    "msgpack": msgpack.packb,
    "pickle": pickle.dumps,
}
LOADS: dict[str, Callable[[bytes], Any]] = {
    "json": json.loads,
    "msgpack": msgpack.unpackb,
    "pickle": pickle.loads,
}
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def through(document: dict[str, Any], serializer: str = "json", columns: frozenset[str] = COLUMNS) -> Any:
    codec = CODECS[serializer]
    row = row_of(StoredResult("id", DUMPS[serializer](document), LIFE_S), codec, columns, LIFE_S, NOW_S)
    return LOADS[serializer](document_of("id", row, codec))


@pytest.mark.parametrize("serializer", sorted(CODECS))
@given(result=plain, args=st.lists(plain, max_size=3))
def test_what_is_stored_comes_back(serializer: str, result: Any, args: list[Any]) -> None:
    document = {
        "status": "SUCCESS",
        "result": result,
        "traceback": None,
        "children": [[["child", None], None]],
        "name": "shop.bill",
        "args": args,
        "kwargs": {"a": result},
        "worker": "w@h",
        "retries": 2,
        "queue": "bills",
        "task_id": "id",
    }
    came = through(document, serializer)
    assert came.pop("date_done") == "2027-01-15T08:00:00.250000+00:00"
    assert came == document


@given(st.binary(max_size=200))
def test_no_bytes_bring_a_codec_down(data: bytes) -> None:
    for name in ("json", "msgpack"):
        codec = CODECS[name]
        for read in (codec.split, codec.decode, codec.checked):
            try:
                read(data)
            except NoDocument:
                continue


@pytest.mark.parametrize("serializer", sorted(CODECS))
@pytest.mark.parametrize("value", [7, [1], {"result": 1}, {"status": 7}, {"status": None}])
def test_what_has_no_status_is_no_document(serializer: str, value: Any) -> None:
    stored = StoredResult("id", DUMPS[serializer](value))
    with pytest.raises(NoDocument):
        row_of(stored, CODECS[serializer], COLUMNS, LIFE_S, NOW_S)


@pytest.mark.parametrize("data", [b"", b"[", b"\xc1", b"\x80\x04garbage", b"{" * 100_000])
@pytest.mark.parametrize("serializer", sorted(CODECS))
def test_damaged_bytes_are_no_document(serializer: str, data: bytes) -> None:
    with pytest.raises(NoDocument):
        CODECS[serializer].split(data)


def test_values_that_only_the_standard_library_reads_are_kept() -> None:
    came = through({"status": "SUCCESS", "result": [float("inf"), "\ud800"], "children": []})
    assert came["result"] == [float("inf"), "\ud800"]


def test_a_two_key_object_is_not_touched() -> None:
    value = {"__type__": "decimal", "__value__": "1.50"}
    assert through({"status": "SUCCESS", "result": value})["result"] == value


@pytest.mark.parametrize("serializer", sorted(CODECS))
def test_stamps_are_kept(serializer: str) -> None:
    document = {"status": "SUCCESS", "result": 1, "stamped_headers": ["tenant"], "tenant": "acme"}
    came = through(document, serializer)
    assert (came["stamped_headers"], came["tenant"], came["result"]) == (["tenant"], "acme", 1)


def test_a_table_without_the_new_columns_keeps_the_rest() -> None:
    document = {"status": "FAILURE", "result": {"exc_type": "X"}, "name": "n", "children": [1], "retries": 1}
    came = through(document, columns=SHORT)
    assert (came["status"], came["result"], came["children"]) == ("FAILURE", {"exc_type": "X"}, [])
    assert "name" not in came


def test_texts_fit_into_their_columns() -> None:
    document = {
        "status": "S" * 80,
        "result": 1,
        "traceback": "nul \0 and half \ud83d",
        "name": "n" * 200,
        "worker": 7,
        "retries": "many",
    }
    stored = StoredResult("id", DUMPS["json"](document))
    row = row_of(stored, CODECS["json"], COLUMNS, LIFE_S, NOW_S)
    assert (row["status"], row["traceback"]) == ("S" * 50, "nul \\x00 and half \\ud83d")
    assert (row["name"], row["worker"], row["retries"]) == ("n" * 155, None, None)


@given(st.text(max_size=400))
def test_every_key_fits_and_none_is_another(key: str) -> None:
    found = key_of(key)
    assert 0 <= len(found) <= 155 and "\0" not in found
    found.encode("utf-8")
    assert found == key or found.startswith("sha256:")
    assert key_of(key + "x") != found


@pytest.mark.parametrize("retries", [2**31, -1, 2**70])
def test_a_number_that_no_column_holds_is_left_out(retries: int) -> None:
    document = {"status": "SUCCESS", "result": 1, "name": "n", "retries": retries}
    assert through(document)["retries"] is None


@pytest.mark.parametrize("status", ["STARTED", "RETRY", "PROGRESS"])
def test_only_a_final_state_is_done(status: str) -> None:
    assert through({"status": status, "result": 1})["date_done"] is None


@given(
    lives_s=st.none() | st.floats(0, 1e12),
    lifetime_s=st.none() | st.floats(0, 1e10),
)
def test_a_row_expires_when_its_document_should(lives_s: float | None, lifetime_s: float | None) -> None:
    dated = date_of(lives_s, lifetime_s, NOW_S)
    if lifetime_s is None:
        assert dated == utc(NOW_S) and expired_before(None, NOW_S) is None
        return
    if lives_s is None:
        assert (dated is None) == (lifetime_s is not None)
        return
    assert dated is not None
    ends_s = min(lives_s, 100 * 365 * 86400.0)
    before, after = (
        expired_before(lifetime_s, NOW_S + ends_s - 1),
        expired_before(lifetime_s, NOW_S + ends_s + 1),
    )
    assert before is not None and after is not None and before < dated < after


def test_a_success_in_a_batch_stays_and_otherwise_the_last_counts() -> None:
    rows = [
        {"task_id": key, "status": status, "result": number}
        for number, (key, status) in enumerate(
            [("b", "FAILURE"), ("a", "SUCCESS"), ("b", "RETRY"), ("a", "FAILURE"), ("a", "SUCCESS")]
        )
    ]
    assert [(row["task_id"], row["result"]) for row in folded(rows)] == [("a", 1), ("b", 2)]


VALUES = [
    None,
    [1, "two", 3.5, {"k": (1, 2)}],
    {1: "one"},
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    date(2026, 1, 2),
    time(3, 4),
    Decimal("1.50"),
    UUID(int=5),
    b"abc",
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_rows_of_older_releases_are_read(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol=protocol)
    assert load_plain(data) == value
    row = {"status": "SUCCESS", "result": data, "traceback": None, "date_done": None}
    document = document_of("id", row, CODECS["json"])
    assert json.loads(document)["result"] == json.loads(json.dumps(lowered(value)))


class Trap:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('ran code')",))


@pytest.mark.parametrize(
    "data", [pickle.dumps(Trap()), b"\x80\x04", b"\x80\x04Q.", pickle.dumps(ValueError())]
)
def test_an_old_row_runs_no_code(data: bytes) -> None:
    with pytest.raises(ValueError):
        load_plain(data)
    row = {"status": "SUCCESS", "result": data, "traceback": None, "date_done": None}
    assert document_of("id", row, CODECS["json"]) == data  # handed on: whoever decodes it says what it is


def test_the_error_about_an_old_row_names_the_class() -> None:
    with pytest.raises(ValueError, match="builtins.exec") as caught:
        load_plain(pickle.dumps(Trap()))
    assert isinstance(caught.value.__cause__, UnsafePickle)


@pytest.mark.parametrize("value", [{1, 2}, timedelta(1), b"\xff"])
def test_an_old_value_without_a_form_is_handed_on(value: Any) -> None:
    data = pickle.dumps(value)
    with pytest.raises(ValueError):
        lowered(value)
    assert group_document({"result": data}, CODECS["json"]) == data


def test_a_column_of_another_serializer_is_handed_on() -> None:
    row = {"status": "SUCCESS", "result": b"\xc1", "traceback": None, "date_done": None}
    assert document_of("id", row, CODECS["json"]) == b"\xc1"


@pytest.mark.parametrize("serializer", sorted(CODECS))
def test_groups_come_back(serializer: str) -> None:
    value = {"result": [["g", None], [[["a", None], None]]]}
    row = group_row("g", DUMPS[serializer](value), CODECS[serializer], None)
    assert LOADS[serializer](group_document(row, CODECS[serializer])) == value
    with pytest.raises(NoDocument):
        group_row("g", DUMPS[serializer]({}), CODECS[serializer], None)
