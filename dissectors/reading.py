"""One reading of a capture's file from end to end, in parts: by this process or several, with a progress bar.

The commands that print or count go through here; what they do with a part is theirs. What prints records of pipes and
live streams decodes them as they come instead, by ``dissectors.engine.source``.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

from dissectors.engine.decoded import Decoded
from dissectors.engine.parts import Part, PartReader
from dissectors.engine.passage import PART_BYTES, Passage
from dissectors.jobs import Work, job_count, run_parts
from dissectors.progress import ProgressBar
from vmbus.capture.store import CaptureStore
from vmbus.capture.walk import Damage
from vmbus.wire.protocols import Protocol

if TYPE_CHECKING:
    from dissectors.filters import Filter

Show = Callable[[Part, TextIO], None]
"""Prints what is to be printed of a part."""


class Reading:
    """Of the file ``source``, or of what a pipe or stream sent to its end, which is spooled first.

    ``jobs`` 0 means as many processes as are worth while.
    """

    def __init__(
        self,
        source: str,
        decode_as: Mapping[int, Protocol] | None = None,
        *,
        wanted: Filter | None = None,
        jobs: int = 1,
        progress: bool = False,
        on_damage: Callable[[Damage], None] | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self.jobs = job_count(jobs, source)
        self.store = CaptureStore.open(source, windowed=True)
        self.passage = Passage(self.store, decode_as)
        self.bar = ProgressBar(self.store.file_size, wanted=progress and not self.store.is_live)
        self.wanted = wanted
        self._on_damage = on_damage
        self._part_bytes = part_bytes

    def parts(self) -> Iterator[Part]:
        """The parts, for whoever decodes them here."""
        try:
            for part in self._narrowed():
                self._tell(part)
                yield part
        finally:
            self._close()

    def show(self, show: Show, out: TextIO) -> None:
        """Write what ``show`` prints of each part to ``out``, in order."""
        if self.jobs == 1:
            for part in self.parts():
                show(part, out)
            return

        def work(part: Part, file: BinaryIO) -> None:
            text = io.TextIOWrapper(file, encoding=out.encoding, errors=out.errors, newline="\n")
            show(part, text)
            text.flush()
            text.detach()

        for shown in self.run(work):
            shutil.copyfileobj(shown, out.buffer)
            out.flush()

    def run(self, work: Work, look: Callable[[Part], object] | None = None) -> Iterator[BinaryIO]:
        """What ``work`` wrote for each part, in order; ``look`` sees each part before, in this process."""
        try:
            for part, written in run_parts(self._narrowed(look), work, self.jobs, self._effort):
                self._tell(part)
                yield written
        finally:
            self._close()

    def items(self, part: Part) -> Iterator[Decoded]:
        """The records of a part that are wanted, decoded."""
        reader = PartReader(part)
        if part.wanted is None or self.wanted is None:
            for index in range(len(part)):
                yield reader.item(index)
            return
        may, must = part.wanted
        for index in np.flatnonzero(may).tolist():
            item = reader.item(index)
            if must[index] or self.wanted(item):
                yield item

    def passing(self, part: Part) -> NDArray[np.bool_]:
        """Which records of a part are wanted."""
        if part.wanted is None or self.wanted is None:
            return np.ones(len(part), np.bool_)
        may, must = part.wanted
        passing, reader = must.copy(), PartReader(part)
        for index in np.flatnonzero(may & ~must).tolist():
            passing[index] = self.wanted(reader.item(index))
        return passing

    def _narrowed(self, look: Callable[[Part], object] | None = None) -> Iterator[Part]:
        for part in self.passage.parts(self._part_bytes):
            if self.wanted is not None:
                part.wanted = self.wanted.narrow(part)
            if look is not None:
                look(part)
            yield part

    def _effort(self, part: Part) -> int:
        return len(part) if part.wanted is None else int(part.wanted[0].sum())

    def _tell(self, part: Part) -> None:
        self.bar.advance(part.end, part.first + len(part))
        if part.damage and self._on_damage is not None:
            with self.bar.hidden():
                for damage in part.damage:
                    self._on_damage(damage)

    def _close(self) -> None:
        self.bar.close()
        self.store.close()
