"""What the captures in ``captures/`` decode to: the text that their ``reference.txt`` holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dissectors.engine.render import record_line, tree_lines
from dissectors.engine.source import decode_capture


def reference_lines(capture: Path, *, fields: bool) -> Iterator[str]:
    """One line for each record, and with ``fields`` its whole tree; problems in between."""
    start_ns: int | None = None
    for item in decode_capture(str(capture)):
        start_ns = item.time_ns if start_ns is None else start_ns
        yield record_line(item, start_ns)
        yield from (f"       ! {problem}" for problem in item.problems)
        if fields:
            yield from tree_lines(item.tree)
