"""A buffer in pieces, as a guest's scattered pages are: a sequence of memoryviews that are together one buffer."""

from __future__ import annotations

from collections.abc import Sequence

from vmbus.memory import PageViews

Views = Sequence[memoryview]
"""Pieces of memory that are together one buffer, in order; as ``os.preadv`` takes them."""


def total_length(views: Views) -> int:
    """The bytes of the whole buffer."""
    return views.length if isinstance(views, PageViews) else sum(map(len, views))


def advance(views: Views, count: int) -> list[memoryview]:
    """What is left of the buffer after its first ``count`` bytes."""
    rest = list(views)
    while rest and count >= len(rest[0]):
        count -= len(rest.pop(0))
    if rest and count:
        rest[0] = rest[0][count:]
    return rest


def cut(views: Views, size: int) -> list[memoryview]:
    """The first ``size`` bytes of the buffer."""
    if size == total_length(views):
        return list(views)
    found: list[memoryview] = []
    for view in views:
        if size <= 0:
            break
        found.append(view if len(view) <= size else view[:size])
        size -= len(view)
    return found


def scatter(data: bytearray | bytes, views: Views) -> None:
    """Copy ``data`` into a buffer of the same length, or shorter."""
    source = memoryview(data)
    for view in views:
        view[:] = source[: len(view)]
        source = source[len(view) :]
