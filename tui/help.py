"""The help: keys, panes and the filter language on one screen."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

HELP = """\
[b]Everywhere[/b]
  tab, shift+tab, click    go to another pane              z         the pane fills the screen, and back
  /                        filter line                     :         go to a record by its number
  f                        follow the newest record        space     pause the view (nothing is lost)
  n  N                     next, previous problem          esc       leave a line; take filters away
  t                        light or dark                   ctrl+p    all commands and themes
  ?                        this help                       q         leave

[b]Packets[/b]
  up down pgup pgdn home end, j k g G, wheel    move       enter, double click   request to answer, and back
  m  '                     mark a record, next mark        y  x      copy the line, the bytes as hexadecimal

[b]Channels[/b]              enter or click: only this channel's records; "all" shows all again
                         ring: how full in the last quarter seconds, and at most ever

[b]Decode[/b]                enter or click folds; it stays so         y  copy the value     =  filter on the value
[b]Bytes[/b]                 arrows or click select the field                  y  copy the field's bytes

[b]Filters[/b]               vstor.cdb.opcode == READ_10 && latency > 5ms
                         channel ~ "scsi"   protocol == control   kind == note   number in {1..9}   problem
                         right arrow completes a field's name; docs/filters.md has the whole language
"""


class HelpScreen(ModalScreen[None]):
    """Any key or click leaves it."""

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(HELP)

    def on_mount(self) -> None:
        self.query_one("#help").border_title = "vmbus: help"

    def on_key(self, event: events.Key) -> None:
        if event.key not in ("up", "down", "pageup", "pagedown"):
            event.stop()
            self.dismiss()

    def on_click(self) -> None:
        self.dismiss()
