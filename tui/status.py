"""The status line: how much there is, how much of it is shown, whether more is coming.  Parts can be clicked."""

from __future__ import annotations

import os

from tui.feed import Feed
from tui.rows import Rows


def status_line(feed: Feed, rows: Rows, *, follows: bool, searching: str = "") -> str:
    """As Textual markup."""
    count = len(feed.archive)
    parts = [f"{count:,} records"]
    selection = rows.selection
    if selection is not None:
        looked = selection.looked_at
        progress = f" ({looked * 100 // max(count, 1)} % looked at)" if looked < count else ""
        parts.append(f"[@click=app.leave]{len(rows):,} shown{progress}[/]")
    if feed.store.damage:
        parts.append(f"[b $text-error]damaged {_at(feed)}[/]")
    parts.append(f"[@click=app.pause]{_state(feed, rows)}[/]")
    if searching:
        parts.append(f"[b]{searching}[/] (esc: stop)")
    parts.append(f"[@click=app.follow]{'following' if follows else 'not following'}[/]")
    return "  │  ".join(parts)


def _at(feed: Feed) -> str:
    first, *others = feed.store.damage
    more = f", and in {len(others)} more places" if others else ""
    return f"{first}{more}".replace("[", r"\[")


def _state(feed: Feed, rows: Rows) -> str:
    if rows.is_paused:
        return f"paused, {len(feed.archive) - rows.last:,} more"
    if feed.error is not None:
        return str(feed.error).replace("[", r"\[")
    if feed.ended:
        return feed.ended
    if feed.is_live:
        return "live"
    return f"reading {_percent(feed)} %"


def _percent(feed: Feed) -> int:
    try:
        size = os.stat(feed.source).st_size
    except OSError:
        return 0
    return feed.store.size * 100 // max(size, 1)
