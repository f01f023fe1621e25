"""The channel table: what it has room for, sums, and channels that come and go."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from dissectors.testing import GUEST, HOST, Script
from tui.channel_table import MOST_ROWS, ChannelTable, _needs, choose_layout
from vmbus.wire import guids
from vmbus.wire.control_values import MessageType


def row(table: ChannelTable, key: str, labels: Iterable[str]) -> list[str]:
    """What some cells of a row say."""
    return [str(table.get_cell(key, label)).strip() for label in labels]


@pytest.mark.parametrize("width", range(54, 220))
def test_what_is_shown_fits(width: int) -> None:
    layout, bar_width = choose_layout(width)
    assert _needs(layout, bar_width) <= width
    assert {"channel", "state", "wait" if width < 117 else "waiting", "99 %"} <= set(layout)


@pytest.mark.parametrize(("size", "columns"), [((80, 24), 7), ((100, 30), 8), ((120, 40), 9), ((200, 60), 11)])
async def test_the_table_is_never_cut(opened, until, capture: Path, size: tuple[int, int], columns: int) -> None:
    async with opened(capture, size) as (app, pilot):
        table = app.query_one(ChannelTable)
        await until(pilot, lambda: table.row_count == 3)
        assert len(table.columns) == columns
        assert table.virtual_size.width <= table.size.width


async def test_the_first_row_sums_all_channels_up(opened, until, script: Script, tmp_path: Path) -> None:
    script.packet(GUEST, 4, bytes(40), transaction=1, wants_completion=True)
    async with opened(script.write(tmp_path / "c.pcapng")) as (app, pilot):
        table = app.query_one(ChannelTable)
        labels = ("packets →", "state", "waiting", "99 %")
        await until(pilot, lambda: row(table, "0", labels) == ["101", "2 open", "1", "1 us"])


async def test_a_channel_that_is_over_is_shown_all_the_same(opened, until, script: Script, tmp_path: Path) -> None:
    script.rescind(4)
    script.release(4)
    script.message(GUEST, MessageType.UNLOAD)
    script.message(HOST, MessageType.UNLOAD_COMPLETE)
    async with opened(script.write(tmp_path / "c.pcapng")) as (app, pilot):
        table = app.query_one(ChannelTable)
        await until(pilot, lambda: table.row_count == 3 and row(table, "0", ["state"]) == ["0 open"])
        assert [row(table, key, ["state"]) for key in ("3", "4")] == [["unloaded"], ["released"]]


async def test_sockets_beyond_number_take_the_rows_of_those_that_are_over(
    opened, until, script: Script, tmp_path: Path
) -> None:
    path = script.write(tmp_path / "growing.pcapng")
    async with opened(path, follow=True) as (app, pilot):
        table = app.query_one(ChannelTable)
        await until(pilot, lambda: table.row_count == 3)
        for channel in range(10, 310):
            script.offer(channel, guids.vsock_service(1000), instance=channel)
        await grow(script, path, app, until, pilot)
        await until(pilot, lambda: table.row_count == 1 + MOST_ROWS)
        for channel in reversed(range(10, 310)):  # none that is there waits for a row, however much is read at once
            script.rescind(channel)
            script.release(channel)
        script.offer(500, guids.KVP)
        await grow(script, path, app, until, pilot)
        await until(pilot, lambda: "500" in table.rows and row(table, "12", ["state"]) == ["released"])
        assert table.row_count == 1 + MOST_ROWS
        assert {"3", "4"} <= {key.value for key in table.rows} and "10" not in table.rows


async def grow(script: Script, path: Path, app, until, pilot) -> None:
    """Write the records that the file does not have yet."""
    data = b"".join(script.blocks())
    with path.open("ab") as file:
        file.write(data[path.stat().st_size :])
    await until(pilot, lambda: len(app.rows.archive) == len(script.records))
