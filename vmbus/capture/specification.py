"""Keeps the tables in docs/capture-format.md equal to the declarations in ``vmbus.wire.capture``.

``python -m vmbus.capture.specification docs/capture-format.md`` writes them anew, each between ``<!-- table NAME
-->`` and ``<!-- end of table -->``; a test compares.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from vmbus.wire import capture
from vmbus.wire.schema import Format
from vmbus.wire.tables import table, values_table

_TABLE = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def with_tables(text: str) -> str:
    """The text with each table as its declaration has it."""
    return _TABLE.sub(lambda match: match[1] + _table(match[2]) + match[3], text)


def _table(name: str) -> str:
    declared = getattr(capture, name)
    lines = table(declared) if issubclass(declared, Format) else values_table(declared)
    return "\n".join(f"#{line}" if line.startswith("## ") else line for line in lines) + "\n\n"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
