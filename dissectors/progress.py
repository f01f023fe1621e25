"""How far a long reading is: a bar on stderr, when that is a terminal, with rate and time left. rich draws it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE = 0.5
"""Seconds before a bar appears at all: what is done sooner needs none."""
_REDRAW = 0.1


class ProgressBar:
    """Of one reading of ``total`` bytes. Nothing is shown unless ``wanted`` and stderr is a terminal.

    Where stdout is a terminal too, ``hidden`` takes the bar away while something is printed there.
    """

    def __init__(self, total: int, *, wanted: bool = True) -> None:
        self._total = max(total, 1)
        self._is_wanted = wanted and sys.stderr.isatty()
        self._began = time.monotonic()
        self._drawn = 0.0
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def advance(self, done: int, records: int) -> None:
        """So many bytes have been read, which were so many records."""
        now = time.monotonic()
        if not self._is_wanted or now - self._began < _PATIENCE or now - self._drawn < _REDRAW:
            return
        self._drawn = now
        if self._progress is None:
            self._start()
        assert self._progress is not None and self._task is not None
        rate = records / (now - self._began)
        self._progress.update(self._task, completed=min(done, self._total), records=f"{rate:,.0f} records/s")
        self._progress.refresh()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """While something is printed."""
        shown, self._progress = self._progress, None
        if shown is not None and sys.stdout.isatty():
            shown.stop()
        yield
        if shown is not None and sys.stdout.isatty():
            sys.stdout.flush()
            shown.start()
        self._progress = shown

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[records]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,  # no thread: processes are forked beside it
            transient=True,
        )
        self._task = self._progress.add_task("", total=self._total, records="", start=True)
        self._progress.start()
