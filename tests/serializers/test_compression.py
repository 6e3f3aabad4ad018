from __future__ import annotations

import bz2
import importlib
import lzma
import types
import zlib
from typing import Any

import kombu.compression
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.serializers import compression
from prefork.serializers.base import DecodeError, DecodeFault
from prefork.serializers.compression import UnknownCompression, available, compress, decompress, header_value

METHODS = available()
MIB = 1024 * 1024


def test_the_methods_of_the_standard_library_are_always_available() -> None:
    assert {"application/x-gzip", "application/x-bz2", "application/x-lzma"} <= set(METHODS)


@pytest.mark.parametrize("method", METHODS)
@given(data=st.binary())
def test_what_is_compressed_comes_back(method: str, data: bytes) -> None:
    packed, value = compress(data, method)
    assert value == method
    assert decompress(packed, value) == data


@pytest.mark.parametrize("method", ["zlib", "gzip", "bzip2", "bzip", "lzma", "xz"])
def test_peers_read_ours_and_we_read_theirs_by_alias_and_by_type(method: str) -> None:
    data = b"some text " * 100
    packed, value = compress(data, method)
    assert kombu.compression.decompress(packed, value) == data
    theirs, their_value = kombu.compression.compress(data, method)
    assert their_value == value
    assert decompress(theirs, method) == decompress(theirs, their_value) == data


def test_gzip_is_a_zlib_stream_as_it_is_for_peers() -> None:
    packed, value = compress(b"x", "gzip")
    assert (value, zlib.decompress(packed)) == ("application/x-gzip", b"x")


@pytest.mark.parametrize("method", METHODS)
def test_a_bomb_is_stopped_at_the_bound(method: str) -> None:
    packed, value = compress(b"\0" * (8 * MIB), method)
    with pytest.raises(DecodeError) as caught:
        decompress(packed, value, output_bytes_max=MIB)
    assert caught.value.reason is DecodeFault.TOO_LARGE
    assert len(decompress(packed, value, output_bytes_max=8 * MIB)) == 8 * MIB


@pytest.mark.parametrize("method", ["bz2", "xz"])
def test_a_bomb_made_of_many_small_streams_is_stopped_too(method: str) -> None:
    packed, value = compress(b"\0" * MIB, method)
    assert len(decompress(packed * 3, value, output_bytes_max=3 * MIB)) == 3 * MIB
    with pytest.raises(DecodeError) as caught:
        decompress(packed * 3, value, output_bytes_max=2 * MIB)
    assert caught.value.reason is DecodeFault.TOO_LARGE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("damage", ["garbage", "truncated"])
def test_damaged_data_is_refused(method: str, damage: str) -> None:
    packed, value = compress(bytes(range(256)) * 20, method)
    data = b"\x00garbage\xff" if damage == "garbage" else packed[: len(packed) // 2]
    with pytest.raises(DecodeError) as caught:
        decompress(data, value)
    assert caught.value.reason is DecodeFault.CORRUPT


@pytest.mark.parametrize("method", METHODS)
@given(data=st.binary())
def test_any_bytes_are_decompressed_or_refused(method: str, data: bytes) -> None:
    try:
        decompress(data, method, output_bytes_max=MIB)
    except DecodeError as error:
        assert error.reason in (DecodeFault.CORRUPT, DecodeFault.TOO_LARGE)


def test_lzma_that_asks_for_too_much_memory_is_refused() -> None:
    modest = lzma.compress(b"x", format=lzma.FORMAT_ALONE, preset=0)
    assert decompress(modest, "xz") == b"x"
    greedy = modest[:1] + (2**31).to_bytes(4, "little") + modest[5:]
    assert lzma.decompress(greedy) == b"x"
    with pytest.raises(DecodeError, match="[Mm]emory") as caught:
        decompress(greedy, "xz")
    assert caught.value.reason is DecodeFault.CORRUPT


@pytest.mark.parametrize("method", ["rot13", "", "zip", "application/gzip"])
def test_an_unknown_method_is_refused_by_name(method: str) -> None:
    with pytest.raises(UnknownCompression, match="the known methods are"):
        header_value(method)
    with pytest.raises(DecodeError) as caught:
        decompress(b"x", method)
    assert caught.value.reason is DecodeFault.COMPRESSION


@pytest.mark.parametrize(("module", "method"), [("zstandard", "zstd"), ("brotli", "brotli")])
def test_a_method_whose_library_is_missing_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, module: str, method: str
) -> None:
    real = importlib.import_module

    def without(name: str) -> Any:
        if name == module:
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(compression.importlib, "import_module", without)
    with pytest.raises(UnknownCompression, match="pip install"):
        compress(b"x", method)
    with pytest.raises(DecodeError) as caught:
        decompress(b"x", method)
    assert caught.value.reason is DecodeFault.COMPRESSION
    assert header_value(method) not in available()


def test_a_brotli_that_cannot_bound_its_output_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    old = types.SimpleNamespace(__version__="1.1.0")
    monkeypatch.setattr(compression.importlib, "import_module", lambda name: old)
    with pytest.raises(UnknownCompression, match=r"before 1\.2 cannot bound"):
        compress(b"x", "brotli")


def test_data_behind_a_stream_is_not_taken_for_more_of_it() -> None:
    assert decompress(zlib.compress(b"x") + b"tail", "zlib") == b"x"
    with pytest.raises(DecodeError):
        decompress(bz2.compress(b"x") + b"tail", "bz2")
