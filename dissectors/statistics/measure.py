"""What statistics take from a part of a capture, while it is the newest and its bytes can be looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dissectors.engine.channels import ChannelLife
from dissectors.engine.dialect import COMPLETION
from dissectors.engine.dialects.network import Network
from dissectors.engine.dialects.storage import CDB_AT, EXECUTE_SRB, Storage
from dissectors.engine.parts import Part
from dissectors.engine.span import groups
from vmbus.capture.columns import RecordMark
from vmbus.wire.capture import HEADER_SIZE, RecordKind
from vmbus.wire.nvsp import NvspMessageType
from vmbus.wire.scsi import Opcode
from vmbus.wire.vstor import VstorOperation

_PACKET, _EXTERNAL = int(RecordKind.PACKET), int(RecordKind.EXTERNAL)
_BLOCK_HEAD = 28
"""From the start of a packet block to the record in it."""
_DATA_OFFSET_AT = 28
"""In an external record: where in all of the data it starts."""


class Measure:
    """One part: the life and the bytes of each record, and the operation of each request."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.lives, self.volume = part.lives(), _volumes(part)
        columns = part.columns
        is_completion = columns.subtype == COMPLETION
        asks = columns.flags & RecordMark.WANTS_COMPLETION != 0
        self.requests: NDArray[np.int64] = np.flatnonzero((columns.kind == _PACKET) & ~is_completion & asks)
        """Which records are requests."""
        self.operations: list[str] = [""]
        """The names of operations that occur; the first is for channels whose operations have no names here."""
        self.operation: NDArray[np.int32] = np.zeros(len(self.requests), np.int32)
        """Of each request, a place in ``operations``."""
        codes, lives = self.lives
        for code, mine in groups(codes[self.requests]):
            for name, which in _operations(part, lives[code], self.requests[mine]).items():
                self.operation[mine[which]] = len(self.operations)
                self.operations.append(name)


def _volumes(part: Part) -> NDArray[np.int64]:
    """Bytes that crossed in each record; external data counts with its first record."""
    columns = part.columns
    volume = np.maximum(columns.original_length.astype(np.int64) - HEADER_SIZE, 0)
    external = np.flatnonzero(columns.kind == _EXTERNAL)
    later = part.store.words_at(columns.offset[external] + np.uint64(_BLOCK_HEAD + _DATA_OFFSET_AT)) != 0
    volume[external[later]] = 0
    return volume


def _operations(part: Part, life: ChannelLife | None, requests: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The requests of a storage or network channel by operation."""
    if life is None or not isinstance(life.dialect, (Storage, Network)):
        return {}
    words = part.store.words_at
    descriptor = part.columns.offset[requests] + np.uint64(_BLOCK_HEAD + HEADER_SIZE)
    payload = descriptor + (words(descriptor) >> np.uint32(16)).astype(np.uint64) * np.uint64(8)
    number = words(payload)
    if isinstance(life.dialect, Network):
        return {str(NvspMessageType(int(value))): np.flatnonzero(number == value) for value in np.unique(number)}
    code = words(payload + np.uint64(CDB_AT)) & np.uint32(0xFF)
    found = {
        str(VstorOperation(int(value))): np.flatnonzero(number == value)
        for value in np.unique(number)
        if value != EXECUTE_SRB
    }
    is_command = number == EXECUTE_SRB
    for value in np.unique(code[is_command]):
        found[str(Opcode(int(value)))] = np.flatnonzero(is_command & (code == value))
    return found
