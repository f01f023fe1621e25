"""Colours: what a protocol, a problem, a mark or a note looks like, on dark and on light grounds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from rich.style import Style

from dissectors.engine.decoded import Decoded
from vmbus.wire.capture import RecordKind


@dataclass(frozen=True)
class Palette:
    """Colours that can be read on one ground."""

    protocols: dict[str, str]
    other: str
    quiet: str
    """What matters less: zeros, offsets, signals."""
    note: str
    problem: str
    mark: str
    field: str
    """Ground of the selected field's bytes."""
    byte: str
    """Ground of the byte under the cursor."""


_QUIET_KINDS = frozenset({int(RecordKind.SIGNAL), int(RecordKind.REGISTER)})

DARK = Palette(
    {"control": "#e0af68", "vstor": "#7ab8e8", "nvsp": "#9ece6a", "hvsock": "#c78fd0"},
    other="#c8c8c8", quiet="#7d8590", note="#d0a8e8", problem="#ff7b85", mark="#ffd75f",
    field="#1f4f78", byte="#2f7fbf",
)  # fmt: skip
LIGHT = Palette(
    {"control": "#8a5a00", "vstor": "#0b5cad", "nvsp": "#2e6b12", "hvsock": "#7b2f8f"},
    other="#303030", quiet="#6e7781", note="#6f3fa0", problem="#b3172a", mark="#a06000",
    field="#b6dcff", byte="#6cb6ff",
)  # fmt: skip


@cache
def ink(colour: str) -> Style:
    """Text of a colour."""
    return Style(color=colour)


def tint(item: Decoded, palette: Palette) -> Style:
    """The colour of a record: its protocol's, or that of a problem."""
    if item.notes:
        return ink(palette.problem)
    if item.kind == RecordKind.NOTE:
        return ink(palette.note)
    if item.kind in _QUIET_KINDS:
        return ink(palette.quiet)
    return ink(palette.protocols.get(item.protocol, palette.other))
