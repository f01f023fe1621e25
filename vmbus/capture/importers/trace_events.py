"""What Linux's trace events of the systems ``hyperv`` and ``netvsc`` say, as records.

An event is the guest's view of one message or signal, with some of its fields; the names here are those of the
events' structures, which ``trace.dat`` has and which the text of ``trace_pipe`` is read into. Sources: Linux 6.12
``drivers/hv/hv_trace.h``, ``drivers/net/hyperv/netvsc_trace.h``, and where the events are raised (``channel.c``,
``channel_mgmt.c``, ``vmbus_drv.c``, ``netvsc.c``, ``rndis_filter.c``).

What comes out: control messages with the fields that the event has (GPADLs without their pages), signals, the first
bytes of NVSP messages as ring packets, and the first 12 bytes of RNDIS messages as external data. The network events
name a device and a queue and not a channel; they go to the network channel with that sub-channel index, if exactly
one was offered in the trace, and otherwise to a made-up channel id from 0x80000000 on.

An event of a message that the guest posts is raised after the hypercall, so the host's answer can come before it in a
trace.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import NamedTuple
from uuid import UUID

from vmbus.capture.importers import imported
from vmbus.wire import control
from vmbus.wire.capture import (
    Direction,
    ExternalRecord,
    MessageRecord,
    NoteKind,
    NoteRecord,
    PacketRecord,
    RecordKind,
    SignalRecord,
)
from vmbus.wire.control import MessageHeader
from vmbus.wire.control_values import MESSAGE_CONNECTION_ID, VMBUS_SINT, MessageType, Status, Version
from vmbus.wire.guids import NETWORK
from vmbus.wire.nvsp import NvspMessageType
from vmbus.wire.offer import OfferChannel, OfferFlags
from vmbus.wire.ring import PacketDescriptor, PacketFlags, PacketType
from vmbus.wire.schema import NIL_GUID, Format

Fields = dict[str, int | str | bytes]


class TraceEvent(NamedTuple):
    """One line of a trace."""

    time_ns: int
    cpu: int
    system: str
    """``hyperv``, ``netvsc``, or empty if the source does not say."""
    name: str
    fields: Fields
    text: str = ""
    """The fields as the source shows them, for an event that is not known here."""


MADE_UP_CHANNELS = 0x8000_0000

_NVSP_MESSAGE_SIZE = 40  # netvsc sends sizeof(struct nvsp_message), and hosts answer with as much
_NVSP_RNDIS_PACKET = int(NvspMessageType.SEND_RNDIS_PACKET)
_NVSP_COMPLETIONS = frozenset(
    {
        NvspMessageType.INIT_COMPLETE,
        NvspMessageType.SEND_RECEIVE_BUFFER_COMPLETE,
        NvspMessageType.SEND_SEND_BUFFER_COMPLETE,
        NvspMessageType.SEND_RNDIS_PACKET_COMPLETE,
        NvspMessageType.SUBCHANNEL,
    }
)
"""What a guest receives in a completion packet (``netvsc_send_completion``)."""
_RNDIS_HEAD = struct.Struct("<III")


def _int(fields: Fields, name: str) -> int:
    value = fields.get(name, 0)
    return value & 0xFFFF_FFFF_FFFF_FFFF if isinstance(value, int) else 0


def _u32(fields: Fields, name: str) -> int:
    return _int(fields, name) & 0xFFFF_FFFF


def _guid(fields: Fields, name: str) -> UUID:
    value = fields.get(name, b"")
    if isinstance(value, bytes):
        return UUID(bytes_le=value[:16].ljust(16, b"\0"))
    try:
        return UUID(value) if isinstance(value, str) else NIL_GUID
    except ValueError:
        return NIL_GUID


def _contact(f: Fields) -> Format:
    return control.InitiateContact(
        version=Version(_u32(f, "ver")),
        target_message_vp=_u32(f, "target_vcpu"),
        interrupt_page=_int(f, "int_page"),
        parent_to_child_monitor_page=_int(f, "mon_page1"),
        child_to_parent_monitor_page=_int(f, "mon_page2"),
    )


def _offer(f: Fields) -> Format:
    monitor = _u32(f, "monitorid") & 0xFF
    return OfferChannel(
        interface_id=_guid(f, "if_type"),
        instance_id=_guid(f, "if_instance"),
        flags=OfferFlags(_u32(f, "chn_flags") & 0xFFFF),
        mmio_megabytes=_u32(f, "mmio_mb") & 0xFFFF,
        subchannel_index=_u32(f, "sub_idx") & 0xFFFF,
        channel_id=_u32(f, "child_relid"),
        monitor_id=monitor,
        monitor_allocated=int(monitor != 0xFF),
        is_dedicated=_u32(f, "is_ddc_int") & 0xFFFF,
        connection_id=_u32(f, "connection_id"),
    )


def _open(f: Fields) -> Format:
    return control.OpenChannel(
        channel_id=_u32(f, "child_relid"),
        open_id=_u32(f, "openid"),
        ring_gpadl_id=_u32(f, "gpadlhandle"),
        target_vp=_u32(f, "target_vp"),
        downstream_page_offset=_u32(f, "offset"),
    )


def _gpadl_header(f: Fields) -> Format:
    return control.GpadlHeader(
        channel_id=_u32(f, "child_relid"),
        gpadl_id=_u32(f, "gpadl"),
        range_bytes=_u32(f, "range_buflen") & 0xFFFF,
        range_count=_u32(f, "rangecount") & 0xFFFF,
        words=(),
    )


TO_HOST: dict[str, tuple[MessageType, Callable[[Fields], Format]]] = {
    "vmbus_negotiate_version": (MessageType.INITIATE_CONTACT, _contact),
    "vmbus_request_offers": (MessageType.REQUEST_OFFERS, lambda f: control.RequestOffers()),
    "vmbus_open": (MessageType.OPEN_CHANNEL, _open),
    "vmbus_close_internal": (
        MessageType.CLOSE_CHANNEL, lambda f: control.CloseChannel(channel_id=_u32(f, "child_relid")),
    ),
    "vmbus_establish_gpadl_header": (MessageType.GPADL_HEADER, _gpadl_header),
    "vmbus_establish_gpadl_body": (
        MessageType.GPADL_BODY,
        lambda f: control.GpadlBody(number=_u32(f, "msgnumber"), gpadl_id=_u32(f, "gpadl"), words=()),
    ),
    "vmbus_teardown_gpadl": (
        MessageType.GPADL_TEARDOWN,
        lambda f: control.GpadlTeardown(channel_id=_u32(f, "child_relid"), gpadl_id=_u32(f, "gpadl")),
    ),
    "vmbus_release_relid": (
        MessageType.REL_ID_RELEASED, lambda f: control.RelIdReleased(channel_id=_u32(f, "child_relid")),
    ),
    "vmbus_send_tl_connect_request": (
        MessageType.TL_CONNECT_REQUEST,
        lambda f: control.TlConnectRequest(endpoint_id=_guid(f, "guest_id"), service_id=_guid(f, "host_id")),
    ),
    "vmbus_send_modifychannel": (
        MessageType.MODIFY_CHANNEL,
        lambda f: control.ModifyChannel(channel_id=_u32(f, "child_relid"), target_vp=_u32(f, "target_vp")),
    ),
}  # fmt: skip
"""Events at which the guest posts a message, and the body of it that the event's fields give."""

TO_GUEST: dict[str, tuple[MessageType, Callable[[Fields], Format]]] = {
    "vmbus_onoffer": (MessageType.OFFER_CHANNEL, _offer),
    "vmbus_onoffer_rescind": (
        MessageType.RESCIND_CHANNEL_OFFER,
        lambda f: control.RescindChannelOffer(channel_id=_u32(f, "child_relid")),
    ),
    "vmbus_onopen_result": (
        MessageType.OPEN_CHANNEL_RESULT,
        lambda f: control.OpenResult(
            channel_id=_u32(f, "child_relid"), open_id=_u32(f, "openid"), status=Status(_u32(f, "status"))
        ),
    ),
    "vmbus_ongpadl_created": (
        MessageType.GPADL_CREATED,
        lambda f: control.GpadlCreated(
            channel_id=_u32(f, "child_relid"), gpadl_id=_u32(f, "gpadl"), status=Status(_u32(f, "status"))
        ),
    ),
    "vmbus_ongpadl_torndown": (
        MessageType.GPADL_TORNDOWN, lambda f: control.GpadlTorndown(gpadl_id=_u32(f, "gpadl")),
    ),
    "vmbus_onversion_response": (
        MessageType.VERSION_RESPONSE, lambda f: control.VersionResponse(version_supported=_u32(f, "ver") & 0xFF),
    ),
    "vmbus_onmodifychannel_response": (
        MessageType.MODIFY_CHANNEL_RESPONSE,
        lambda f: control.ModifyChannelResponse(
            channel_id=_u32(f, "child_relid"), status=Status(_u32(f, "status"))
        ),
    ),
}  # fmt: skip
"""Events at which the guest handles a message of the host's."""

_HANDLED = {int(kind) for kind, _ in TO_GUEST.values()}


class _Importer:
    def __init__(self, epoch_ns: int) -> None:
        self._epoch = epoch_ns
        self._announces_all = False
        self._network_channels: dict[int, set[int]] = {}
        self._made_up: dict[tuple[str, int], int] = {}

    def take(self, event: TraceEvent) -> Iterator[bytes]:
        if event.name in TO_HOST:
            kind, build = TO_HOST[event.name]
            yield self._message(event, Direction.GUEST_TO_HOST, kind, build(event.fields))
        elif event.name in TO_GUEST:
            kind, build = TO_GUEST[event.name]
            if kind == MessageType.OFFER_CHANNEL and _guid(event.fields, "if_type") == NETWORK:
                channels = self._network_channels.setdefault(_u32(event.fields, "sub_idx"), set())
                channels.add(_u32(event.fields, "child_relid"))
            yield self._message(event, Direction.HOST_TO_GUEST, kind, build(event.fields))
        elif event.name in ("vmbus_on_msg_dpc", "vmbus_on_message"):
            self._announces_all = self._announces_all or event.name == "vmbus_on_msg_dpc"
            has_event_of_its_own = _u32(event.fields, "msgtype") in _HANDLED
            if not has_event_of_its_own and self._announces_all == (event.name == "vmbus_on_msg_dpc"):
                yield self._header_only(event)
        elif event.name in ("vmbus_chan_sched", "vmbus_setevent"):
            yield self._signal(event)
        elif event.name in ("nvsp_send", "nvsp_send_pkt", "nvsp_recv"):
            yield from self._nvsp(event)
        elif event.name in ("rndis_send", "rndis_recv"):
            yield from self._rndis(event)
        elif event.name != "vmbus_on_event":
            yield self._note(event, f"{event.name}: {event.text}")

    def _header_only(self, event: TraceEvent) -> bytes:
        kind = MessageType(_u32(event.fields, "msgtype"))
        return self._message(event, Direction.HOST_TO_GUEST, kind, control.AllOffersDelivered())

    def _message(self, event: TraceEvent, direction: Direction, kind: MessageType, body: Format) -> bytes:
        to_host = direction is Direction.GUEST_TO_HOST
        header = MessageRecord(
            kind=RecordKind.MESSAGE,
            direction=direction,
            sint=0 if to_host else VMBUS_SINT,
            connection_id=MESSAGE_CONNECTION_ID if to_host else 0,
        )
        returned = event.fields.get("ret")
        failed = isinstance(returned, int) and returned != 0
        comment = f"trace event {event.name}" + (f", which returned {returned!r}" if failed else "")
        payload = MessageHeader(message_type=kind).build() + body.build()
        return imported(event.time_ns + self._epoch, header, payload, comment=comment)

    def _signal(self, event: TraceEvent) -> bytes:
        channel_id = _u32(event.fields, "relid")
        to_host = event.name == "vmbus_setevent"
        header = SignalRecord(
            kind=RecordKind.SIGNAL,
            direction=Direction.GUEST_TO_HOST if to_host else Direction.HOST_TO_GUEST,
            channel_id=channel_id,
            flag=0 if to_host else channel_id,
        )
        return imported(event.time_ns + self._epoch, header, comment=f"trace event {event.name}")

    def _nvsp(self, event: TraceEvent) -> Iterator[bytes]:
        fields = event.fields
        if event.name == "nvsp_send_pkt":
            known = struct.pack(
                "<IIII", _NVSP_RNDIS_PACKET, _u32(fields, "channel_type"), _u32(fields, "section_index"),
                _u32(fields, "section_size"),
            )  # fmt: skip
        else:
            known = struct.pack("<I", _u32(fields, "msg_type"))
        message_type = int.from_bytes(known[:4], "little")
        packet_type = PacketType.IN_BAND
        if event.name == "nvsp_recv" and message_type in _NVSP_COMPLETIONS:
            packet_type = PacketType.COMPLETION
        elif event.name == "nvsp_recv" and message_type == _NVSP_RNDIS_PACKET:
            packet_type = PacketType.TRANSFER_PAGES
        channel_id = yield from self._network_channel(event, "qid")
        header = PacketRecord(
            kind=RecordKind.PACKET,
            direction=Direction.HOST_TO_GUEST if event.name == "nvsp_recv" else Direction.GUEST_TO_HOST,
            channel_id=channel_id,
        )
        descriptor = PacketDescriptor(
            packet_type=packet_type, data_offset8=2, length8=(16 + _NVSP_MESSAGE_SIZE) // 8, flags=PacketFlags(0),
            transaction_id=0,
        )  # fmt: skip
        yield imported(
            event.time_ns + self._epoch,
            header,
            descriptor.build() + known,
            missing=_NVSP_MESSAGE_SIZE - len(known),
            comment=f"trace event {event.name}: ranges, transaction id and the rest of the message are not in it",
        )

    def _rndis(self, event: TraceEvent) -> Iterator[bytes]:
        fields = event.fields
        length = _u32(fields, "msg_len")
        head = _RNDIS_HEAD.pack(_u32(fields, "msg_type"), length, _u32(fields, "req_id"))[: max(8, min(length, 12))]
        channel_id = yield from self._network_channel(event, "queue")
        header = ExternalRecord(
            kind=RecordKind.EXTERNAL,
            direction=Direction.HOST_TO_GUEST if event.name == "rndis_recv" else Direction.GUEST_TO_HOST,
            channel_id=channel_id,
            total_length=length,
        )
        missing = max(0, length - len(head))
        comment = f"trace event {event.name}"
        yield imported(event.time_ns + self._epoch, header, head, missing=missing, comment=comment)

    def _network_channel(self, event: TraceEvent, queue_field: str) -> Generator[bytes, None, int]:
        """The channel of a network event; yields a note when it has to be made up."""
        queue = _u32(event.fields, queue_field)
        offered = self._network_channels.get(queue, set())
        if len(offered) == 1:
            return next(iter(offered))
        name = event.fields.get("name", "")
        device = name if isinstance(name, str) else ""
        channel_id = self._made_up.get((device, queue))
        if channel_id is None:
            channel_id = MADE_UP_CHANNELS + len(self._made_up)
            self._made_up[device, queue] = channel_id
            yield self._note(event, f"the channel of {device}, queue {queue}, is not known: here it is {channel_id:#x}")
        return channel_id

    def _note(self, event: TraceEvent, text: str) -> bytes:
        header = NoteRecord(kind=RecordKind.NOTE, note_kind=NoteKind.TEXT)
        return imported(event.time_ns + self._epoch, header, text.encode())


def records_of_events(events: Iterable[TraceEvent], epoch_ns: int = 0) -> Iterator[bytes]:
    """Packet blocks for trace events; ``epoch_ns`` is added to their times, which usually count from the boot."""
    importer = _Importer(epoch_ns)
    for event in events:
        yield from importer.take(event)
