"""The packet list: its cursor, following, pausing, pairs, marks and problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from dissectors.testing import HOST, Script
from tui.app import VmbusApp
from tui.decode_tree import DecodeTree
from tui.packet_list import PacketList
from vmbus.capture import blocks


def packets(app: VmbusApp) -> PacketList:
    return app.query_one(PacketList)


def line(app: VmbusApp, y: int) -> str:
    return packets(app).render_line(y).text


async def test_a_capture_shows_from_its_first_record(opened, capture: Path) -> None:
    async with opened(capture) as (app, _):
        assert packets(app).cursor == 0
        assert "INITIATE_CONTACT" in line(app, 1)
        assert "all read" in str(app.query_one("#status").render())


@pytest.mark.parametrize("width", [80, 120, 180])
async def test_the_list_needs_no_scrolling_sideways(opened, until, capture: Path, width: int) -> None:
    async with opened(capture, (width, 30)) as (app, pilot):
        await pilot.press("end")
        assert not packets(app).show_horizontal_scrollbar
        assert len(line(app, 1)) <= width
        await until(pilot, lambda: "READ_10 lba" in line(app, packets(app).height - 2))


async def test_the_cursor_moves_by_keys_and_by_mouse(opened, until, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        await pilot.press("down", "down", "j", "k")
        assert packets(app).cursor == 2
        await pilot.press("pagedown")
        assert packets(app).cursor == 2 + packets(app).height - 1
        await pilot.press("end")
        assert packets(app).cursor == len(app.rows) - 1
        await pilot.press("home")
        await until(pilot, lambda: packets(app).scroll_offset.y == 0)
        await pilot.click("#packets", offset=(20, 5))  # below the border and the heads
        assert packets(app).cursor == 3
        assert packets(app).scroll_offset.y == 0


async def test_enter_jumps_from_a_request_to_its_answer_and_back(opened, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        packets(app).go_to(next(i for i in range(len(app.rows)) if "lba 41 " in app.rows.item(i).summary))
        request = packets(app).selected_index
        await pilot.press("enter")
        answer = packets(app).selected
        assert answer is not None
        assert answer.request is not None
        assert answer.request.number == request + 1
        await pilot.press("enter")
        assert packets(app).selected_index == request


async def test_a_view_that_follows_stays_at_the_newest_record(opened, until, script: Script, tmp_path: Path) -> None:
    path = script.write(tmp_path / "growing.pcapng")
    async with opened(path, follow=True, records=len(script.records)) as (app, pilot):
        assert packets(app).follow
        await until(pilot, lambda: packets(app).cursor == len(script.records) - 1)
        grow(path, script)
        await until(pilot, lambda: packets(app).cursor == len(script.records) - 1)
        await pilot.press("up")
        here = packets(app).cursor
        grow(path, script)
        await until(pilot, lambda: len(app.rows) == len(script.records))
        assert packets(app).cursor == here
        await pilot.press("f")
        assert packets(app).cursor == len(script.records) - 1


async def test_a_paused_view_keeps_its_rows_and_loses_none(opened, until, script: Script, tmp_path: Path) -> None:
    path = script.write(tmp_path / "growing.pcapng")
    async with opened(path, follow=True, records=len(script.records)) as (app, pilot):
        await pilot.press("space")
        before = len(app.rows)
        grow(path, script)
        await until(pilot, lambda: len(app.rows.archive) == len(script.records))
        assert len(app.rows) == before
        await until(pilot, lambda: "paused, 5 more" in str(app.query_one("#status").render()))
        await pilot.press("space")
        assert len(app.rows) == len(script.records)


def grow(path: Path, script: Script) -> None:
    """Five more notes at the end of a capture."""
    with path.open("ab") as file:
        for number in range(5):
            script.note(f"more {number}")
            time_ns, data = script.records[-1]
            file.write(blocks.enhanced_packet(0, time_ns, data, direction=0))


async def test_a_record_is_found_by_its_number(opened, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        await pilot.press("colon", "7", "7", "enter")
        assert packets(app).selected_index == 76
        assert app.focused is packets(app)


async def test_n_finds_the_next_problem_and_says_what_it_is(opened, until, script: Script, tmp_path: Path) -> None:
    script.note("the last record")
    cut = len(script.records) - 2
    script.records[cut] = (script.records[cut][0], script.records[cut][1][:30])
    async with opened(script.write(tmp_path / "cut.pcapng")) as (app, pilot):
        await pilot.press("n")
        await until(pilot, lambda: packets(app).selected_index == cut)
        await pilot.press("end", "N")
        await until(pilot, lambda: packets(app).selected_index == cut)
        assert "!" in line(app, packets(app).cursor - packets(app).scroll_offset.y + 1)


async def test_n_finds_what_the_expert_rules_find(opened, until, script: Script, tmp_path: Path) -> None:
    script.completion(HOST, 3, bytes(16), transaction=100)
    path = script.write(tmp_path / "twice.pcapng")
    async with opened(path) as (app, pilot):
        await pilot.press("n")
        await until(pilot, lambda: packets(app).selected_index == len(script.records) - 1)
        assert app.findings.of(packets(app).selected_index)[0].rule == "EX-24"
        shown = " ".join(str(node.label).strip() for node in app.query_one(DecodeTree).root.children)
        assert shown.startswith(
            "! EX-24: channel 3 scsi: no request with transaction id 0x64 waits for a completion Look"
        )
        await until(pilot, lambda: "! EX-24" in line(app, packets(app).height))


async def test_marks_stay_and_are_found_again(opened, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        await pilot.press("down", "m", "down", "down", "m", "home", "apostrophe")
        assert packets(app).selected_index == 1
        await pilot.press("apostrophe")
        assert packets(app).selected_index == 3
        await pilot.press("m", "apostrophe")
        assert packets(app).selected_index == 1


async def test_what_is_copied_is_the_line_and_the_bytes(opened, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        await pilot.press("y")
        assert "INITIATE_CONTACT" in app.clipboard
        await pilot.press("x")
        assert bytes.fromhex(app.clipboard) == app.rows.item(0).data


async def test_a_note_of_the_guests_kernel_can_be_read(opened, until, capture: Path) -> None:
    async with opened(capture) as (app, pilot):
        await pilot.press("end")
        await until(pilot, lambda: "kernel log: sda: 128 blocks" in line(app, packets(app).height))


async def test_damage_is_shown_and_the_rest_of_the_file_too(opened, script: Script, tmp_path: Path) -> None:
    pieces = list(script.blocks())
    path = tmp_path / "damaged.pcapng"
    path.write_bytes(b"".join(pieces[:60]) + b"\xff" * 40 + b"".join(pieces[60:]))
    async with opened(path) as (app, _):
        assert len(app.rows) == len(script.records)
        assert "40 bytes skipped" in str(app.query_one("#status").render())
