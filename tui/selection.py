"""Which records pass a filter: found in order by a thread of its own, so that a slow filter stops nobody."""

from __future__ import annotations

import threading
from array import array
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dissectors.engine.archive import Archive, ArchiveReader
from dissectors.engine.decoded import Decoded
from dissectors.engine.span import Span
from vmbus.wire.capture import RecordKind


class RowFilter(Protocol):
    """A filter: ``dissectors.filters.Filter`` is one."""

    def __call__(self, item: Decoded, /) -> bool: ...

    def narrow(self, span: Span, /) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which records of a span can fit, and which do for certain."""
        ...


_SLICE = 512
"""Records that are decoded before the outcome shows."""
_WIDE_SLICE = 1 << 13
"""Records that are looked at by their columns, which takes about a millisecond, before the outcome shows."""
_IDLE_SECONDS = 0.03
_MESSAGE = int(RecordKind.MESSAGE)


class Selection:
    """The records of ``archive`` on channel ``channel`` (0: any) that ``wanted`` (None: any) lets through."""

    def __init__(self, archive: Archive, *, channel: int = 0, wanted: RowFilter | None = None) -> None:
        self.matches = array("I")
        """Indices of records, rising."""
        self.looked_at = 0
        """So many records have been looked at."""
        self._archive = archive
        self._channel = channel
        self._wanted = wanted
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vmbus-filter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        reader = ArchiveReader(self._archive)
        while not self._stopped.is_set():
            if not self.advance(reader):
                self._stopped.wait(_IDLE_SECONDS)

    def advance(self, reader: ArchiveReader) -> bool:
        """Look at the next slice; False if there is none."""
        first = self.looked_at
        last = min(len(self._archive), first + _WIDE_SLICE)
        if first == last:
            return False
        may, must = self._narrow(first, last)
        doubtful = np.flatnonzero(may & ~must)
        if len(doubtful) > _SLICE:
            last = first + int(doubtful[_SLICE])
        wanted = self._wanted
        for place in np.flatnonzero(may[: last - first]).tolist():
            if must[place] or (wanted is not None and wanted(reader.item(first + place))):
                self.matches.append(first + place)
        self.looked_at = last
        return True

    def _narrow(self, first: int, last: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which records can be wanted, and which are for certain: the others need not be decoded."""
        mine = self._of_channel(first, last)
        if self._wanted is None:
            return mine, mine
        may, must = self._wanted.narrow(self._archive.span(first, last))
        return may & mine, must & mine

    def _of_channel(self, first: int, last: int) -> NDArray[np.bool_]:
        if not self._channel:
            return np.ones(last - first, np.bool_)
        columns = self._archive.store.columns
        mine: NDArray[np.bool_] = columns.channel[first:last] == self._channel
        for place in np.flatnonzero(columns.kind[first:last] == _MESSAGE).tolist():
            about = self._archive.channel_of_message(first + place)
            mine[place] = about is not None and about.channel_id == self._channel
        return mine
