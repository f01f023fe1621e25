"""The stateful decoder: records go in, in order, and come out knowing their channel, their protocol and their partner.

A session keeps the negotiated version, the life of every channel, and the requests that wait for completion.  It works
from the middle of a capture: a channel whose offer was not seen is ``unknown`` until ``decode_as`` or a packet of an
unmistakable shape says what it speaks.  Nothing a record holds makes it raise.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

from dissectors.engine.channels import ChannelLife
from dissectors.engine.decoded import Decoded
from dissectors.engine.dialect import COMPLETION, Dialect, Foreign
from dissectors.engine.dialects import dialect_for
from dissectors.engine.dialects.control import ControlPlane, named_channel
from dissectors.engine.pairing import Key, open_request
from dissectors.engine.plane import ControlState
from vmbus.capture.reader import Record
from vmbus.wire.capture import HEADER_SIZE, LINK_TYPE, RECORD_FORMATS, VERSION, Direction, RecordFlags, RecordKind
from vmbus.wire.control_values import SYNIC_MESSAGE_TYPE
from vmbus.wire.offer import OfferFlags
from vmbus.wire.protocols import Protocol, protocol_of
from vmbus.wire.ring import PacketDescriptor
from vmbus.wire.schema import Buffer

_HEAD = struct.Struct("<BBHBBHII")
_DESCRIPTOR = struct.Struct("<HHHHQ")
_MESSAGE = struct.Struct("<IIII")
_U64 = struct.Struct("<Q")
_PACKET, _EXTERNAL, _MESSAGE_KIND = int(RecordKind.PACKET), int(RecordKind.EXTERNAL), int(RecordKind.MESSAGE)
_SNAPSHOT = int(RecordFlags.SNAPSHOT)
_OPPOSITE = {
    int(Direction.GUEST_TO_HOST): int(Direction.HOST_TO_GUEST),
    int(Direction.HOST_TO_GUEST): int(Direction.GUEST_TO_HOST),
}


def opposite(direction: int) -> int:
    """The direction of what answers; 0 for an unknown one."""
    return _OPPOSITE.get(direction, 0)


class Session:
    """Decodes the records of one connection, in order."""

    def __init__(self, decode_as: Mapping[int, Protocol] | None = None, *, keeps_past_lives: bool = True) -> None:
        """``decode_as`` says what channels speak whose offer the capture may not hold, or that lie about it.

        Without ``keeps_past_lives`` a channel that is over is forgotten: ``lives`` are then those that are not.
        """
        self.decode_as = dict(decode_as or {})
        self.plane = ControlState(self._make_dialect, keeps_past_lives=keeps_past_lives)
        self.count = 0
        self.unknown = 0
        """Records that are none of VMBus, or that no version of ours wrote."""
        self._control = ControlPlane()
        self._unknown = Dialect()
        self._foreign = Foreign()
        self._pending: dict[Key, Decoded] = {}

    # What is known

    @property
    def channels(self) -> dict[int, ChannelLife]:
        """The current life of every channel, by id."""
        return self.plane.channels

    @property
    def lives(self) -> list[ChannelLife]:
        """Every life of every channel that was seen, in order of appearance."""
        return self.plane.lives

    @property
    def pending(self) -> Iterable[Decoded]:
        """Requests that no completion has answered yet."""
        return self._pending.values()

    def _make_dialect(self, life: ChannelLife) -> Dialect:
        protocol = self.decode_as.get(life.channel_id)
        if protocol is None:
            is_socket = bool(life.flags & OfferFlags.TLNPI_PROVIDER)
            protocol = protocol_of(life.interface_id, life.instance_id, is_hvsocket=is_socket)
        return dialect_for(protocol, life)

    # Records in

    def feed_all(self, records: Iterable[Record]) -> Iterator[Decoded]:
        """Decode a stream of records."""
        for record in records:
            yield self.feed(record)

    def feed(self, record: Record) -> Decoded:
        """Take up the next record that a reader of ``vmbus.capture`` gave."""
        header = record.header
        if record.interface.link_type != LINK_TYPE:
            self.count = record.number
            self.unknown += 1
            item = Decoded(record.number, record.time_ns, record.body, self._foreign)
        else:
            data = record.body if header is None else header.build().ljust(header.header_size, b"\0") + record.body
            item = self.feed_bytes(data, record.time_ns, record.number)
        if record.problem and not item.notes:
            item.notes.append(record.problem)
        if record.dropped:
            item.lost = record.dropped
            item.notes.append(f"{record.dropped} records before this one were lost")
        return item

    def feed_bytes(self, data: Buffer, time_ns: int, number: int | None = None) -> Decoded:
        """Take up the next record, given as the packet data of its pcapng block."""
        self.count = number or self.count + 1
        item = Decoded(self.count, time_ns, data, self._unknown)
        if len(data) < _HEAD.size:
            return self._is_unknown(item, f"the record has {len(data)} bytes; its header alone has {HEADER_SIZE}")
        version, kind, header_size, item.direction, _, item.flags, item.channel_id, _ = _HEAD.unpack_from(data)
        item.kind = kind
        if version != VERSION:
            return self._is_unknown(item, f"the record has version {version}, this program knows {VERSION}")
        if kind not in RECORD_FORMATS:
            item.notes.append(f"the record is of an unknown kind {kind}")
            return item
        if not HEADER_SIZE <= header_size <= len(data):
            what = f"the record says that its body starts at byte {header_size} of {len(data)}"
            return self._is_unknown(item, what)
        item.body_at = header_size
        if kind == _PACKET:
            self._packet(item)
        elif kind == _EXTERNAL:
            self._external(item)
        elif kind == _MESSAGE_KIND:
            self._message(item)
        elif item.channel_id:
            item.channel = self.plane.life(item.channel_id)
        return item

    def _is_unknown(self, item: Decoded, what: str) -> Decoded:
        item.kind = 0
        item.notes.append(what)
        self.unknown += 1
        return item

    def _message(self, item: Decoded) -> None:
        if _MESSAGE.unpack_from(item.data, 16)[3] != SYNIC_MESSAGE_TYPE:
            return
        item.dialect = self._control
        item.channel_id = named_channel(item)
        self.plane.observe(item)

    def _packet(self, item: Decoded) -> None:
        life = self.plane.life(item.channel_id)
        item.channel, item.dialect = life, life.dialect
        data, at = item.data, item.body_at
        room = len(data) - at
        if room < PacketDescriptor.SIZE:
            item.notes.append(f"the packet has {room} bytes; its descriptor alone has {PacketDescriptor.SIZE}")
            item.payload_at = len(data)
            return
        item.packet_type, offset8, length8, flags, item.transaction_id = _DESCRIPTOR.unpack_from(data, at)
        item.payload_at = at + offset8 * 8
        if offset8 < 2 or offset8 > length8 or length8 * 8 > room:
            item.notes.append(
                f"the descriptor says payload at {offset8 * 8} and length {length8 * 8}; {room} bytes were recorded"
            )
            item.payload_at = min(max(item.payload_at, at + PacketDescriptor.SIZE), len(data))
        if item.packet_type == COMPLETION:
            self._completion(item)
        elif flags & 1:
            self._request(item)
        item.dialect.observe(item)

    def _request(self, item: Decoded) -> None:
        item.wants_completion = True
        key = (item.channel_id, item.direction, item.transaction_id)
        earlier = self._pending.get(key)
        if earlier is not None and not item.flags & _SNAPSHOT:
            self._note_repetition(item, earlier.number)
        open_request(self._pending, key, item)

    @staticmethod
    def _note_repetition(item: Decoded, number: int) -> None:
        """The transaction id of a request is that of record ``number``, which is still open."""
        item.notes.append(f"transaction {item.transaction_id:#x} of record {number} is not completed yet")

    def _completion(self, item: Decoded) -> None:
        key = (item.channel_id, opposite(item.direction), item.transaction_id)
        request = self._pending.pop(key, None)
        if request is not None:
            item.request, request.response = request, item

    def _external(self, item: Decoded) -> None:
        self._take_external(item)
        found = self._pending.get((item.channel_id, item.direction, item.transaction_id))
        if found is None and item.dialect.answers_with_external:
            found = self._pending.get((item.channel_id, opposite(item.direction), item.transaction_id))
        item.request = found
        item.dialect.observe(item)

    def _take_external(self, item: Decoded) -> None:
        """What external data says about itself."""
        life = self.plane.life(item.channel_id)
        item.channel, item.dialect = life, life.dialect
        item.transaction_id = _U64.unpack_from(item.data, 16)[0]
