"""Builds ``trace.dat`` files as trace-cmd writes them, from formats and ring-buffer pages."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import pytest

PAGE = 4096
HEADER_PAGE = (
    "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n"
    "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n"
)


def _sized(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _formats(formats: dict[str, list[str]]) -> bytes:
    parts = [struct.pack("<I", len(formats))]
    for system, texts in formats.items():
        parts += [system.encode() + b"\0", struct.pack("<I", len(texts)), *map(_sized, texts)]
    return b"".join(parts)


def _headers(page: str, event: str) -> bytes:
    return b"header_page\0" + _sized(page) + b"header_event\0" + _sized(event)


def version_6(formats: dict[str, list[str]], pages: list[bytes], header_page: str = HEADER_PAGE) -> bytes:
    """A file of version 6: ``pages`` are all pages of each processor."""
    out = (
        b"\x17\x08\x44tracing6\0\0\x08" + struct.pack("<I", PAGE) + _headers(header_page, "# compressed entry header\n")
    )
    out += struct.pack("<I", 0) + _formats(formats)
    out += struct.pack("<IIQI", 0, 0, 0, len(pages)) + b"options  \0" + struct.pack("<HI4sH", 2, 4, b"abcd", 0)
    out += b"flyrecord\0"
    at = -(-(len(out) + 16 * len(pages)) // PAGE) * PAGE
    start = at
    for data in pages:
        out += struct.pack("<QQ", at, len(data))
        at += len(data)
    return out.ljust(start, b"\0") + b"".join(pages)


def version_7(formats: dict[str, list[str]], pages: list[bytes], compression: str = "none") -> bytes:
    """A file of version 7 whose metadata is compressed as told."""
    out = b"\x17\x08\x44tracing7\0\0\x08" + struct.pack("<I", PAGE) + compression.encode() + b"\0" + b"1\0"
    first = len(out)
    out += bytes(8)

    def section(number: int, content: bytes) -> bytes:
        if compression == "none":
            return struct.pack("<HHIQ", number, 0, 0, len(content)) + content
        squeezed = zlib.compress(content)
        chunk = struct.pack("<III", 1, len(squeezed), len(content)) + squeezed
        return struct.pack("<HHIQ", number, 1, 0, len(chunk)) + chunk

    options = b""
    for number, content in ((16, _headers(HEADER_PAGE, "event")), (18, _formats(formats))):
        options += struct.pack("<HIQ", number, 8, len(out))
        out += section(number, content)
    where = len(out)
    out += struct.pack("<HHIQ", 3, 0, 0, sum(map(len, pages)))
    buffer = struct.pack("<Q", where) + b"\0local\0" + struct.pack("<II", PAGE, len(pages))
    for processor, data in enumerate(pages):
        buffer += struct.pack("<IQQ", processor, len(out), len(data))
        out += data
    options += struct.pack("<HI", 3, len(buffer)) + buffer
    options += struct.pack("<HIQ", 0, 8, 0)
    return out[:first] + struct.pack("<Q", len(out)) + out[first + 8 :] + section(0, options)


@pytest.fixture
def trace_dat() -> Callable[..., bytes]:
    """``trace_dat(formats, pages)`` for version 6; with ``version=7`` and ``compression=`` for the other."""

    def build(formats: dict[str, list[str]], pages: list[bytes], version: int = 6, **options: str) -> bytes:
        return version_6(formats, pages, **options) if version == 6 else version_7(formats, pages, **options)

    return build
