"""The smallest ISO 9660 image that Linux mounts: one directory with a few files. For tests of DVD drives.

Source: ECMA-119 (volume descriptors 8.4, directory records 9.1, path tables 9.4).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

BLOCK = 2048
_FIRST_FILE = 21
"""Blocks 16 and 17 are volume descriptors, 18 and 19 the path tables, 20 the root directory."""


def _both(value: int, size: int) -> bytes:
    """An integer in both byte orders, as ISO 9660 likes it."""
    return value.to_bytes(size, "little") + value.to_bytes(size, "big")


def _record(name: bytes, block: int, size: int, *, is_directory: bool = False) -> bytes:
    date = bytes((100, 1, 1, 0, 0, 0, 0))
    body = (
        b"\0" + _both(block, 4) + _both(size, 4) + date + bytes((2 if is_directory else 0, 0, 0)) + _both(1, 2)
        + bytes((len(name),)) + name
    )  # fmt: skip
    body += b"\0" * ((len(body) + 1) % 2)
    return bytes((len(body) + 1,)) + body


def build_iso(files: Mapping[str, bytes], *, label: str = "VMBUS") -> bytes:
    """An image with these files in its root. Names are like ``HELLO.TXT``; Linux shows them in lower case."""
    records = _record(b"\0", 20, BLOCK, is_directory=True) + _record(b"\1", 20, BLOCK, is_directory=True)
    data = bytearray()
    for name, content in files.items():
        records += _record(f"{name};1".encode(), _FIRST_FILE + len(data) // BLOCK, len(content))
        data += content + bytes(-len(content) % BLOCK)
    if len(records) > BLOCK:
        raise ValueError("too many files for one block of directory")
    root = _record(b"\0", 20, BLOCK, is_directory=True)
    total = _FIRST_FILE + len(data) // BLOCK
    volume = bytearray(BLOCK)
    volume[:8] = b"\1CD001\1\0"
    volume[40:72] = label.ljust(32).encode()
    volume[80:88] = _both(total, 4)
    volume[120:132] = _both(1, 2) + _both(1, 2) + _both(BLOCK, 2)
    volume[132:140] = _both(10, 4)
    volume[140:148] = struct.pack("<I", 18) + bytes(4)
    volume[148:156] = struct.pack(">I", 19) + bytes(4)
    volume[156 : 156 + len(root)] = root
    volume[881] = 1
    end = b"\xffCD001\1".ljust(BLOCK, b"\0")
    paths = [(bytes((1, 0)) + struct.pack(order + "IH", 20, 1) + b"\0\0").ljust(BLOCK, b"\0") for order in ("<", ">")]
    head = bytes(16 * BLOCK) + bytes(volume) + end + b"".join(paths) + records.ljust(BLOCK, b"\0")
    return head + bytes(data)
