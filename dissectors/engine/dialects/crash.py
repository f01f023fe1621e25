"""A crash dump device's channel: what a write announces is the next message, and has no header of its own.

Facts: ``vmbus.wire.crash``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dissectors.engine.dialects.plain import Plain
from dissectors.engine.layers import Layer
from vmbus.wire.capture import Direction, RecordKind
from vmbus.wire.crash import CrashMessage, CrashMessageType, DumpWriteRequest
from vmbus.wire.protocols import ABBREVIATIONS
from vmbus.wire.ring import PipeHeader
from vmbus.wire.schema import WireError

if TYPE_CHECKING:
    from dissectors.engine.channels import ChannelLife
    from dissectors.engine.decoded import Decoded

_TYPE_AT = PipeHeader.SIZE + 16
_WRITE = int(CrashMessageType.REQUEST_NIX_DUMP_WRITE_V1).to_bytes(8, "little")


class CrashDump(Plain):
    """Messages of a dump, and its bytes."""

    def __init__(self, channel: ChannelLife) -> None:
        super().__init__(channel, ABBREVIATIONS["crash"])
        self._announced: tuple[Decoded, int] | None = None

    def observe(self, item: Decoded) -> None:
        if item.kind != RecordKind.PACKET or item.direction != Direction.GUEST_TO_HOST:
            return
        announced, self._announced = self._announced, None
        data, at = item.data, item.payload_at
        if announced is not None and data[at + 4 : at + 8] == announced[1].to_bytes(4, "little"):
            item.request = announced[0]
        elif data[at + _TYPE_AT : at + _TYPE_AT + 8] == _WRITE:
            try:
                body = CrashMessage.parse(data, at + PipeHeader.SIZE).body
            except WireError:
                return
            if isinstance(body, DumpWriteRequest):
                self._announced = item, body.size

    def payload_layers(self, item: Decoded, start: int, stop: int) -> list[Layer]:
        if item.request is None:
            return super().payload_layers(item, start, stop)
        begin = start + PipeHeader.SIZE
        end = min(begin + int.from_bytes(item.data[start + 4 : begin], "little"), stop)
        found = [Layer(PipeHeader, start, stop), Layer(None, begin, end, "payload")]
        return [*found, Layer(None, end, stop, "padding")] if end < stop else found

    def packet_summary(self, item: Decoded) -> str:
        if item.request is None:
            return super().packet_summary(item)
        return f"{len(item.data) - item.payload_at - PipeHeader.SIZE} bytes of the dump"
