# SPDX-License-Identifier: GPL-2.0-or-later
# scapy.contrib.description = VMBus: captures, control messages, ring packets and the protocols of synthetic devices
# scapy.contrib.status = loads

"""VMBus in scapy: the records of our captures (link type USER0), and everything in them.

Layers are generated from the declarations of ``vmbus.wire``, which cite their sources; ``layer(NAME)`` finds one.
What a record holds depends on what came before it: channels have to be known by their offers, completions by their
requests.  So records go through a session of ``dissectors.engine``, which scapy's configuration keeps::

    >>> packets = rdpcap("traffic.pcapng")
    >>> conf.contribs["vmbus"]["session"].channels[3].name
    'scsi'
"""

from __future__ import annotations

from copy import copy
from typing import Any

from scapy.config import conf
from scapy.packet import Packet, Raw, bind_top_down

from dissectors.engine import Decoded, Session
from dissectors.engine.dialect import EXTENSIONS
from dissectors.engine.dialects.control import BODY_CASES, CONTACT_CASES, body_format
from dissectors.engine.formats import known_formats
from dissectors.engine.layers import Layer
from dissectors.layers.scapy_face import layer_of
from vmbus.wire import capture, control, ring
from vmbus.wire.control_values import MessageType
from vmbus.wire.schema import Format

_OPPOSITE = {1: 2, 2: 1}


def forget() -> None:
    """Start with no known channel and no waiting request, as at the beginning of a capture."""
    conf.contribs["vmbus"] = {"session": Session()}


def session() -> Session:
    """The session that knows what the records dissected so far have said."""
    if "vmbus" not in conf.contribs:
        forget()
    found: Session = conf.contribs["vmbus"]["session"]
    return found


def _with_defaults(fmt: type[Format], **defaults: int) -> list[Any]:
    """The fields of a format's layer with other defaults."""
    fields = []
    for field in layer_of(fmt).fields_desc:
        field = copy(field)
        if field.name in defaults:
            field.default = defaults[field.name]
        fields.append(field)
    return fields


class VMBusRecord(Packet):  # type: ignore[misc]
    """A record of a capture: pseudo-header and body.  Dissecting one gives the class of its kind."""

    name = "VMBus record"
    fields_desc = _with_defaults(capture.RecordHeader)

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *args: Any, **kargs: Any) -> type:
        if _pkt is not None and len(_pkt) >= capture.RecordHeader.SIZE:
            return RECORDS.get(_pkt[1], VMBusRecord)
        return cls

    def do_dissect_payload(self, s: bytes) -> None:
        whole = (self.raw_packet_cache or b"") + s
        stack_layers(self, session().feed_bytes(whole, int(float(self.time) * 1e9)))

    def hashret(self) -> bytes:
        """The same for a request and what answers it."""
        channel: int = self.channel_id
        return channel.to_bytes(4, "little") + bytes(self.payload.hashret())

    def answers(self, other: Any) -> int:
        """Whether it completes ``other``."""
        if not isinstance(other, VMBusRecord) or other.direction_ != _OPPOSITE.get(self.direction_):
            return 0
        return int(self.payload.answers(other.payload)) if self.channel_id == other.channel_id else 0

    def mysummary(self) -> str:
        return str(self.sprintf("VMBus %kind% %direction_% channel %channel_id%"))


def stack_layers(record: Any, item: Decoded) -> None:
    """Put the layers of a decoded record on top of the layer of its pseudo-header."""
    layers = item.layers[1:]
    for place, layer in enumerate(layers, 1):
        after = layers[place] if place < len(layers) else None
        record = _add(record, layer, after, bytes(item.data))


def _add(current: Any, layer: Layer, after: Layer | None, whole: bytes) -> Any:
    """Put the next layer of a record on top of the last; returns it."""
    stop = layer.stop if after is None or after.start <= layer.start else min(layer.stop, after.start)
    data = bytes(whole[layer.start : stop])
    try:
        found = _class_of(layer)(data, _internal=1, _underlayer=current)
    except Exception:  # as scapy does: what a peer or a snap length broke is bytes
        if conf.debug_dissector:
            raise
        found = Raw(data, _internal=1, _underlayer=current)
    current.add_payload(found)
    return found.lastlayer()


def _class_of(layer: Layer) -> Any:
    if layer.format is None:
        return Raw
    if layer.format is ring.PacketDescriptor:
        return PacketDescriptor
    return MessageHeader if layer.format is control.MessageHeader else layer_of(layer.format)


class MessageRecord(VMBusRecord):
    """A hypervisor message: a control message of VMBus."""

    name = "VMBus message record"
    fields_desc = _with_defaults(capture.MessageRecord, kind=capture.RecordKind.MESSAGE)


class SignalRecord(VMBusRecord):
    """An event."""

    name = "VMBus signal record"
    fields_desc = _with_defaults(capture.SignalRecord, kind=capture.RecordKind.SIGNAL)


class PacketRecord(VMBusRecord):
    """A ring packet."""

    name = "VMBus packet record"
    fields_desc = _with_defaults(capture.PacketRecord, kind=capture.RecordKind.PACKET)


class ExternalRecord(VMBusRecord):
    """Data outside the ring."""

    name = "VMBus external record"
    fields_desc = _with_defaults(capture.ExternalRecord, kind=capture.RecordKind.EXTERNAL)


class RegisterRecord(VMBusRecord):
    """A synthetic register that the guest wrote."""

    name = "VMBus register record"
    fields_desc = _with_defaults(capture.RegisterRecord, kind=capture.RecordKind.REGISTER)


class NoteRecord(VMBusRecord):
    """A remark on the time line."""

    name = "VMBus note record"
    fields_desc = _with_defaults(capture.NoteRecord, kind=capture.RecordKind.NOTE)


RECORDS: dict[int, type] = {
    capture.RecordKind.MESSAGE: MessageRecord,
    capture.RecordKind.SIGNAL: SignalRecord,
    capture.RecordKind.PACKET: PacketRecord,
    capture.RecordKind.EXTERNAL: ExternalRecord,
    capture.RecordKind.REGISTER: RegisterRecord,
    capture.RecordKind.NOTE: NoteRecord,
}


class PacketDescriptor(Packet):  # type: ignore[misc]
    """Heads a ring packet; what follows is the extension of its type, if it has one, and the payload.

    Offset and length are filled in when they are 0, and the payload is padded to a multiple of 8 bytes.
    """

    name = "VMBus packet"
    fields_desc = _with_defaults(ring.PacketDescriptor, packet_type=ring.PacketType.IN_BAND)

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        pay += bytes(-len(pay) % 8)
        extension = len(self.payload.self_build()) if isinstance(self.payload, _EXTENSIONS) else 0
        if not self.data_offset8:
            pkt = pkt[:2] + ((len(pkt) + extension) // 8).to_bytes(2, "little") + pkt[4:]
        if not self.length8:
            pkt = pkt[:4] + ((len(pkt) + len(pay)) // 8).to_bytes(2, "little") + pkt[6:]
        return pkt + pay

    def guess_payload_class(self, payload: bytes) -> type:
        extension = EXTENSIONS.get(self.packet_type)
        return layer_of(extension) if extension is not None else Raw

    def hashret(self) -> bytes:
        """The transaction id."""
        return int(self.transaction_id).to_bytes(8, "little")

    def answers(self, other: Any) -> int:
        """Whether it is the completion of ``other``."""
        return int(
            isinstance(other, PacketDescriptor)
            and self.packet_type == ring.PacketType.COMPLETION
            and other.packet_type != ring.PacketType.COMPLETION
            and self.transaction_id == other.transaction_id
        )


_EXTENSIONS = tuple(layer_of(fmt) for fmt in EXTENSIONS.values())


class MessageHeader(Packet):  # type: ignore[misc]
    """Heads a control message."""

    name = "VMBus control message"
    fields_desc = _with_defaults(control.MessageHeader)

    def guess_payload_class(self, payload: bytes) -> type:
        fmt = body_format(self.message_type, payload, 0, len(payload))
        return Raw if fmt is None else layer_of(fmt)

    def mysummary(self) -> str:
        return str(self.sprintf("VMBus %message_type%"))


def layer(name: str) -> type:
    """The layer of a declared format: ``layer("VstorRequest")``, ``layer("Transfer10")``."""
    for fmt in known_formats():
        if fmt.__name__ == name:
            return layer_of(fmt)
    raise NameError(f"no format is called {name}")


bind_top_down(MessageRecord, MessageHeader, message_type=1)
for cases, number_of in ((BODY_CASES, int), (CONTACT_CASES, lambda _: int(MessageType.INITIATE_CONTACT))):
    for number, bodies in cases.items():
        for body in bodies if isinstance(bodies, tuple) else (bodies,):
            bind_top_down(MessageHeader, layer_of(body), message_type=number_of(number))
for packet_type, extension in EXTENSIONS.items():
    bind_top_down(PacketDescriptor, layer_of(extension), packet_type=int(packet_type))

conf.l2types.register(capture.LINK_TYPE, VMBusRecord)
