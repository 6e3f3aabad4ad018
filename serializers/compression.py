"""Compression of message bodies: a closed list of methods, and output that cannot explode.

Facts: interop §1.2 (``application/x-gzip`` is a zlib stream, despite its name).
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from .base import DecodeError, DecodeFault, SerializerError

OUTPUT_BYTES_MAX = 16 * 1024 * 1024
"""What a body may grow to when nothing else is configured."""

_LZMA_MEMORY_BYTES_MAX = 256 * 1024 * 1024
_ZSTD_WINDOW_BYTES_MAX = 128 * 1024 * 1024
_ZSTD_SLICE_BYTES = 512
"""Its objects cannot bound their output, so they are fed little: a slice yields at most some 20 MiB."""

_HEADER_VALUES = {
    "application/x-gzip": "application/x-gzip",
    "gzip": "application/x-gzip",
    "zlib": "application/x-gzip",
    "application/x-bz2": "application/x-bz2",
    "bzip2": "application/x-bz2",
    "bzip": "application/x-bz2",
    "bz2": "application/x-bz2",
    "application/x-lzma": "application/x-lzma",
    "lzma": "application/x-lzma",
    "xz": "application/x-lzma",
    "application/x-brotli": "application/x-brotli",
    "brotli": "application/x-brotli",
    "application/zstd": "application/zstd",
    "zstd": "application/zstd",
    "zstandard": "application/zstd",
}


_SHORT_NAMES = {
    "application/x-gzip": "gzip",
    "application/x-bz2": "bzip2",
    "application/x-lzma": "lzma",
    "application/x-brotli": "brotli",
    "application/zstd": "zstd",
}


class UnknownCompression(SerializerError):
    """A compression method that is not known, or whose library is not installed.

    :param method: as it was named.
    :param remedy: what to do about it.
    """

    def __init__(self, method: str, remedy: str) -> None:
        super().__init__(method, remedy)
        self.method = method
        self.remedy = remedy

    def __str__(self) -> str:
        return f"compression {self.method[:80]!r} is not available: {self.remedy}"


def header_value(method: str) -> str:
    """The value of the ``compression`` header for a method's name or alias.

    :raises UnknownCompression: not on the list.
    """
    try:
        return _HEADER_VALUES[method]
    except KeyError:
        known = ", ".join(sorted(name for name in _HEADER_VALUES if "/" not in name))
        raise UnknownCompression(method, f"the known methods are {known}") from None


def short_name(method: str) -> str:
    """The one alias of a method that this engine uses, and that kombu knows, too.

    :raises UnknownCompression: not on the list.
    """
    return _SHORT_NAMES[header_value(method)]


def available() -> tuple[str, ...]:
    """The header values of the methods whose library is installed."""
    return tuple(value for value in sorted(set(_HEADER_VALUES.values())) if _is_installed(value))


def compress(data: bytes, method: str) -> tuple[bytes, str]:
    """Compress a body.

    :param method: a name, an alias or a header value.
    :returns: the compressed body, and the value of the ``compression`` header.
    :raises UnknownCompression: unknown, or its library is not installed.
    """
    value = header_value(method)
    return _COMPRESSORS[value](data), value


def decompress(data: bytes, method: str, output_bytes_max: int = OUTPUT_BYTES_MAX) -> bytes:
    """Undo `compress`, giving up as soon as the output would exceed its bound.

    :param method: what the message's ``compression`` header says; names and aliases will do.
    :raises DecodeError: unknown method, corrupt data, or more output than allowed.
    """
    try:
        inflate = _DECOMPRESSORS[header_value(method)]
        output = inflate(data, output_bytes_max)
    except UnknownCompression as exc:
        raise DecodeError(DecodeFault.COMPRESSION, str(exc)) from exc
    # Each library has its own error type, and those of the optional ones cannot be named here.
    except Exception as exc:
        raise DecodeError(DecodeFault.CORRUPT, f"{method[:80]}: {str(exc)[:200]}") from exc
    if len(output) > output_bytes_max:
        raise _too_large(output_bytes_max)
    return output


def _too_large(output_bytes_max: int) -> DecodeError:
    return DecodeError(DecodeFault.TOO_LARGE, f"more than {output_bytes_max} bytes when decompressed")


def _inflate_zlib(data: bytes, output_bytes_max: int) -> bytes:
    stream = zlib.decompressobj()
    output = stream.decompress(data, output_bytes_max + 1)
    if not stream.eof and len(output) <= output_bytes_max:
        raise ValueError("truncated")
    return output


def _inflate_bz2(data: bytes, output_bytes_max: int) -> bytes:
    return _inflate_streams(data, output_bytes_max, bz2.BZ2Decompressor)


def _inflate_lzma(data: bytes, output_bytes_max: int) -> bytes:
    return _inflate_streams(
        data, output_bytes_max, lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY_BYTES_MAX)
    )


def _inflate_streams(data: bytes, output_bytes_max: int, make: Callable[[], Any]) -> bytes:
    """Decompress one or more streams that follow each other, as bz2 and xz allow."""
    output = bytearray()
    while data:
        stream = make()
        output += stream.decompress(data, output_bytes_max + 1 - len(output))
        if len(output) > output_bytes_max:
            break
        if not stream.eof:
            raise ValueError("truncated")
        data = stream.unused_data
    return bytes(output)


def _inflate_zstd(data: bytes, output_bytes_max: int) -> bytes:
    library = _optional("zstandard", "application/zstd", "pip install zstandard")
    stream = library.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX).decompressobj()
    output = bytearray()
    for start in range(0, len(data), _ZSTD_SLICE_BYTES):
        output += stream.decompress(data[start : start + _ZSTD_SLICE_BYTES])
        if stream.eof or len(output) > output_bytes_max:
            return bytes(output)
    raise ValueError("truncated")


def _inflate_brotli(data: bytes, output_bytes_max: int) -> bytes:
    library = _brotli()
    stream = library.Decompressor()
    output: bytes = stream.process(data, output_buffer_limit=output_bytes_max + 1)
    if len(output) <= output_bytes_max and not stream.is_finished():
        raise ValueError("truncated")
    return output


def _brotli() -> Any:
    """The library, if it can bound its output (1.2 and later)."""
    library = _optional("brotli", "application/x-brotli", "pip install 'brotli>=1.2'")
    version = tuple(int(part) for part in library.__version__.split(".")[:2])
    if version < (1, 2):
        raise UnknownCompression("application/x-brotli", "brotli before 1.2 cannot bound its output")
    return library


def _optional(module: str, method: str, remedy: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise UnknownCompression(method, remedy) from exc


def _is_installed(value: str) -> bool:
    try:
        _COMPRESSORS[value](b"")
    except UnknownCompression:
        return False
    return True


def _compress_zstd(data: bytes) -> bytes:
    library = _optional("zstandard", "application/zstd", "pip install zstandard")
    return bytes(library.ZstdCompressor().compress(data))


_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": zlib.compress,
    "application/x-bz2": bz2.compress,
    "application/x-lzma": lzma.compress,
    "application/x-brotli": lambda data: bytes(_brotli().compress(data)),
    "application/zstd": _compress_zstd,
}
_DECOMPRESSORS: dict[str, Callable[[bytes, int], bytes]] = {
    "application/x-gzip": _inflate_zlib,
    "application/x-bz2": _inflate_bz2,
    "application/x-lzma": _inflate_lzma,
    "application/x-brotli": _inflate_brotli,
    "application/zstd": _inflate_zstd,
}
