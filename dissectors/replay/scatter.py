"""Data of a capture, put back into the memory that it was recorded from."""

from __future__ import annotations

from collections.abc import Iterable


def scatter(views: Iterable[memoryview], start: int, data: bytes) -> None:
    """Write ``data`` into pieces of memory, from byte ``start`` of all of them on, as far as they have room for it."""
    for view in views:
        if start >= len(view):
            start -= len(view)
            continue
        part = data[: len(view) - start]
        view[start : start + len(part)] = part
        data, start = data[len(part) :], 0
        if not data:
            return
