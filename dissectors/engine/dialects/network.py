"""A network card's channel: NVSP in the ring, RNDIS and Ethernet frames in the pages and buffers that it points at.

An RNDIS answer says which request it is for by a request id of its own, because it travels in another ring packet; so
the requests of a channel are kept until they are answered.  Facts: ``vmbus.wire.nvsp``, ``vmbus.wire.rndis``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from dissectors.engine.dialect import COMPLETION, Dialect
from dissectors.engine.layers import Layer
from vmbus.wire.capture import Direction, RecordKind
from vmbus.wire.nvsp import NvspCompletion, NvspMessage, NvspMessageType, NvspStatus
from vmbus.wire.rndis import RndisMessage, RndisMessageType, RndisReceivedMessage
from vmbus.wire.rndis_oid import Oid
from vmbus.wire.rndis_oid_formats import OID_ANSWERS
from vmbus.wire.rndis_ppi import PacketId, PacketIdFlags, PpiType
from vmbus.wire.schema import Format
from vmbus.wire.tail import choose

if TYPE_CHECKING:
    from dissectors.engine.channels import ChannelLife
    from dissectors.engine.decoded import Decoded

_U32 = struct.Struct("<I")
_RNDIS = struct.Struct("<IIII")
_ANSWER = struct.Struct("<IIII")
_PACKET = struct.Struct("<IIII")
_INFO_PLACE = struct.Struct("<II")
_INFO = struct.Struct("<III")  # wire.rndis_ppi.PerPacketInfo
_ETHERTYPE = struct.Struct(">H")

COMPLETE = 0x80000000
"""Set in the type of an RNDIS message that answers one."""
MAX_REQUESTS = 256
REQUESTS = frozenset(
    int(t)
    for t in (
        RndisMessageType.INITIALIZE, RndisMessageType.QUERY, RndisMessageType.SET, RndisMessageType.SET_EX,
        RndisMessageType.RESET, RndisMessageType.KEEPALIVE,
    )
)  # fmt: skip
_BODY = 8
_ETHERTYPES = {0x0800: "IPv4", 0x0806: "ARP", 0x86DD: "IPv6", 0x8100: "VLAN"}


class Network(Dialect):
    """NVSP and RNDIS."""

    name = "nvsp"
    answers_with_external = False
    unobserved = frozenset({int(RndisMessageType.PACKET)})

    def __init__(self, channel: ChannelLife | None = None) -> None:
        super().__init__(channel)
        self._requests: dict[int, Decoded] = {}

    def observe(self, item: Decoded) -> None:
        if item.kind != RecordKind.EXTERNAL or len(item.data) < item.body_at + 12:
            return
        message_type, _, request_id, _ = rndis_head(item)
        if message_type in REQUESTS:
            if len(self._requests) >= MAX_REQUESTS:
                self._requests.pop(next(iter(self._requests)))
            self._requests[request_id] = item
        elif message_type & COMPLETE:
            request = self._requests.pop(request_id, None)
            if request is not None:
                item.request, request.response = request, item

    def is_cut(self, item: Decoded) -> bool:
        """Each of a packet's messages is a record: one that is all there is not cut, whatever the packet's length."""
        return super().is_cut(item) and not _ends_with_a_message(item)

    def payload_layers(self, item: Decoded, start: int, stop: int) -> list[Layer]:
        return [Layer(NvspCompletion if item.packet_type == COMPLETION else NvspMessage, start, stop)]

    def external_layers(self, item: Decoded, start: int, stop: int) -> list[Layer]:
        fmt = RndisReceivedMessage if item.direction == Direction.HOST_TO_GUEST else RndisMessage
        found: list[Layer] = []
        at = start
        while stop - at >= _BODY:
            message_type, length, _, _ = _rndis_at(item, at)
            end = min(at + length, stop) if length >= _BODY else stop
            found.append(Layer(fmt, at, end, within=self._within(item, message_type, end - at)))
            at = end
        return [*found, Layer(None, at, stop, "padding")] if at < stop else found

    def _within(self, item: Decoded, message_type: int, room: int) -> tuple[tuple[str, type[Format]], ...]:
        """The format of a queried value, which only the request tells."""
        if message_type != RndisMessageType.QUERY_COMPLETE or item.request is None:
            return ()
        length = _ANSWER.unpack_from(item.data, item.body_at + _BODY)[2] if room >= _BODY + 16 else 0
        answer = choose(OID_ANSWERS, _oid_of(item.request), length)
        return () if answer is None else (("information", answer),)

    def packet_summary(self, item: Decoded) -> str:
        data, at = item.data, item.payload_at
        if len(data) < at + 4:
            return "empty completion" if item.packet_type == COMPLETION else super().packet_summary(item)
        number = _U32.unpack_from(data, at)[0]
        text = str(NvspMessageType(number))
        if len(data) < at + 16:
            return text
        first, section, size = struct.unpack_from("<III", data, at + 4)
        if number == NvspMessageType.SEND_RNDIS_PACKET:
            where = f" section {section}, {size} bytes" if section != 0xFFFFFFFF else ""
            return f"{text} {'control' if first else 'data'}{where}"
        if number == NvspMessageType.SEND_RNDIS_PACKET_COMPLETE:
            return f"{text} {NvspStatus(first)}"
        return text

    def external_summary(self, item: Decoded) -> str:
        room = len(item.data) - item.body_at
        number, length, request_id, last = rndis_head(item)
        text = f"RNDIS {RndisMessageType(number)}"
        if room >= length == 12:  # HALT, KEEPALIVE and RESET are no longer
            return f"{text} {length} bytes"
        if room < 16:
            return super().external_summary(item)
        if number == RndisMessageType.PACKET:
            return f"{text} {_frame_line(item)}"
        if number in (RndisMessageType.QUERY, RndisMessageType.SET, RndisMessageType.SET_EX):
            return f"{text} {Oid(last)} request {request_id}"
        if item.request is not None and number in (RndisMessageType.QUERY_COMPLETE, RndisMessageType.SET_COMPLETE):
            return f"{text} {Oid(_oid_of(item.request))} request {request_id}"
        return f"{text} {length} bytes"


def _rndis_at(item: Decoded, at: int) -> tuple[int, int, int, int]:
    piece = bytes(item.data[at : at + 16]).ljust(16, b"\0")
    a, b, c, d = _RNDIS.unpack(piece)
    return a, b, c, d


def rndis_head(item: Decoded) -> tuple[int, int, int, int]:
    """Type, length and the first two words of the body of the RNDIS message that an external record starts with."""
    return _rndis_at(item, item.body_at)


def _ends_with_a_message(item: Decoded) -> bool:
    at, stop = item.body_at, len(item.data)
    while stop - at >= _BODY:
        at += max(_rndis_at(item, at)[1], _BODY)
    return at == stop


def _oid_of(request: Decoded) -> int:
    return rndis_head(request)[3]


class FramePart(NamedTuple):
    """A frame in a record, or one of the pieces of a coalesced frame."""

    start: int
    """Where it starts in the record's bytes."""
    stop: int
    """Where what was recorded of it ends."""
    length: int
    """Its real length in bytes."""
    continues: bool
    """Whether it belongs behind the part before it."""


def frame_parts(item: Decoded) -> Iterator[FramePart]:
    """Where the Ethernet frames of data messages lie."""
    if item.kind != RecordKind.EXTERNAL:
        return
    at, stop = item.body_at, len(item.data)
    while stop - at >= 16:
        number, size, offset, length = _rndis_at(item, at)
        end = min(at + size, stop) if size >= _BODY else stop
        start = at + _BODY + offset
        if number == RndisMessageType.PACKET and start < end:
            yield FramePart(start, min(start + length, end), length, _is_later_piece(item, at, end))
        at = end


def _is_later_piece(item: Decoded, at: int, end: int) -> bool:
    """Whether the data message at ``at`` says by its packet id that it goes on with a coalesced frame."""
    if item.direction != Direction.HOST_TO_GUEST or end - at < _INFO_PLACE.size + 28:
        return False
    offset, size = _INFO_PLACE.unpack_from(item.data, at + 28)
    info_at = at + _BODY + offset
    info_end = min(info_at + size, end)
    while info_end - info_at >= _INFO.size:
        length, kind, value_at = _INFO.unpack_from(item.data, info_at)
        if kind == PpiType.PACKET_ID and info_at + value_at + PacketId.SIZE <= info_end:
            flags: int = item.data[info_at + value_at + 1]
            return flags & (PacketIdFlags.MULTI_SUBALLOCATION | PacketIdFlags.FIRST_FRAGMENT) == 1
        info_at += max(length, _INFO.size)
    return False


def frames_of(item: Decoded) -> Iterator[tuple[bytes, int]]:
    """The Ethernet frames of data messages, coalesced ones put together: what was recorded of each, and real length."""
    pieces: list[FramePart] = []
    for part in frame_parts(item):
        if pieces and not part.continues:
            yield _joined(item, pieces)
            pieces.clear()
        pieces.append(part)
    if pieces:
        yield _joined(item, pieces)


def _joined(item: Decoded, pieces: list[FramePart]) -> tuple[bytes, int]:
    recorded = b""
    for start, stop, length, _ in pieces:
        recorded += item.data[start:stop]
        if stop - start < length:
            break
    return recorded, sum(piece.length for piece in pieces)


def _frame_line(item: Decoded) -> str:
    frame, length = next(frames_of(item), (b"", 0))
    if len(frame) < 14:
        return "frame"
    ethertype = _ETHERTYPE.unpack_from(frame, 12)[0]
    kind = _ETHERTYPES.get(ethertype, f"{ethertype:#06x}")
    return f"{frame[6:12].hex(':')} > {frame[:6].hex(':')} {kind}, {length} bytes"
