"""One record in full: layers, fields and bytes, and the way from one to the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.text import Text

from dissectors.testing import GUEST, Script
from tui.app import VmbusApp
from tui.decode_tree import DecodeTree, plain_value
from tui.help import help_text
from tui.hex_view import HexView
from tui.packet_list import PacketList
from tui.theme import DARK, LIGHT


def labels(tree: DecodeTree) -> list[str]:
    return [str(node.label) for node in tree.root.children]


def at_cursor(tree: DecodeTree) -> str:
    """The name of the field under the cursor."""
    return tree.cursor_node.data.name if tree.cursor_node and tree.cursor_node.data else ""


async def select(app: VmbusApp, pilot, index: int) -> DecodeTree:
    app.query_one(PacketList).go_to(index)
    await pilot.pause()
    return app.query_one(DecodeTree)


async def test_layers_carry_their_protocols_names(opened, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        tree = await select(app, pilot, 120)
        assert [label.split("  ")[0] for label in labels(tree)] == [
            "capture: packet record", "ring: packet descriptor", "ring: gpa direct header", "vstor: request",
        ]  # fmt: skip


async def test_headers_are_folded_until_they_are_opened(opened, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        tree = await select(app, pilot, 120)
        header, descriptor, _, request = tree.root.children
        assert (header.is_expanded, descriptor.is_expanded, request.is_expanded) == (False, False, True)
        descriptor.expand()
        request.collapse()
        await pilot.pause()
        tree = await select(app, pilot, 122)
        assert [node.is_expanded for node in tree.root.children] == [False, True, True, False]


async def test_a_header_is_open_where_it_is_all_that_there_is(opened, script: Script, tmp_path: Path) -> None:
    script.signal(GUEST, 3)
    async with opened(script.write(tmp_path / "signals.pcapng")) as (app, pilot):
        tree = await select(app, pilot, len(app.rows) - 1)
        (header,) = tree.root.children
        assert header.is_expanded and len(header.children) > 5
        tree = await select(app, pilot, 120)
        assert not tree.root.children[0].is_expanded


@pytest.mark.parametrize(("width", "columns"), [(80, 1), (99, 1), (120, 2)])
def test_the_help_fits_the_screen(width: int, columns: int) -> None:
    lines = [Text.from_markup(line).plain for line in help_text(width).splitlines()]
    assert max(map(len, lines)) <= min(width, 116) - 6
    assert ("filter line" in lines[1]) == (columns == 2)


async def test_a_field_marks_its_bytes(opened, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        tree = await select(app, pilot, 120)
        operation = next(node for node in tree.root.children[3].children if node.data and node.data.name == "operation")
        tree.move_cursor(operation)
        await pilot.pause()
        start, stop = app.query_one(HexView).marked
        assert int.from_bytes(app.rows.item(120).data[start:stop], "little") == 3


async def test_a_byte_selects_its_field_also_in_what_is_folded(opened, until, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        tree = await select(app, pilot, 120)
        app.query_one(HexView).focus()
        await pilot.press("home", *["right"] * 8)
        await until(pilot, lambda: at_cursor(tree) == "channel_id")
        assert app.query_one(HexView).marked == (8, 12)


async def test_a_click_on_a_byte_selects_its_field(opened, until, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        tree = await select(app, pilot, 120)
        view = app.query_one(HexView)
        assert view.byte_at(6 + 3 * 9 + 1, 2) == 2 * 16 + 9
        await pilot.click(HexView, offset=(1 + 6 + 3 * 9 + 1, 1 + 2))
        await until(pilot, lambda: at_cursor(tree) == "transaction_id")


async def test_text_is_shown_as_text(opened, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        tree = await select(app, pilot, len(app.rows) - 1)
        assert labels(tree)[1] == "text: sda: 128 blocks"
        assert plain_value(next(node for node in tree.record or () if node.name == "text")) == "sda: 128 blocks"


async def test_fewer_bytes_stand_in_a_line_where_there_is_little_room(opened, capture: Path) -> None:
    async with opened(capture, (80, 24)) as (app, pilot):
        await select(app, pilot, 120)
        view = app.query_one(HexView)
        assert view.per_line == 8
        assert view.render_line(0).text.startswith("0000  01 03 20 00 01 00 00 00")
        assert not view.show_horizontal_scrollbar


async def test_light_and_dark_have_colours_of_their_own(opened, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        assert app.current_theme.dark
        await pilot.press("t")
        assert not app.current_theme.dark
        styles = {segment.style.color.name for segment in app.query_one(PacketList).render_line(2) if segment.style}
        assert LIGHT.protocols["control"] in styles
        assert DARK.protocols["control"] not in styles


async def test_help_names_the_keys_and_any_key_leaves_it(opened, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        await pilot.press("question_mark")
        assert len(app.screen_stack) == 2
        await pilot.press("a")
        assert len(app.screen_stack) == 1
        await pilot.press("tab", "z")
        assert app.screen.maximized is not None
        await pilot.press("escape")
        assert app.screen.maximized is None
