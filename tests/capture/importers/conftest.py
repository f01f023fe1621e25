"""Builds files as other tools write them: ``trace.dat`` as trace-cmd does, dumps as QEMU and makedumpfile do."""

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


def elf_core(image: bytes) -> bytes:
    """An ELF core of a machine, its memory in two segments."""
    cut = len(image) // 2 & -PAGE
    offset = 64 + 2 * 56
    header = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    first = struct.pack("<IIQQQQQQ", 1, 0, offset, 0, 0, cut, cut, 0)
    second = struct.pack("<IIQQQQQQ", 1, 0, offset + cut, 0, cut, len(image) - cut, len(image) - cut, 0)
    return header + first + second + image


VMCOREINFO = b"""OSRELEASE=6.12.0
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffffff82200000
SYMBOL(_stext)=ffffffff81000000
NUMBER(phys_base)=0
NUMBER(pgtable_l5_enabled)=0
NUMBER(KERNEL_IMAGE_SIZE)=1073741824
KERNELOFFSET=0
"""


def kdump(image: bytes) -> bytes:
    """What ``makedumpfile -c -d 1`` makes of memory: pages compressed with zlib, and those of zeros left out."""
    count = len(image) // PAGE
    pages = {number: page for number in range(count) if any(page := image[number * PAGE : (number + 1) * PAGE])}
    bitmap = sum(1 << number for number in pages).to_bytes(-(-count // 8), "little")
    blocks = -(-len(bitmap) // PAGE)
    names = b"".join(name.ljust(65, b"\0") for name in (b"Linux", b"guest", b"6.12.0", b"#1", b"x86_64", b""))
    header = (b"KDUMP   " + struct.pack("<i", 6) + names).ljust(424, b"\0")
    header += struct.pack("<IiiIIIIIIi", 1, PAGE, 1, 2 * blocks, count, 0, 0, 0, 0, 1)
    note = struct.pack("<III12s", 11, len(VMCOREINFO), 0, b"VMCOREINFO") + VMCOREINFO
    at = PAGE + 256
    places = (at + 24, len(VMCOREINFO), at, len(note) + 3 & -4)
    second = struct.pack("<QiiQQqQqQqQQQQ", 0, 1, 0, 0, 0, *places, 0, 0, 0, count, count)
    out = header.ljust(PAGE, b"\0") + (second.ljust(256, b"\0") + note).ljust(PAGE, b"\0")
    out += 2 * bitmap.ljust(blocks * PAGE, b"\0")
    at = len(out) + 24 * len(pages)
    descriptors, data = [], []
    for page in pages.values():
        data.append(zlib.compress(page, 1))
        descriptors.append(struct.pack("<qIIQ", at, len(data[-1]), 1, 0))
        at += len(data[-1])
    return b"".join([out, *descriptors, *data])


@pytest.fixture(params=["raw", "ELF core", "kdump"])
def as_dump(request: pytest.FixtureRequest) -> Callable[[bytes], bytes]:
    """Makes a dump of a machine from its memory, of one kind after the other."""
    makers: dict[str, Callable[[bytes], bytes]] = {"raw": lambda image: image, "ELF core": elf_core, "kdump": kdump}
    return makers[request.param]
