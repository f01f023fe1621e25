"""Filters and channels: what is shown, what is said about a filter that means nothing."""

from __future__ import annotations

from pathlib import Path

from dissectors.filters import Filter
from dissectors.testing import Script
from tui.app import VmbusApp
from tui.channel_table import ChannelTable, bars, ring_cell
from tui.decode_tree import DecodeTree
from tui.packet_list import PacketList
from tui.prompt import FieldNames, Prompt
from tui.selection import Selection


def shown(app: VmbusApp) -> list[str]:
    return [app.rows.item(row).summary for row in range(len(app.rows))]


def is_done(app: VmbusApp) -> bool:
    selection = app.rows.selection
    return selection is not None and selection.looked_at == len(app.rows.archive)


async def test_a_filter_shows_what_passes_it(opened, until, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        await pilot.press("slash", *"vstor.cdb.lba == 41 && response", "enter")
        await until(pilot, lambda: is_done(app))
        assert len(app.rows) == 1
        assert "READ_10 lba 41" in shown(app)[0]
        await until(pilot, lambda: "│  1 shown  │" in str(app.query_one("#status").render()))
        await pilot.press("escape")
        assert app.rows.selection is None


async def test_a_wrong_filter_says_where_and_changes_nothing(opened, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        await pilot.press("slash", *"number == ", "enter")
        prompt = app.query_one("#filter", Prompt)
        assert prompt.has_class("wrong")
        assert prompt.message.startswith("column 11: the filter ends too early")
        assert app.rows.selection is None


async def test_names_of_fields_are_completed() -> None:
    names = FieldNames()
    assert await names.get_suggestion("latency > 5ms && chan") == "latency > 5ms && channel"
    assert await names.get_suggestion("number == 5") is None


async def test_the_record_stays_when_a_filter_comes_and_goes(opened, until, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        packets = app.query_one(PacketList)
        packets.go_to(120)
        app.show_only(text="channel.id == 3")
        await until(pilot, lambda: is_done(app))
        packets.go_to(120)
        assert packets.selected_index == 120
        app.show_only(text="")
        assert packets.selected_index == 120


async def test_a_channel_shows_its_packets_and_its_control_messages(opened, until, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        table = app.query_one(ChannelTable)
        await until(pilot, lambda: table.virtual_size.height == 4)  # the heads and three rows
        await pilot.click("#channels", offset=(5, 4))
        await pilot.press("enter")
        await until(pilot, lambda: is_done(app))
        assert app.rows.selection is not None
        assert {app.rows.item(row).channel_id for row in range(len(app.rows))} == {4}
        assert any("OPEN_CHANNEL" in line for line in shown(app))
        await pilot.press("escape")
        assert len(app.rows) == len(app.rows.archive)


async def test_a_channels_row_counts_packets_and_requests(opened, until, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        table = app.query_one(ChannelTable)

        def cells() -> list[str]:
            labels = ("packets →", "state", "waiting", "mean")
            return [str(table.get_cell("3", label)).strip() for label in labels] if "3" in table.rows else []

        await until(pilot, lambda: cells() == ["100", "open", "-", "1 us"])


async def test_a_field_becomes_a_filter(opened, until, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        app.query_one(PacketList).go_to(120)
        await pilot.pause()
        tree = app.query_one(DecodeTree)
        node = next(node for node in tree.record or () if node.name == "transaction_id")
        text = tree.filter_on(node)
        assert text == f"ring.packet_descriptor.transaction_id == {node.value}"
        tree.post_message(DecodeTree.FilterWanted(text))
        await until(pilot, lambda: is_done(app))
        assert len(app.rows) == 2


def test_bars_show_anything_above_nothing() -> None:
    assert bars([0.0, 0.001, 0.5, 1.0], 6) == "   ▁▅█"
    assert "max <1%" in ring_cell([0.0], 0.004, 8).plain.replace("  ", " ")


async def test_a_selection_grows_with_its_capture(opened, until, script: Script, tmp_path: Path) -> None:
    async with opened(script.write(tmp_path / "c.pcapng")) as (app, pilot):
        selection = Selection(app.rows.archive, wanted=Filter('number in {50, 100, 150} || summary ~ "never"'))
        app.rows.select(selection)
        await until(pilot, lambda: is_done(app))
        assert list(selection.matches) == [49, 99, 149]
        assert app.rows.row_of(60) == 1
