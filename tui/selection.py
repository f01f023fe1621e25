"""Which records pass a filter: found in order by a thread of its own, so that a slow filter stops nobody."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable

import numpy as np

from dissectors.engine.archive import Archive, ArchiveReader
from dissectors.engine.decoded import Decoded
from vmbus.wire.capture import RecordKind

RowFilter = Callable[[Decoded], bool]

_SLICE = 512
"""Records that are looked at before the outcome shows."""
_WIDE_SLICE = 1 << 16
"""The same when a channel is all that is asked for, which takes no decoding."""
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
        last = min(len(self._archive), first + (_SLICE if self._wanted else _WIDE_SLICE))
        if first == last:
            return False
        wanted = self._wanted
        candidates = self._candidates(first, last)
        self.matches.extend(index for index in candidates if wanted is None or wanted(reader.item(index)))
        self.looked_at = last
        return True

    def _candidates(self, first: int, last: int) -> list[int]:
        if not self._channel:
            return list(range(first, last))
        columns = self._archive.store.columns
        mine = columns.channel[first:last] == self._channel
        for place in np.flatnonzero(columns.kind[first:last] == _MESSAGE).tolist():
            about = self._archive.channel_of_message(first + place)
            mine[place] = about is not None and about.channel_id == self._channel
        found: list[int] = (np.flatnonzero(mine) + first).tolist()
        return found
