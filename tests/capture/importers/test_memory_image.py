"""Packets, waiting and past, are found in memory images of rings, wherever the image comes from."""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmbus.capture.importers import CannotImport, write_capture
from vmbus.capture.importers.memory_image import RingPages, records_of_rings, rings_by_search, rings_of_capture
from vmbus.capture.importers.physical import open_image, pages
from vmbus.capture.importers.ring_image import RingImage
from vmbus.capture.reader import read_records
from vmbus.memory import PAGE_SIZE, GuestMemory
from vmbus.ring import IN_BAND, IncomingRing, OutgoingRing, RingMemory
from vmbus.wire.capture import Direction, PacketRecord, RecordKind
from vmbus.wire.ring import RingFeatures

RING_PAGES = 3


def traffic(ring: RingMemory, seed: int, rounds: int = 200) -> tuple[list[bytes], list[bytes]]:
    """Send and receive at random; returns the payloads of what was taken out, and of what still waits."""
    random_numbers = random.Random(seed)
    outgoing, incoming = OutgoingRing(ring, pure=True), IncomingRing(ring, pure=True)
    sent: list[bytes] = []
    taken: list[bytes] = []
    for number in range(rounds):
        payload = random_numbers.randbytes(8 * random_numbers.randrange(1, 60))
        if outgoing.write_batch([(IN_BAND, 0, number, b"", payload)]):
            sent.append(payload)
            outgoing.commit()
        if random_numbers.random() < 0.45:
            taken += [packet.payload for packet in incoming.read_batch(3)]
            incoming.commit()
    return taken, sent[len(taken) :]


def image_of(ring: RingMemory) -> RingImage:
    return RingImage(bytes(ring.control), bytes(ring.data[: ring.size]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300))
def test_all_waiting_packets_and_a_run_of_past_ones_are_found(seed: int, rounds: int) -> None:
    ring = RingMemory.private(RING_PAGES * PAGE_SIZE)
    taken, waiting = traffic(ring, seed, rounds)
    found = image_of(ring).packets()
    assert [packet.content[16:] for packet in found if not packet.is_past] == waiting
    past = [packet.content[16:] for packet in found if packet.is_past]
    assert past == taken[len(taken) - len(past) :]
    room = ring.size - sum(24 + len(payload) for payload in waiting)
    wanted = 0
    while wanted < len(taken) and sum(24 + len(payload) for payload in taken[-wanted - 1 :]) <= room - 24 - 480:
        wanted += 1
    assert len(past) >= wanted


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=64, max_size=64), st.binary(max_size=400), st.integers(0, 7))
def test_a_ring_of_rubbish_is_only_less_to_see(control: bytes, rubbish: bytes, page_count: int) -> None:
    data = (rubbish * (page_count * PAGE_SIZE // max(1, len(rubbish)) + 1))[: page_count * PAGE_SIZE]
    image = RingImage(control + bytes(PAGE_SIZE - 64), data if rubbish else bytes(page_count * PAGE_SIZE))
    assert len(image.packets()) <= page_count * PAGE_SIZE // 24


@pytest.fixture
def guest(tmp_path: Path) -> tuple[Path, RingPages, list[bytes]]:
    """A raw image with one channel's rings, both used, and the payloads sent to the host."""
    first = 40
    to_host = tuple(range(first, first + 1 + RING_PAGES))
    to_guest = tuple(range(first + 1 + RING_PAGES, first + 2 * (1 + RING_PAGES)))
    with GuestMemory.create(64 * PAGE_SIZE) as memory:
        payloads: list[bytes] = []
        for pfns in (to_host, to_guest):
            view = memory.view(pfns[0] * PAGE_SIZE, len(pfns) * PAGE_SIZE)
            ring = RingMemory.from_view(view, mirrored=False)
            ring.words[16] = RingFeatures.PENDING_SEND_SIZE
            taken, waiting = traffic(ring, pfns[0], 30)
            payloads = payloads or taken + waiting
            ring.release()
            view.release()
        image = memory.read(0, memory.size)
    path = tmp_path / "memory.bin"
    path.write_bytes(image)
    return path, RingPages(0x80000000, to_host, to_guest), payloads


def test_rings_are_found_in_images_of_all_kinds(
    guest: tuple[Path, RingPages, list[bytes]], tmp_path: Path, as_dump: Callable[[bytes], bytes]
) -> None:
    path, rings, payloads = guest
    wrapped = tmp_path / "wrapped"
    wrapped.write_bytes(as_dump(path.read_bytes()))
    memory = open_image(wrapped)
    image, found_pages = path.read_bytes(), dict(pages(memory))
    assert all(image[gpa : gpa + len(piece)] == piece for gpa, piece in found_pages.items())
    assert sum(piece.count(0) for piece in found_pages.values()) <= image.count(0)
    assert sum(len(piece) - piece.count(0) for piece in found_pages.values()) == len(image) - image.count(0)
    assert rings_by_search(memory) == [rings]
    write_capture(tmp_path / "rings.pcapng", records_of_rings(memory, [rings], 10**18))
    memory.close()
    found = list(read_records(tmp_path / "rings.pcapng"))
    packets = [record for record in found if record.kind is RecordKind.PACKET]
    to_host = [record.body[16:] for record in packets if record.direction is Direction.GUEST_TO_HOST]
    assert to_host == payloads[len(payloads) - len(to_host) :]
    assert len(to_host) > 10
    header = packets[0].header
    assert isinstance(header, PacketRecord)
    assert header.ring_size == RING_PAGES * PAGE_SIZE
    assert {comment for record in packets for comment in record.comments} == {
        "past: the receiver took it out",
        "waits in the ring",
    }
    assert b"ring to the host at page 0x28, 3 pages of data: write index" in found[0].body
    times = [record.time_ns for record in packets if record.direction is Direction.GUEST_TO_HOST]
    assert times == sorted(times) and times[-1] == 10**18 - 1


def test_a_capture_of_the_guest_says_where_its_rings_are(sample: Path) -> None:
    assert rings_of_capture(read_records(sample)) == []  # its rings of one page have no data
    records = list(read_records(sample))
    for record in records:
        if record.body[:4] == b"\x08\0\0\0":
            record.body = record.body[:20] + struct.pack("<5Q", 4 * PAGE_SIZE, 4, 5, 6, 7)
        if record.body[:4] == b"\x05\0\0\0":
            record.body = record.body[:24] + struct.pack("<I", 2) + record.body[28:]
    assert rings_of_capture(records) == [RingPages(7, (4, 5), (6, 7))]


def test_what_is_no_memory_image_is_one_clear_line(tmp_path: Path) -> None:
    empty, elf, none = tmp_path / "empty", tmp_path / "elf", tmp_path / "none"
    empty.write_bytes(b"")
    elf.write_bytes(b"\x7fELF" + bytes(100))
    for path, message in ((empty, "is empty"), (elf, "not of 64 bits"), (none, "No such file")):
        with pytest.raises(CannotImport, match=message):
            open_image(path)
    zeros = tmp_path / "zeros"
    zeros.write_bytes(bytes(PAGE_SIZE * 8))
    memory = open_image(zeros)
    with pytest.raises(CannotImport, match="no ring was found"):
        list(records_of_rings(memory, rings_by_search(memory), 0))


def test_a_dump_that_drgn_cannot_read_is_one_clear_line(tmp_path: Path) -> None:
    dump, flattened = tmp_path / "vmcore", tmp_path / "flattened"
    dump.write_bytes(b"KDUMP   " + bytes(4096))
    with pytest.raises(CannotImport, match="drgn cannot read"):
        open_image(dump)
    flattened.write_bytes(b"makedumpfile" + bytes(4096))
    with pytest.raises(CannotImport, match="makedumpfile -R"):
        open_image(flattened)


def test_without_drgn_a_compressed_dump_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "drgn", None)
    dump = tmp_path / "vmcore"
    dump.write_bytes(b"KDUMP   " + bytes(4096))
    with pytest.raises(CannotImport, match=r"pip install vmbus\[memory\]"):
        open_image(dump)
