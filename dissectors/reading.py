"""One reading of a capture's file from end to end, in parts: by this process or several, with a progress bar.

The commands that print or count go through here; what they do with a part is theirs. Pipes and live streams are
decoded as they come instead, by ``dissectors.engine.source``.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, TextIO

import numpy as np

from dissectors.engine.decoded import Decoded
from dissectors.engine.parts import PART_BYTES, Part, PartReader, Passage
from dissectors.jobs import job_count, run_parts
from dissectors.progress import ProgressBar
from vmbus.capture.store import CaptureStore
from vmbus.capture.walk import Damage
from vmbus.wire.protocols import Protocol

if TYPE_CHECKING:
    from dissectors.filters import Filter

Show = Callable[[Part, TextIO], None]
"""Prints what is to be printed of a part."""


class Reading:
    """Of the file ``source``; ``jobs`` 0 means as many processes as are worth while."""

    def __init__(
        self,
        source: str,
        decode_as: Mapping[int, Protocol] | None = None,
        *,
        jobs: int = 1,
        progress: bool = False,
        on_damage: Callable[[Damage], None] | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self.jobs = job_count(jobs, source)
        self.store = CaptureStore.open(source, windowed=True)
        self.passage = Passage(self.store, decode_as)
        self.bar = ProgressBar(self.store.file_size, wanted=progress)
        self._on_damage = on_damage
        self._part_bytes = part_bytes

    def parts(self) -> Iterator[Part]:
        """The parts, for whoever decodes them here."""
        try:
            for part in self.passage.parts(self._part_bytes):
                self._tell(part)
                yield part
        finally:
            self.bar.close()
            self.store.close()

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

        out.flush()
        try:
            for part, shown in run_parts(self.passage.parts(self._part_bytes), work, self.jobs):
                self._tell(part)
                shutil.copyfileobj(shown, out.buffer)
                out.flush()
        finally:
            self.bar.close()
            self.store.close()

    def _tell(self, part: Part) -> None:
        self.bar.advance(part.end, part.first + len(part))
        if part.damage and self._on_damage is not None:
            with self.bar.hidden():
                for damage in part.damage:
                    self._on_damage(damage)


def chosen_items(part: Part, wanted: Filter | None) -> Iterator[Decoded]:
    """The decoded records of a part that a filter lets through, or all."""
    reader = PartReader(part)
    if wanted is None:
        for index in range(len(part)):
            yield reader.item(index)
        return
    may, must = wanted.narrow(part)
    for index in np.flatnonzero(may).tolist():
        item = reader.item(index)
        if must[index] or wanted(item):
            yield item
