"""What one channel speaks: the layers behind a ring packet's descriptor, and the line that sums a record up.

A dialect is one protocol in one file; ``dissectors.engine.dialects`` is their registry by interface. This module has
the base class, which knows records, messages and ring packets but no protocol, and so serves unknown devices.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dissectors.engine.layers import Layer
from vmbus.wire.capture import RECORD_FORMATS, Direction, NoteKind, RecordHeader, RecordKind
from vmbus.wire.hypervisor import Msr
from vmbus.wire.ring import GpaDirectHeader, PacketDescriptor, PacketType, TransferPageHeader
from vmbus.wire.schema import Format

if TYPE_CHECKING:
    from dissectors.engine.channels import ChannelLife
    from dissectors.engine.decoded import Decoded

EXTENSIONS: dict[int, type[Format]] = {
    PacketType.GPA_DIRECT: GpaDirectHeader,
    PacketType.TRANSFER_PAGES: TransferPageHeader,
}
COMPLETION = int(PacketType.COMPLETION)

_SIGNAL = struct.Struct("<II")
_REGISTER = struct.Struct("<IIQ")
_U32 = struct.Struct("<I")


class Dialect:
    """Base of all dialects: everything up to the payload of ring packets."""

    name = "ring"
    answers_with_external = True
    """Whether external data may go the other way than the packet that points at it (a read)."""
    unobserved: frozenset[int] = frozenset()
    """First words of external data that ``observe`` has no use for: most of it, which then need not be decoded."""

    def __init__(self, channel: ChannelLife | None = None) -> None:
        self.channel = channel

    def observe(self, item: Decoded) -> None:
        """A record of this channel passes; take note of what later ones depend on.  Must be quick."""

    # What lies where

    def layers(self, item: Decoded) -> list[Layer]:
        """The layers of a record, from its pseudo-header to its last byte."""
        fmt = RECORD_FORMATS.get(item.kind, RecordHeader)
        found = [Layer(fmt, 0, item.body_at)]
        stop = len(item.data)
        if item.kind == RecordKind.PACKET:
            found += self._packet_layers(item, stop)
        elif item.kind == RecordKind.EXTERNAL:
            found += self.external_layers(item, item.body_at, stop)
        elif item.kind == RecordKind.NOTE:
            found.append(Layer(None, item.body_at, stop, "text"))
        elif item.kind == RecordKind.MESSAGE:
            found += self.message_layers(item, item.body_at, stop)
        elif item.body_at < stop:
            found.append(Layer(None, item.body_at, stop, "unknown"))
        return found

    def _packet_layers(self, item: Decoded, stop: int) -> list[Layer]:
        at = item.body_at
        found = [Layer(PacketDescriptor, at, stop)]
        at += PacketDescriptor.SIZE
        if at < item.payload_at:
            extension = EXTENSIONS.get(item.packet_type)
            found.append(Layer(extension, at, item.payload_at, "" if extension else "extension"))
        if item.payload_at < stop:
            found += self.payload_layers(item, item.payload_at, stop)
        return found

    def payload_layers(self, item: Decoded, start: int, stop: int) -> list[Layer]:
        """The layers of a ring packet's payload."""
        return [Layer(None, start, stop, "payload")]

    def external_layers(self, item: Decoded, start: int, stop: int) -> list[Layer]:
        """The layers of data outside the ring."""
        return [Layer(None, start, stop, "payload")] if start < stop else []

    def message_layers(self, item: Decoded, start: int, stop: int) -> list[Layer]:
        """The layers of a hypervisor message."""
        return [Layer(None, start, stop, "payload")]

    def is_cut(self, item: Decoded) -> bool:
        """Whether the end of external data was not recorded."""
        return item.data_offset + len(item.data) - item.body_at < item.data_total

    def is_partial(self, item: Decoded) -> bool:
        """Whether a record may well lack what its formats want: only a part of its data is in it."""
        return Dialect.is_cut(self, item) or item.data_offset != 0

    # One line

    def summary(self, item: Decoded) -> str:
        match item.kind:
            case RecordKind.PACKET:
                return self.packet_summary(item)
            case RecordKind.EXTERNAL:
                return self.external_summary(item)
            case RecordKind.MESSAGE:
                return self.message_summary(item)
            case RecordKind.SIGNAL if len(item.data) >= 24:
                connection_id, flag = _SIGNAL.unpack_from(item.data, 16)
                if item.direction == Direction.GUEST_TO_HOST:
                    return f"signal to the host, connection {connection_id:#x}"
                return f"signal to the guest, event flag {flag}"
            case RecordKind.REGISTER if len(item.data) >= 32:
                vp, number, value = _REGISTER.unpack_from(item.data, 16)
                register = Msr(number)
                name = str(register) if register.is_known else f"register {number:#x}"
                return f"VP {vp} writes {name} = {value:#x}"
            case RecordKind.NOTE if len(item.data) >= 20:
                kind = NoteKind(_U32.unpack_from(item.data, 16)[0])
                text = bytes(item.data[item.body_at :]).decode("utf-8", "replace").rstrip()
                text = "".join(letter if letter.isprintable() else " " for letter in text)
                return text if kind == NoteKind.TEXT else f"{str(kind).lower().replace('_', ' ')}: {text}"
        return f"record of kind {item.kind}, {len(item.data)} bytes"

    def packet_summary(self, item: Decoded) -> str:
        size = len(item.data) - item.payload_at
        return f"{PacketType(item.packet_type)} transaction {item.transaction_id:#x}, {size} bytes"

    def external_summary(self, item: Decoded) -> str:
        total, shown = item.data_total, len(item.data) - item.body_at
        part = "" if shown == total else f" ({shown} recorded)"
        return f"data of transaction {item.transaction_id:#x}, {total} bytes{part}"

    def message_summary(self, item: Decoded) -> str:
        return f"hypervisor message, {len(item.data) - item.body_at} bytes"


class Foreign(Dialect):
    """Records of another link type, which are not ours to decode."""

    name = "foreign"

    def layers(self, item: Decoded) -> list[Layer]:
        return [Layer(None, 0, len(item.data), "unknown")]

    def summary(self, item: Decoded) -> str:
        return f"{len(item.data)} bytes"
