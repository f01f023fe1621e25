"""Makes ``ui.svg``: the terminal UI over a second of a Linux guest's traffic, a read command selected.

    python docs/images/make.py

It takes the demo's traffic, so the picture shows what ``make demo ARGS="--guest linux"`` shows.
"""

from __future__ import annotations

import asyncio
import html
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tui.app import VmbusApp
from tui.decode_tree import DecodeTree
from tui.feed import Feed
from tui.packet_list import PacketList

TARGET = Path(__file__).parent / "ui.svg"
SIZE = (126, 38)


async def picture(capture: Path) -> str:
    """The screen as SVG, with the cursor on a read that has been answered."""
    feed = Feed(str(capture))
    app = VmbusApp(feed, title="vmbus tui traffic.pcapng")
    async with app.run_test(size=SIZE) as pilot:
        while not feed.ended:
            await pilot.pause(0.05)
        rows = app.rows
        reads = (row for row in range(len(rows) * 2 // 3, len(rows)) if "READ_" in rows.item(row).summary)
        request = next(row for row in reads if rows.item(row).response is not None)
        app.query_one(PacketList).go_to(request)
        await pilot.pause(0.3)
        tree = app.query_one(DecodeTree)
        tree.focus()
        await pilot.pause(0.3)
        code = next(node for node in tree.record or () if node.name == "cdb")
        tree.select_byte(code.offset)
        await pilot.pause(0.5)
        return app.export_screenshot(title="vmbus tui traffic.pcapng")


_TEXT = re.compile(r'x="([\d.]+)" y="([\d.]+)" textLength="([\d.]+)">((?:&#160;)+)([^<]+)<')


def _without_leading_spaces(match: re.Match[str]) -> str:
    """Some programs leave out the spaces that a text begins with: say where it begins instead."""
    x, length = float(match[1]), float(match[3])
    spaces, rest = match[4].count("&#160;"), html.unescape(match[5])
    width = length / (spaces + len(rest))
    return f'x="{x + spaces * width:g}" y="{match[2]}" textLength="{length - spaces * width:g}">{match[5]}<'


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        capture = Path(directory) / "traffic.pcapng"
        options = ["--headless", "--seconds", "3", "--guest", "linux", "-w", str(capture)]
        subprocess.run([sys.executable, "-m", "vmbus", "demo", *options], check=True)
        drawn = asyncio.run(picture(capture))
    # The fonts are the reader's: none are fetched from elsewhere.  Long names are most of the rest.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"terminal-\d+-", "t", drawn).replace(' clip-path="url(#tclip-terminal)"', "")
    drawn = re.sub(r' clip-path="url\(#tline-\d+\)"', "", drawn)
    TARGET.write_text(_TEXT.sub(_without_leading_spaces, drawn), encoding="utf-8")
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
