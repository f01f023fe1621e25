"""What the expert rules say of an archive's records.

The rules look at every record in order, which costs some thirty microseconds each: so they run when somebody looks
for a problem, as far as that takes, and what they found is kept.
"""

from __future__ import annotations

from dissectors.engine.archive import Archive
from dissectors.engine.session import Session
from dissectors.rules.checker import Checker, Finding
from vmbus.capture.columns import RecordMark

_UNUSUAL = int(RecordMark.PROBLEM | RecordMark.HAS_OPTIONS)
_SLICE = 500


class Findings:
    """Only one thread at a time may call ``advance``; any may read."""

    def __init__(self, archive: Archive) -> None:
        self.checked = 0
        """So many records have been looked at."""
        self._archive = archive
        self._session = Session()
        self._checker = Checker(self._session)
        self._found: dict[int, list[str]] = {}
        self._is_finished = False

    def of(self, index: int) -> list[str]:
        """What was found at a record so far, one line each: rule, what happened, where to look."""
        return self._found.get(index, [])

    def advance(self, end: int) -> bool:
        """Look at the next records, up to ``end``; False when there is nothing left to look at."""
        last = min(end, self.checked + _SLICE, len(self._archive))
        store = self._archive.store
        for index in range(self.checked, last):
            if store.columns.flags[index] & _UNUSUAL:
                item = self._session.feed(store.record(index))
            else:
                item = self._session.feed_bytes(store.data(index), int(store.columns.time[index]), index + 1)
            self._keep(self._checker.feed(item))
            self.checked = index + 1
        return self.checked < min(end, len(self._archive))

    def finish(self) -> None:
        """There is no more to come: say what is wrong about that, once."""
        if not self._is_finished and self.checked == len(self._archive):
            self._is_finished = True
            self._keep(self._checker.finish())

    def _keep(self, found: list[Finding]) -> None:
        for finding in found:
            self._found.setdefault(finding.number - 1, []).append(
                f"{finding.rule}: {finding.happened}. {finding.look_at}"
            )
