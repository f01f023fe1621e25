"""What the packet list shows: the decoded records in order, and which of them pass the filter.

A record is decoded in order when it comes, because decoding is stateful; its summary line is made when the row is
drawn.  Only the newest ``MAX_ROWS`` are kept: a live view runs for days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dissectors.engine.decoded import Decoded
from dissectors.engine.session import Session
from vmbus.capture.reader import Record

MAX_ROWS = 500_000
_TRIM = 50_000

RowFilter = Callable[[Decoded], bool]


class Rows:
    """``visible`` are the records that pass the filter, oldest first."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.all: list[Decoded] = []
        self.visible: list[Decoded] = []
        self.trimmed = 0
        """Old records that are not kept any more."""
        self.start_ns = 0
        self._filter: RowFilter | None = None

    @property
    def is_filtered(self) -> bool:
        return self._filter is not None

    def feed(self, records: Iterable[Record]) -> list[Decoded]:
        """Decode new records and keep them; returns all of them, visible or not."""
        decoded = [self.session.feed(record) for record in records]
        if decoded and not self.start_ns:
            self.start_ns = decoded[0].time_ns
        self.all += decoded
        if self._filter is None:
            self.visible = self.all
        else:
            self.visible += [item for item in decoded if self._filter(item)]
        if len(self.all) > MAX_ROWS:
            self._trim()
        return decoded

    def _trim(self) -> None:
        self.trimmed += _TRIM
        last = self.all[_TRIM - 1].number
        del self.all[:_TRIM]
        if self._filter is not None:
            self.visible = [item for item in self.visible if item.number > last]

    def set_filter(self, row_filter: RowFilter | None) -> None:
        """Show only what passes; None shows everything."""
        self._filter = row_filter
        self.visible = self.all if row_filter is None else [item for item in self.all if row_filter(item)]
