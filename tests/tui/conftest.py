"""Captures whose content is known, and the application over them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import textual.app
import textual.pilot
from textual import events, messages
from textual.message import Message
from textual.pilot import Pilot

from dissectors.testing import GUEST, HOST, Script
from tui.app import VmbusApp
from tui.feed import Feed
from tui.packet_list import PacketList
from vmbus.wire import guids, vstor
from vmbus.wire.capture import NoteKind
from vmbus.wire.ring import GpaDirectHeader, GpaRange, PacketType

READS = 100
PAGE = GpaDirectHeader(range_count=1, ranges=(GpaRange(byte_count=4096, byte_offset=0, pfns=(5,)),))

Screen = tuple[VmbusApp, Pilot[int]]
Opened = Callable[..., AbstractAsyncContextManager[Screen]]
Until = Callable[[Pilot[int], Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def script() -> Script:
    """Two channels; channel 3 has read blocks 0 to 99, one after the other, and one read is not answered."""
    script = Script()
    script.connect()
    script.offer(3, guids.SCSI)
    script.open(3)
    script.offer(4, guids.NETWORK)
    script.open(4)
    for number in range(READS):
        read(script, number, number + 1)
    script.note("sda: 128 blocks", NoteKind.KERNEL_LOG)
    return script


def read(script: Script, block: int, transaction: int, *, answered: bool = True) -> int:
    """A read of one block; returns the number of its record."""
    request = vstor.ScsiRequest(
        cdb=bytes((0x28, 0)) + block.to_bytes(4, "big") + bytes((0, 0, 1, 0)),
        cdb_length=10,
        data_length=512,
        direction=vstor.DataDirection.IN,
    )
    number = script.packet(
        GUEST,
        3,
        vstor.VstorRequest(operation=vstor.VstorOperation.EXECUTE_SRB, body=request),
        transaction=transaction,
        wants_completion=True,
        packet_type=PacketType.GPA_DIRECT,
        extension=PAGE,
    )
    if answered:
        result = vstor.ScsiResult(srb_status=vstor.SrbStatus.SUCCESS, data_length=512)
        done = vstor.ScsiCompletion(operation=vstor.VstorOperation.COMPLETE_IO, result=result)
        script.completion(HOST, 3, done, transaction=transaction)
    return number


@pytest.fixture
def capture(script: Script, tmp_path: Path) -> Path:
    """The script as a file."""
    return script.write(tmp_path / "capture.pcapng")


@pytest.fixture
def until() -> Until:
    """Waits for a condition, a minute at most, and then for what follows from it."""

    async def wait(pilot: Pilot[int], condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            await pilot.pause(0.01)
        await pilot.pause()

    return wait


class Messages:
    """Counts what the application's widgets are told, but for what comes all the time: to draw, and the pilot's own."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, message: Message) -> None:
        if not isinstance(message, (events.Callback, messages.Layout, messages.Update)):
            self.count += 1

    async def are_done(self, pilot: Pilot[int]) -> None:
        """Until what the last keys and messages led to is done: two rounds through all widgets find nothing to do."""
        deadline = time.monotonic() + 30
        quiet = 0
        while quiet < 2 and time.monotonic() < deadline:
            before = self.count
            await pilot._wait_for_screen()
            quiet = quiet + 1 if self.count == before else 0


@pytest.fixture
def opened(until: Until, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """The application over a source, once it shows what there is.

    Keys and pauses wait for all that they lead to. By itself Textual's pilot waits until the processor is idle, which
    on a busy machine may be before anything was done.
    """

    @asynccontextmanager
    async def run(
        source: Path | str, size: tuple[int, int] = (120, 40), *, follow: bool = False, records: int = 1
    ) -> AsyncIterator[Screen]:
        feed = Feed(str(source), follow=follow)
        app = VmbusApp(feed)
        told = Messages()

        async def wait_for_all(_: float) -> None:
            await told.are_done(pilot)

        async with app.run_test(size=size, message_hook=told) as pilot:
            for module in (textual.app, textual.pilot):
                monkeypatch.setattr(module, "wait_for_idle", wait_for_all)
            await until(pilot, lambda: bool(feed.ended) or (feed.is_live and len(feed.archive) >= records))
            await until(pilot, lambda: shows_all(app, feed))
            yield app, pilot

    return run


def shows_all(app: VmbusApp, feed: Feed) -> bool:
    """Whether the list has room for all records, and the status line says so."""
    status = str(app.query_one("#status").render())
    is_told = f"{len(feed.archive):,} records" in status and (feed.ended or "live") in status
    return is_told and app.query_one(PacketList)._drawn == len(app.rows)
