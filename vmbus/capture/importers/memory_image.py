"""The rings in a guest's memory image, as records.

Where the rings are is known from a capture of the same guest (its offers, GPADLs and opened channels), or found out:
Linux allocates the two rings of a channel side by side, each with a control page that is empty but for its first
words (``drivers/hv/channel.c`` ``vmbus_alloc_ring``, ``ring_buffer.c`` ``hv_ringbuffer_init``). A ring that was found
this way has a made-up channel id from 0x80000000 on, and the guest's outgoing ring is the first of the two.

The image has no times. Records carry the time that the caller gives, counted back by a nanosecond for each packet
before the last, so that their order in each ring is kept; a comment says whether a packet waits or is past.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmbus.capture.importers import CannotImport, imported
from vmbus.capture.importers.physical import PhysicalMemory, open_image, pages
from vmbus.capture.importers.ring_image import FoundPacket, RingImage
from vmbus.capture.importers.trace_events import MADE_UP_CHANNELS
from vmbus.capture.reader import Record, read_records
from vmbus.capture.state import StateKeeper
from vmbus.memory import MAX_MAPPED_PAGES, PAGE_SHIFT, PAGE_SIZE
from vmbus.wire.capture import Direction, NoteKind, NoteRecord, PacketRecord, RecordKind
from vmbus.wire.control import GpadlBody, GpadlHeader, MessageHeader, OpenChannel
from vmbus.wire.control_values import MessageType
from vmbus.wire.schema import WireError

_FEATURE_WORD = 16
_MAX_RING_PAGES = 4096


@dataclass(frozen=True, slots=True)
class RingPages:
    """The two rings of a channel, as pages: each a control page and data."""

    channel_id: int
    to_host: tuple[int, ...]
    to_guest: tuple[int, ...]


def rings_of_capture(records: Iterable[Record]) -> list[RingPages]:
    """Where the rings of the channels are that were open when a capture ended."""
    words: dict[int, list[int]] = {}
    opened: dict[int, tuple[int, int]] = {}
    for record in records:
        if record.kind is not RecordKind.MESSAGE:
            continue
        try:
            kind = MessageHeader.parse(record.body).message_type
            if kind == MessageType.GPADL_HEADER:
                header = GpadlHeader.parse(record.body, MessageHeader.SIZE)
                words[header.gpadl_id] = list(header.words)
            elif kind == MessageType.GPADL_BODY:
                body = GpadlBody.parse(record.body, MessageHeader.SIZE)
                words.setdefault(body.gpadl_id, []).extend(body.words)
            elif kind == MessageType.OPEN_CHANNEL:
                opening = OpenChannel.parse(record.body, MessageHeader.SIZE)
                opened[opening.channel_id] = (opening.ring_gpadl_id, opening.downstream_page_offset)
            elif kind in (MessageType.CLOSE_CHANNEL, MessageType.REL_ID_RELEASED):
                opened.pop(int.from_bytes(record.body[8:12], "little"), None)
            elif kind in (MessageType.INITIATE_CONTACT, MessageType.UNLOAD):
                opened.clear()
        except WireError:
            continue
    found: list[RingPages] = []
    for channel_id, (gpadl_id, split) in opened.items():
        pfns = words.get(gpadl_id, [])[1:]  # the first word is the range's length and offset
        if 1 < split < len(pfns) - 1 and len(pfns) <= MAX_MAPPED_PAGES:
            found.append(RingPages(channel_id, tuple(pfns[:split]), tuple(pfns[split:])))
    return found


def rings_by_search(memory: PhysicalMemory) -> list[RingPages]:
    """Pairs of rings that look like those of a Linux guest, by their control pages and what lies between."""
    candidates = list(_control_pages(memory))
    found: list[RingPages] = []
    taken = -1
    for first, second in itertools.pairwise(candidates):
        size = second - first
        if first <= taken or not 1 < size <= _MAX_RING_PAGES:
            continue
        to_host, to_guest = tuple(range(first, second)), tuple(range(second, second + size))
        images = [_image(memory, pfns) for pfns in (to_host, to_guest)]
        if all(image is not None and image.is_sound and _makes_sense(image) for image in images):
            found.append(RingPages(MADE_UP_CHANNELS + len(found), to_host, to_guest))
            taken = second + size - 1
    return found


def _control_pages(memory: PhysicalMemory) -> Iterator[int]:
    """Page numbers of what looks like a control page: indices, flags, the feature bit, and nothing else."""
    for gpa, piece in pages(memory):
        words = np.frombuffer(piece, "<u4").reshape(-1, PAGE_SIZE // 4)
        fits = (words[:, _FEATURE_WORD] == 1) & (words[:, 0] & 7 == 0) & (words[:, 1] & 7 == 0) & (words[:, 2] <= 1)
        for index in np.flatnonzero(fits):
            page = words[index]
            if not page[4:_FEATURE_WORD].any() and not page[_FEATURE_WORD + 1 :].any():
                yield (gpa >> PAGE_SHIFT) + int(index)


def _image(memory: PhysicalMemory, pfns: tuple[int, ...]) -> RingImage | None:
    content = [memory.read(pfn << PAGE_SHIFT, PAGE_SIZE) for pfn in pfns]
    if any(len(page) < PAGE_SIZE for page in content):
        return None
    return RingImage(content[0], b"".join(content[1:]))


def _makes_sense(image: RingImage | None) -> bool:
    """Whether a ring is unused, or holds packets where its indices say so."""
    assert image is not None
    control = image.control
    return bool(image.packets()) or (control.write_index == control.read_index == 0)


def records_of_rings(memory: PhysicalMemory, rings: Iterable[RingPages], time_ns: int) -> Iterator[bytes]:
    """Packet blocks for all packets in the rings: first the past ones of each ring, then those that wait.

    Raises :class:`CannotImport` if no ring is given.
    """
    count = 0
    for pair in rings:
        count += 1
        for direction, pfns in ((Direction.GUEST_TO_HOST, pair.to_host), (Direction.HOST_TO_GUEST, pair.to_guest)):
            image = _image(memory, pfns)
            yield _note(pair.channel_id, direction, pfns, image, time_ns)
            if image is not None:
                yield from _packets(pair.channel_id, direction, image, time_ns)
    if not count:
        raise CannotImport("no ring was found in the memory image; a capture of the same guest says where they are")


def _note(channel_id: int, direction: Direction, pfns: tuple[int, ...], image: RingImage | None, time_ns: int) -> bytes:
    where = f"channel {channel_id:#x}, ring to the {'host' if direction is Direction.GUEST_TO_HOST else 'guest'}"
    where += f" at page {pfns[0]:#x}, {len(pfns) - 1} pages of data"
    if image is None:
        text = f"{where}: not all of it is in the image"
    else:
        control = image.control
        text = (
            f"{where}: write index {control.write_index:#x}, read index {control.read_index:#x}, interrupt mask"
            f" {control.interrupt_mask}, pending send size {control.pending_send_size}"
            + ("" if image.is_sound else ": these cannot be indices of this ring")
        )
    header = NoteRecord(kind=RecordKind.NOTE, note_kind=NoteKind.TEXT)
    return imported(time_ns, header, text.encode())


def _packets(channel_id: int, direction: Direction, image: RingImage, time_ns: int) -> Iterator[bytes]:
    found: list[FoundPacket] = image.packets()
    for number, packet in enumerate(found):
        header = PacketRecord(
            kind=RecordKind.PACKET,
            direction=direction,
            channel_id=channel_id,
            ring_size=image.size,
            offset=packet.offset,
            read_index=image.control.read_index,
            write_index=image.control.write_index,
        )
        comment = "past: the receiver took it out" if packet.is_past else "waits in the ring"
        yield imported(max(0, time_ns - len(found) + number), header, packet.content, comment=comment)


def import_image(path: Path, capture: str = "") -> Iterator[bytes]:
    """Packet blocks for an image file, with the offers of a capture of the same guest before them if there is one.

    Records have the time at which the file was last written to.
    """
    memory = open_image(path)
    try:
        time_ns = path.stat().st_mtime_ns
        if not capture:
            yield from records_of_rings(memory, rings_by_search(memory), time_ns)
            return
        state = StateKeeper()
        rings = rings_of_capture(_followed(read_records(capture), state))
        yield from state.blocks()  # the channels, by name, as a capture that begins where this one ends would have them
        yield from records_of_rings(memory, rings, time_ns)
    finally:
        memory.close()


def _followed(records: Iterable[Record], state: StateKeeper) -> Iterator[Record]:
    """The same records; ``state`` takes note of each."""
    for record in records:
        if record.header is not None and record.kind in (RecordKind.MESSAGE, RecordKind.PACKET):
            state.follow(imported(record.time_ns, record.header, record.body))
        yield record
