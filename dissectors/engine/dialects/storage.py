"""A SCSI controller's channel: VSTOR in the ring, commands and sense data in VSTOR, data in the pages it points at.

A completion does not say what it completes: its format follows from the request with the same transaction id.  Where
the request was not seen, it is taken for a command, as nearly all are.  Facts: ``vmbus.wire.vstor``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dissectors.engine.commands import command_name, data_format
from dissectors.engine.dialect import COMPLETION, Dialect
from dissectors.engine.layers import Layer
from vmbus.wire.capture import Direction, RecordKind
from vmbus.wire.vstor import (
    ScsiStatus,
    SrbStatus,
    VstorOperation,
    VstorRequest,
    VstorStatus,
    completion_format,
)

if TYPE_CHECKING:
    from dissectors.engine.decoded import Decoded

EXECUTE_SRB = int(VstorOperation.EXECUTE_SRB)
SRB_AT = 12
"""Where the request block starts in a VSTOR packet."""
CDB_AT = SRB_AT + 16
CDB_SIZE = 16

_HEADER = struct.Struct("<III")
_SRB = struct.Struct("<HBBBBBBBBBBI")


class Storage(Dialect):
    """VSTOR and SCSI."""

    name = "vstor"

    def payload_layers(self, item: Decoded, start: int, stop: int) -> list[Layer]:
        if item.packet_type != COMPLETION:
            return [Layer(VstorRequest, start, stop)]
        operation = operation_of(item.request) if item.request is not None else EXECUTE_SRB
        return [Layer(completion_format(operation, stop - start), start, stop)]

    def external_layers(self, item: Decoded, start: int, stop: int) -> list[Layer]:
        if start >= stop:
            return []
        command = cdb_of(item.request) if item.request is not None else b""
        fmt = data_format(command, to_guest=item.direction == Direction.HOST_TO_GUEST) if command else None
        if fmt is None or item.data_offset:
            return [Layer(None, start, stop, "payload")]
        return [Layer(fmt, start, stop)]

    def is_partial(self, item: Decoded) -> bool:
        """Answers also end early, lawfully, where the command left no room for more."""
        if super().is_partial(item):
            return True
        request = item.request
        if item.kind != RecordKind.EXTERNAL or request is None or operation_of(request) != EXECUTE_SRB:
            return False
        return len(item.data) - item.body_at >= _srb_length(request)

    def packet_summary(self, item: Decoded) -> str:
        data, at = item.data, item.payload_at
        if len(data) < at + SRB_AT:
            return super().packet_summary(item)
        operation, _, status = _HEADER.unpack_from(data, at)
        if item.packet_type != COMPLETION:
            text = str(VstorOperation(operation))
            return f"{text} {_command_line(item)}" if operation == EXECUTE_SRB else text
        asked = operation_of(item.request) if item.request is not None else EXECUTE_SRB
        text = f"{VstorOperation(operation)} {VstorStatus(status)}"
        if asked != EXECUTE_SRB:
            return f"{text} for {VstorOperation(asked)}"
        if len(data) >= at + SRB_AT + _SRB.size:
            _, srb, scsi, *_, moved = _SRB.unpack_from(data, at + SRB_AT)
            text = f"{VstorOperation(operation)} {_outcome(status, srb, scsi)} {moved} bytes"
        return f"{text} for {command_name(cdb_of(item.request))}" if item.request is not None else text

    def external_summary(self, item: Decoded) -> str:
        text = super().external_summary(item)
        command = cdb_of(item.request) if item.request is not None else b""
        return f"{command_name(command)} {text}" if command else text


def operation_of(request: Decoded | None) -> int:
    """The operation of a VSTOR packet; 0 if it is too short to say."""
    if request is None or len(request.data) < request.payload_at + 4:
        return 0
    return int.from_bytes(request.data[request.payload_at : request.payload_at + 4], "little")


def cdb_of(request: Decoded | None) -> bytes:
    """The command of a request, as many bytes as its request block says; empty if it carries none."""
    if request is None or operation_of(request) != EXECUTE_SRB:
        return b""
    at = request.payload_at
    block = bytes(request.data[at : at + CDB_AT + CDB_SIZE])
    return block[CDB_AT : CDB_AT + min(block[SRB_AT + 8], CDB_SIZE)] if len(block) > CDB_AT else b""


def _outcome(status: int, srb: int, scsi: int) -> str:
    """How a command ended: in SCSI's word alone, unless something above it failed."""
    words = VstorStatus(status), SrbStatus(srb & 0x3F), ScsiStatus(scsi)
    has_passed = words[:2] == (VstorStatus.SUCCESS, SrbStatus.SUCCESS)
    return str(words[2]) if has_passed else " ".join(map(str, words))


def _srb_length(request: Decoded) -> int:
    """The bytes that a command has room for, as its request block says."""
    at = request.payload_at + SRB_AT
    return int(_SRB.unpack_from(request.data, at)[-1]) if len(request.data) >= at + _SRB.size else 0


def _command_line(item: Decoded) -> str:
    data, at = item.data, item.payload_at + SRB_AT
    if len(data) < at + _SRB.size:
        return ""
    *_, path, target, lun, _, _, direction, _, length = _SRB.unpack_from(data, at)
    moves = f", {('writes', 'reads', 'moves')[min(direction, 2)]} {length} bytes" if length else ""
    return f"{path}:{target}:{lun} {command_name(cdb_of(item))}{moves}"
