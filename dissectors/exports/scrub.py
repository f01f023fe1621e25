"""Blanks what a capture holds of people's data, and keeps its structure, so that it can be shared.

Blanked are the fields that the declarations call payload (blocks of disks, Ethernet frames, bytes of sockets ...), data
outside the ring of unknown meaning, packets of unknown devices, and what consoles and kernel logs said.  Of a frame the
type is kept.  All lengths, times, commands, addresses of blocks and identifiers stay as they are.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from dissectors.engine import Decoded, Session
from dissectors.engine.dialects.network import Network, frame_parts
from vmbus.capture.store import CaptureStore
from vmbus.wire.capture import NoteKind, NoteRecord, RecordKind
from vmbus.wire.schema import WireError

_KEPT_NOTES = frozenset({NoteKind.TEXT, NoteKind.PROBLEM})
_ETHERTYPE = slice(12, 14)


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


def scrub(source: Path, target: Path, session: Session | None = None) -> int:
    """Copy a capture and blank its private bytes in the copy; returns how many bytes were blanked."""
    session = session or Session()
    store = CaptureStore.open(source)
    try:
        store.update(final=True)
        shutil.copyfile(source, target)
        blanked = 0
        with target.open("r+b") as file:
            for index in range(len(store)):
                item = session.feed_bytes(store.data(index), int(store.columns.time[index]), index + 1)
                at = store.data_offset(index)
                for start, stop in private_ranges(item):
                    file.seek(at + start)
                    file.write(bytes(stop - start))
                    blanked += stop - start
        return blanked
    finally:
        store.close()
