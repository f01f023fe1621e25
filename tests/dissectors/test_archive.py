"""Records decoded by themselves say what they say when they are decoded in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from dissectors.engine.archive import Archive, ArchiveReader
from dissectors.engine.decoded import Decoded
from dissectors.engine.session import Session
from dissectors.filters import Filter
from vmbus.capture.reader import CaptureReader
from vmbus.capture.store import CaptureStore

CAPTURES = sorted((Path(__file__).parents[2] / "captures").glob("*/capture.pcapng"))


def archive_of(path: Path, piece: int = 1 << 14) -> Archive:
    archive = Archive(CaptureStore.open(path))
    while archive.store.update(at_most=piece) or archive.update():
        archive.update(100)
    archive.store.update(final=True)
    while archive.update():
        pass
    return archive


def told(item: Decoded) -> tuple[object, ...]:
    request = item.request.number if item.request else None
    response = item.response.number if item.response else None
    return item.summary, item.protocol, item.channel_name, item.notes, item.latency_ns, request, response


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.parent.name)
def test_a_record_by_itself_says_what_it_says_in_order(path: Path) -> None:
    archive = archive_of(path)
    in_order = list(Session().feed_all(CaptureReader(path)))
    reader = ArchiveReader(archive)
    backwards = [reader.item(index) for index in reversed(range(len(archive)))]
    assert [told(item) for item in reversed(backwards)] == [told(item) for item in in_order]


def test_the_traffic_of_a_channel_adds_up() -> None:
    path = max(CAPTURES, key=lambda path: path.stat().st_size)
    archive = archive_of(path)
    items = list(Session().feed_all(CaptureReader(path)))
    for channel_id, traffic in archive.traffic.channels.items():
        packets = [item for item in items if item.kind_name == "packet" and item.channel_id == channel_id]
        assert traffic.to_host.packets + traffic.to_guest.packets == len(packets)
        assert traffic.requests == sum(item.wants_completion for item in packets)
        latencies = sorted(item.latency_ns for item in packets if item.response and item.latency_ns is not None)
        assert traffic.completed == len(latencies)
        if latencies:
            assert traffic.percentile_ns(100) == pytest.approx(latencies[-1], rel=0.1)


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.parent.name)
def test_a_filter_over_columns_finds_what_it_finds_record_by_record(path: Path) -> None:
    archive = archive_of(path)
    reader = ArchiveReader(archive)
    for text in (
        "vstor.cdb.opcode == READ_10 && latency > 50us",
        "response || latency < 100us",
        '!(channel ~ "net" || request)',
        "channel.id == 3 && protocol != signal",
        "rndis.message_type == QUERY || oid",
    ):
        wanted = Filter(text)
        expected = [index for index in range(len(archive)) if wanted(reader.item(index))]
        found: list[int] = []
        for first in range(0, len(archive), 97):
            may, must = wanted.narrow(archive.span(first, min(first + 97, len(archive))))
            assert not (must & ~may).any()
            found += [first + at for at in may.nonzero()[0].tolist() if must[at] or wanted(reader.item(first + at))]
        assert found == expected
