"""The columns of a capture's index: 42 bytes for each record, as numpy arrays that grow.

A view of a column that somebody holds stays what it was when more records come.
"""

from __future__ import annotations

import mmap
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLUMNS: dict[str, str] = {
    "offset": "<u8",
    "time": "<i8",
    "transaction_id": "<u8",
    "channel": "<u4",
    "length": "<u4",
    "original_length": "<u4",
    "kind": "u1",
    "direction": "u1",
    "subtype": "<u2",
    "flags": "<u2",
}
"""Name and type of each column.

``offset``: where the record's block starts in the file. ``time``: nanoseconds since 1970. ``transaction_id``: of
packets and external data, else 0. ``length``: bytes of pseudo-header and body in the file, ``original_length``:
before they were cut. ``kind``: ``RecordKind``, 0 if the record is not ours. ``subtype``: a packet's type, a control
message's type, a note's kind. ``flags``: :class:`RecordMark`.
"""

BYTES_PER_RECORD = sum(np.dtype(kind).itemsize for kind in COLUMNS.values())

_FIRST_CAPACITY = 1 << 16


class RecordMark(IntFlag):
    """The ``flags`` column."""

    SNAPSHOT = 1
    """It repeats what led to the state in which the capture, or one of its sections, starts."""
    PROBLEM = 2
    """It is not one of our records, or not a sound one: :meth:`CaptureStore.record` says why."""
    WANTS_COMPLETION = 4
    """A packet that asks for a completion."""
    HAS_OPTIONS = 8
    """Its block says more than the direction: a comment, or how many records were lost before it."""


UNUSUAL = int(RecordMark.PROBLEM | RecordMark.HAS_OPTIONS)
"""Of a record with one of these marks the bytes alone do not say all: :meth:`CaptureStore.record` does."""


class Columns:
    """Growing columns; attributes ``offset``, ``time`` and so on are views of what is there."""

    def __init__(self) -> None:
        self._count = 0
        self._arrays: dict[str, NDArray[Any]] = {name: _room(_FIRST_CAPACITY, kind) for name, kind in COLUMNS.items()}

    def __len__(self) -> int:
        return self._count

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name.startswith("_") or name not in COLUMNS:
            raise AttributeError(name)
        return self._arrays[name][: self._count]

    def append(self, count: int, values: dict[str, NDArray[Any] | int]) -> None:
        """Add ``count`` records; a number stands for a column of it, a column that is left out is 0."""
        end = self._count + count
        if end > len(self._arrays["offset"]):
            self._grow(end)
        for name, array in self._arrays.items():
            array[self._count : end] = values.get(name, 0)
        self._count = end

    def _grow(self, needed: int) -> None:
        capacity = max(needed, 2 * len(self._arrays["offset"]))
        for name, array in self._arrays.items():
            larger = _room(capacity, array.dtype.str)
            larger[: self._count] = array[: self._count]
            self._arrays[name] = larger


def _room(capacity: int, kind: str) -> NDArray[Any]:
    """An empty column. Its pages come from the system when they are written to, and go back when it is dropped.

    malloc would keep the pages of outgrown columns: a quarter more for a million records.
    """
    area = mmap.mmap(-1, capacity * np.dtype(kind).itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(area, kind)
