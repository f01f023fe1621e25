"""The display-filter language: ``vstor.cdb.opcode == READ_10 && latency > 5ms && channel ~ "scsi"``.

    wanted = Filter('vstor.cdb.opcode == READ_10 && latency > 5ms')
    slow = [item for item in session.feed_all(records) if wanted(item)]

docs/filters.md describes the language.  A wrong filter raises :class:`FilterError`, which says where and what.

Over the columns of an index, ``Filter.narrow`` says first which records need to be decoded at all::

    may, must = wanted.narrow(part)
    reader = PartReader(part)
    found = [index for index in np.flatnonzero(may).tolist() if must[index] or wanted(reader.item(index))]
"""

from __future__ import annotations

from dissectors.engine.decoded import Decoded
from dissectors.engine.span import Span
from dissectors.filters.compile import compile_filter
from dissectors.filters.errors import FilterError
from dissectors.filters.fields import completions
from dissectors.filters.grammar import parse
from dissectors.filters.narrow import Verdict

__all__ = ["Filter", "FilterError", "completions"]


class Filter:
    """A compiled filter: call it with a decoded record."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._predicate, self._narrow = compile_filter(parse(text), text)

    def __call__(self, item: Decoded) -> bool:
        return self._predicate(item)

    def narrow(self, span: Span) -> Verdict:
        """Which records of a span can fit, and which do for certain."""
        return self._narrow(span)

    def __repr__(self) -> str:
        return f"Filter({self.text!r})"
