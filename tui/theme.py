"""Colours: what a protocol, a direction or a problem looks like."""

from __future__ import annotations

from functools import lru_cache

from rich.style import Style

from dissectors.engine.decoded import Decoded
from vmbus.wire.capture import RecordKind

_PROTOCOLS = {
    "control": "#d7a65f",
    "vstor": "#6fb3d2",
    "scsi": "#6fb3d2",
    "nvsp": "#8fc77f",
    "rndis": "#8fc77f",
    "ring": "#9a9a9a",
    "hvsock": "#c78fd0",
}
_OTHER = "#c0c0c0"
_PROBLEM = "#e06c75"


@lru_cache(maxsize=64)
def _style(colour: str) -> Style:
    return Style(color=colour)


def protocol_style(item: Decoded) -> Style:
    """The tint of a record's protocol, or that of a problem."""
    if item.notes:
        return _style(_PROBLEM)
    if item.kind in (RecordKind.SIGNAL, RecordKind.REGISTER):
        return _style(_PROTOCOLS["ring"])
    return _style(_PROTOCOLS.get(item.protocol, _OTHER))
