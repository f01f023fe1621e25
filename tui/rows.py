"""What the packet list shows: all records of an archive, or those of a selection, up to where the view was paused."""

from __future__ import annotations

from bisect import bisect_left

from dissectors.engine.archive import Archive, ArchiveReader
from dissectors.engine.decoded import Decoded
from tui.selection import Selection


class Rows:
    """Rows count from 0, and so do the records that they show (``index``).

    Both grow at their end while the user interface looks; no row ever changes its place.
    """

    def __init__(self, archive: Archive, reader: ArchiveReader) -> None:
        self.archive = archive
        self.selection: Selection | None = None
        """None: all records."""
        self._reader = reader
        self._frozen: int | None = None

    def __len__(self) -> int:
        if self.selection is None:
            return self.last
        matches = self.selection.matches
        return len(matches) if self._frozen is None else bisect_left(matches, self._frozen)

    @property
    def is_paused(self) -> bool:
        return self._frozen is not None

    @property
    def last(self) -> int:
        """How many records there are for us: all, or those that there were when the view was paused."""
        return len(self.archive) if self._frozen is None else self._frozen

    def pause(self, is_paused: bool) -> None:
        """Keep the rows as they are, or show again what comes."""
        self._frozen = len(self.archive) if is_paused else None

    def index(self, row: int) -> int:
        """The record that a row shows."""
        return row if self.selection is None else self.selection.matches[row]

    def row_of(self, index: int) -> int:
        """The row that shows a record, or the next one that is shown."""
        return index if self.selection is None else bisect_left(self.selection.matches, index)

    def item(self, row: int) -> Decoded:
        """The record of a row, decoded."""
        return self._reader.item(self.index(row))

    def select(self, selection: Selection | None) -> None:
        """Show a selection's records from now on."""
        if self.selection is not None:
            self.selection.stop()
        self.selection = selection
        if selection is not None:
            selection.start()

    @property
    def start_ns(self) -> int:
        """The time of the first record."""
        return int(self.archive.store.columns.time[0]) if len(self.archive) else 0
