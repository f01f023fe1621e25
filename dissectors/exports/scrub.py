"""Blanks what a capture holds of people's data, and keeps its structure, so that it can be shared.

Blanked are the fields that the declarations call payload (blocks of disks, Ethernet frames, bytes of sockets ...), data
outside the ring of unknown meaning, packets of unknown devices, and what consoles and kernel logs said.  Of a frame the
type is kept.  All lengths, times, commands, addresses of blocks and identifiers stay as they are.  What is not
understood is blanked whole: records that are none of VMBus, blocks that hold no records, and bytes that are damaged.
"""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from dissectors.engine import Decoded, Session
from dissectors.engine.dialects.network import Network, frame_parts
from vmbus.capture import blocks
from vmbus.capture.reader import PACKET_BLOCKS
from vmbus.capture.store import CaptureStore
from vmbus.capture.walk import BlockWalker, Damage
from vmbus.wire.capture import NoteKind, NoteRecord, RecordKind
from vmbus.wire.schema import WireError

_KEPT_NOTES = frozenset({NoteKind.TEXT, NoteKind.PROBLEM})
_KEPT_BLOCKS = PACKET_BLOCKS | {blocks.SECTION_HEADER, blocks.INTERFACE_DESCRIPTION, blocks.INTERFACE_STATISTICS}
_ETHERTYPE = slice(12, 14)
_PIECE = 1 << 20


def private_ranges(item: Decoded) -> Iterator[tuple[int, int]]:
    """Where in a record's bytes somebody's data lies: starts and ends."""
    if item.kind == RecordKind.NOTE:
        try:
            kind = NoteRecord.parse(item.data).note_kind
        except WireError:
            kind = NoteKind.TEXT
        if kind not in _KEPT_NOTES:
            yield item.body_at, len(item.data)
        return
    parts = list(frame_parts(item)) if isinstance(item.dialect, Network) else []
    for start, stop, _, continues in parts:
        if continues:
            yield start, stop
        else:
            yield start, min(start + _ETHERTYPE.start, stop)
            yield min(start + _ETHERTYPE.stop, stop), stop
    if parts:
        return
    for node in item.tree:
        is_payload = node.field is not None and node.field.payload
        if not node.children and node.size and (is_payload or (node.field is None and node.name == "payload")):
            yield node.offset, node.offset + node.size


def scrub(
    source: str | Path,
    target: Path,
    session: Session | None = None,
    on_damage: Callable[[Damage], None] = lambda damage: None,
) -> int:
    """Copy a capture with its private bytes blanked; returns how many those were.

    What comes from standard input or a stream is copied once it has ended.
    """
    session = session or Session()
    store = CaptureStore.open(source)
    try:
        store.update(final=True)
        private = heapq.merge(_outside_records(store, on_damage), _in_records(store, session))
        with store.reopen() as original, target.open("wb") as copy:
            return _copy(original, copy, private)
    finally:
        store.close()


def _copy(original: BinaryIO, copy: BinaryIO, private: Iterable[tuple[int, int]]) -> int:
    """Copy a file with zeros for what is private, which comes in order; returns how many.

    Nothing private is ever in the copy, also when it is never finished.
    """
    at = blanked = 0
    for start, stop in private:
        if stop <= at:
            continue
        for piece in _pieces(max(start - at, 0)):
            copy.write(original.read(piece))
        at = max(start, at)
        for piece in _pieces(stop - at):
            copy.write(bytes(piece))
        blanked += stop - at
        at = original.seek(stop)
    shutil.copyfileobj(original, copy, _PIECE)
    return blanked


def _pieces(size: int) -> Iterator[int]:
    """A number of bytes in pieces that memory has room for."""
    while size > 0:
        yield min(size, _PIECE)
        size -= _PIECE


def _in_records(store: CaptureStore, session: Session) -> Iterator[tuple[int, int]]:
    times, kinds = store.columns.time.tolist(), store.columns.kind.tolist()
    for index, kind in enumerate(kinds):
        at, data = store.data_offset(index), store.data(index)
        if not kind:
            yield at, at + len(data)
            continue
        for start, stop in sorted(private_ranges(session.feed_bytes(data, times[index], index + 1))):
            yield at + start, at + stop


def _outside_records(store: CaptureStore, on_damage: Callable[[Damage], None]) -> Iterator[tuple[int, int]]:
    with store.reopen() as file:
        for found in BlockWalker(file):
            if isinstance(found, Damage):
                on_damage(found)
                yield found.offset, found.offset + found.skipped
            elif found.block_type not in _KEPT_BLOCKS:
                yield found.offset + 8, found.offset + 8 + len(found.body)
