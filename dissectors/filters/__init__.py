"""The display-filter language: ``vstor.cdb.opcode == READ_10 && latency > 5ms && channel ~ "scsi"``.

    wanted = Filter('vstor.cdb.opcode == READ_10 && latency > 5ms')
    slow = [item for item in session.feed_all(records) if wanted(item)]

docs/filters.md describes the language.  A wrong filter raises :class:`FilterError`, which says where and what.
"""

from __future__ import annotations

from dissectors.engine.decoded import Decoded
from dissectors.filters.compile import compile_filter
from dissectors.filters.errors import FilterError
from dissectors.filters.fields import completions
from dissectors.filters.grammar import parse

__all__ = ["Filter", "FilterError", "completions"]


class Filter:
    """A compiled filter: call it with a decoded record."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._predicate = compile_filter(parse(text), text)

    def __call__(self, item: Decoded) -> bool:
        return self._predicate(item)

    def __repr__(self) -> str:
        return f"Filter({self.text!r})"
