"""What the expert rules say of an archive's records.

The rules look at every record in order, which costs some thirty microseconds each: so they run when somebody looks
for a problem, as far as that takes, and what they found is kept.
"""

from __future__ import annotations

from dissectors.engine.archive import Archive
from dissectors.engine.session import Session
from dissectors.rules.checker import Checker, Finding

_SLICE = 500


class Findings:
    """Only one thread at a time may call ``advance``; any may read."""

    def __init__(self, archive: Archive) -> None:
        self.checked = 0
        """So many records have been looked at."""
        self._archive = archive
        self._session = Session(keeps_past_lives=False)
        self._checker = Checker(self._session)
        self._found: dict[int, list[Finding]] = {}
        self._is_finished = False

    def of(self, index: int) -> list[Finding]:
        """What was found at a record so far."""
        return self._found.get(index, [])

    def advance(self, end: int) -> bool:
        """Look at the next records, up to ``end``; False when there is nothing left to look at."""
        last = min(end, self.checked + _SLICE, len(self._archive))
        for index in range(self.checked, last):
            self._keep(self._checker.feed(self._archive.feed(self._session, index)))
            self.checked = index + 1
        return self.checked < min(end, len(self._archive))

    def finish(self) -> None:
        """There is no more to come: say what is wrong about that, once."""
        if not self._is_finished and self.checked == len(self._archive):
            self._is_finished = True
            self._keep(self._checker.finish())

    def _keep(self, found: list[Finding]) -> None:
        for finding in found:
            self._found.setdefault(finding.number - 1, []).append(finding)
