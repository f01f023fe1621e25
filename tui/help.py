"""The help: keys, panes and the filter language on one screen."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

Keys = tuple[tuple[str, str], ...]

_SECTIONS: tuple[tuple[str, Keys], ...] = (
    (
        "Everywhere",
        (
            ("tab, shift+tab, click", "go to another pane"),
            ("/", "filter line"),
            ("f", "follow the newest record"),
            ("space", "pause the view, losing nothing"),
            ("n  N", "next, previous problem"),
            (":", "go to a record by its number"),
            ("z", "fill the screen, and back"),
            ("esc", "leave a line; take filters away"),
            ("t", "light or dark"),
            ("ctrl+p", "all commands and themes"),
            ("?", "this help"),
            ("q", "leave"),
        ),
    ),
    (
        "Packets",
        (
            ("up down j k, wheel", "move"),
            ("pgup pgdn, home end", "move further; g G as well"),
            ("enter, double click", "request to answer, and back"),
            ("m  '", "mark a record, next mark"),
            ("y  x", "copy the line, the bytes"),
        ),
    ),
    (
        "Channels",
        (
            ("enter, click", "only its records; all: all"),
            ("ring", "how full of late, and at most"),
        ),
    ),
    (
        "Decode",
        (
            ("enter, click", "fold, open; it stays so"),
            ("y  =", "copy the value, filter on it"),
        ),
    ),
    (
        "Bytes",
        (
            ("arrows, click", "select the field"),
            ("y", "copy the field's bytes"),
        ),
    ),
)
_FILTERS = """\
[b]Filters[/b]
  vstor.cdb.opcode == READ_10 && latency > 5ms
  channel ~ "scsi"   protocol == control   kind == note   problem
  right arrow completes a field's name
  docs/filters.md has the whole language"""
_KEYS_WIDTH, _WHAT_WIDTH = 22, 31
TWO_COLUMNS = 116
"""Characters that the help needs to put two keys on a line."""


def help_text(width: int) -> str:
    """The help as markup for a screen of ``width`` characters: two keys on a line, or one where there is less room."""
    columns = 2 if width >= TWO_COLUMNS else 1
    lines = []
    for title, keys in _SECTIONS:
        lines.append(f"[b]{title}[/b]")
        for first in range(0, len(keys), columns):
            shown = keys[first : first + columns]
            lines.append("".join(f"  {key:{_KEYS_WIDTH}}{what:{_WHAT_WIDTH}}" for key, what in shown).rstrip())
    return "\n".join((*lines, _FILTERS))


class HelpScreen(ModalScreen[None]):
    """Any key or click leaves it."""

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(id="help-text")

    def on_resize(self, event: events.Resize) -> None:
        self.query_one("#help-text", Static).update(help_text(event.size.width))

    def on_mount(self) -> None:
        self.query_one("#help").border_title = "vmbus: help"

    def on_key(self, event: events.Key) -> None:
        if event.key not in ("up", "down", "pageup", "pagedown"):
            event.stop()
            self.dismiss()

    def on_click(self) -> None:
        self.dismiss()
