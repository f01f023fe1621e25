"""The filter line: from text to a test on records."""

from __future__ import annotations

from collections.abc import Callable

from dissectors.engine.decoded import Decoded
from vmbus.errors import VmbusError


class FilterError(VmbusError):
    """The text is not a filter."""


def compile_filter(text: str) -> Callable[[Decoded], bool] | None:
    """A test for the text; None for an empty one, which passes everything.

    Words, all of which must be found in a record's channel, protocol or summary, whatever their case.
    """
    words = text.lower().split()
    if not words:
        return None

    def passes(item: Decoded) -> bool:
        line = f"{item.channel_name} {item.protocol} {item.summary}".lower()
        return all(word in line for word in words)

    return passes
