"""The fault that each expert rule is about, as a conversation: for the tests, and for the captures that show them.

Each builder goes on with a connection that has just been made; all else in what it adds is sound.
"""

from __future__ import annotations

from collections.abc import Callable

from dissectors.testing import GUEST, HOST, Script
from vmbus.wire import control as c
from vmbus.wire import guids, nvsp, rndis, vstor
from vmbus.wire.control_values import MessageType, Status
from vmbus.wire.hypervisor import Msr
from vmbus.wire.ic import kvp
from vmbus.wire.ic.framework import IcMessage
from vmbus.wire.ic.values import IcFlags, IcMessageType, IcVersion
from vmbus.wire.ndis import NdisStatus
from vmbus.wire.offer import OfferChannel
from vmbus.wire.ring import (
    GpaDirectHeader,
    GpaRange,
    PacketType,
    PipeHeader,
    PipePacketType,
    TransferPageHeader,
    TransferPageRange,
)  # fmt: skip
from vmbus.wire.rndis_oid import Oid

Fault = Callable[[Script], None]
FAULTS: dict[str, Fault] = {}


def fault(rule: str) -> Callable[[Fault], Fault]:
    def register(build: Fault) -> Fault:
        FAULTS[rule] = build
        return build

    return register


def disk_on(script: Script, channel: int = 3) -> None:
    script.offer(channel, guids.SCSI)
    script.open(channel)


def card_on(script: Script, channel: int = 4) -> None:
    script.offer(channel, guids.NETWORK)
    script.open(channel)


def rndis_packet(section: int = nvsp.NO_SECTION, control: int = 0) -> bytes:
    body = nvsp.NvspSendRndisPacket(
        channel_type=nvsp.ChannelType(control), send_buffer_section_index=section, send_buffer_section_size=60
    )
    return nvsp.build_message(nvsp.NvspMessageType.SEND_RNDIS_PACKET, body)


def receive(script: Script, transaction: int) -> None:
    pages = TransferPageHeader(
        transfer_page_set_id=0xCAFE, range_count=1, ranges=(TransferPageRange(byte_count=60, byte_offset=0),)
    )
    script.packet(
        HOST,
        4,
        rndis_packet(),
        transaction=transaction,
        wants_completion=True,
        packet_type=PacketType.TRANSFER_PAGES,
        extension=pages,
    )


@fault("EX-01")
def masked(script: Script) -> None:
    disk_on(script)
    for _ in range(3):
        script.packet(HOST, 3, bytes(64), read_index=0)
        script.wait(2)


@fault("EX-02")
def early_data(script: Script) -> None:
    script.offer(3, guids.SCSI)
    script.open(3, answered=False)
    script.packet(HOST, 3, bytes(64), transaction=1)
    script.message(HOST, MessageType.OPEN_CHANNEL_RESULT, c.OpenResult(channel_id=3, open_id=0, status=Status.SUCCESS))


@fault("EX-03")
def early_signal(script: Script) -> None:
    script.offer(3, guids.SCSI)
    script.signal(GUEST, 3, 0x2003)


@fault("EX-04")
def lost_completion(script: Script) -> None:
    disk_on(script)
    script.packet(GUEST, 3, bytes(64), transaction=5, wants_completion=True)
    script.wait(6)
    script.note("later")


@fault("EX-07")
def stale_bytes(script: Script) -> None:
    disk_on(script)
    script.packet(GUEST, 3, bytes(64), transaction=5)
    script.rewind(GUEST, 3)
    script.packet(GUEST, 3, bytes(64), transaction=5)


@fault("EX-08")
def receive_buffer_full(script: Script) -> None:
    card_on(script)
    done = nvsp.NvspSendReceiveBufferComplete(
        status=nvsp.NvspStatus.SUCCESS,
        section=nvsp.ReceiveBufferSection(offset=0, sub_allocation_size=1600, num_sub_allocations=2, end_offset=3200),
    )
    lend = nvsp.NvspSendReceiveBuffer(gpadl_handle=1, id=0xCAFE)
    kind = nvsp.NvspMessageType
    script.packet(GUEST, 4, nvsp.build_message(kind.SEND_RECEIVE_BUFFER, lend), transaction=1, wants_completion=True)
    answer = nvsp.build_message(kind.SEND_RECEIVE_BUFFER_COMPLETE, done)
    script.completion(HOST, 4, answer, transaction=1)
    receive(script, 10)
    receive(script, 11)


@fault("EX-09")
def section_in_use(script: Script) -> None:
    card_on(script)
    for transaction in (1, 2):
        script.packet(GUEST, 4, rndis_packet(7), transaction=transaction, wants_completion=True)


@fault("EX-10")
def crossing_header(script: Script) -> None:
    card_on(script)
    pages = GpaDirectHeader(range_count=1, ranges=(GpaRange(byte_count=104, byte_offset=4090, pfns=(1, 2)),))
    script.packet(GUEST, 4, rndis_packet(), transaction=1, packet_type=PacketType.GPA_DIRECT, extension=pages)


@fault("EX-11")
def frame_after_filter_0(script: Script) -> None:
    card_on(script)
    off = rndis.RndisSet(
        request_id=1, oid=Oid.GEN_CURRENT_PACKET_FILTER, information_buffer_length=4, information=bytes(4)
    )
    script.external(GUEST, 4, rndis.build_message(rndis.RndisMessageType.SET, off), transaction=1)
    done = rndis.RndisSetComplete(request_id=1, status=NdisStatus.SUCCESS)
    script.external(HOST, 4, rndis.build_message(rndis.RndisMessageType.SET_COMPLETE, done), transaction=9)
    frame = rndis.RndisReceivedPacket(data_length=60, frame=bytes(60))
    script.external(HOST, 4, rndis.build_message(rndis.RndisMessageType.PACKET, frame), transaction=10)


@fault("EX-12")
def vf_before_association(script: Script) -> None:
    card_on(script)
    switch = nvsp.NvspSwitchDataPath(active_data_path=nvsp.DataPath.VF)
    script.packet(GUEST, 4, nvsp.build_message(nvsp.NvspMessageType.SWITCH_DATA_PATH, switch))


@fault("EX-13")
def duplicate_gpadl(script: Script) -> None:
    script.offer(3, guids.SCSI)
    script.gpadl(3, gpadl_id=7)
    script.gpadl(3, gpadl_id=7)


@fault("EX-14")
def teardown_twice(script: Script) -> None:
    script.offer(3, guids.SCSI)
    script.gpadl(3, gpadl_id=7)
    for _ in range(2):
        script.message(GUEST, MessageType.GPADL_TEARDOWN, c.GpadlTeardown(channel_id=3, gpadl_id=7))
        script.message(HOST, MessageType.GPADL_TORNDOWN, c.GpadlTorndown(gpadl_id=7))


@fault("EX-15")
def rings_torn_down(script: Script) -> None:
    script.offer(3, guids.SCSI)
    gpadl_id = script.open(3)
    script.message(GUEST, MessageType.GPADL_TEARDOWN, c.GpadlTeardown(channel_id=3, gpadl_id=gpadl_id))
    script.message(HOST, MessageType.GPADL_TORNDOWN, c.GpadlTorndown(gpadl_id=gpadl_id))


@fault("EX-16")
def rescind_while_opening(script: Script) -> None:
    script.offer(3, guids.SCSI)
    script.open(3, answered=False)
    script.rescind(3)
    script.release(3)


@fault("EX-17")
def rescind_during_unload(script: Script) -> None:
    script.offer(3, guids.SCSI)
    script.message(GUEST, MessageType.UNLOAD)
    script.rescind(3)
    script.message(HOST, MessageType.UNLOAD_COMPLETE)


@fault("EX-18")
def offer_storm(script: Script) -> None:
    for channel in range(10, 20):
        script.offer(channel, guids.NETWORK, instance=5)
        script.rescind(channel)
        script.release(channel)


@fault("EX-19")
def id_used_too_early(script: Script) -> None:
    script.offer(3, guids.SCSI)
    script.rescind(3)
    script.offer(3, guids.NETWORK)
    script.release(3)


@fault("EX-20")
def no_message_page(script: Script) -> None:
    script.register(Msr.SIMP, 0)
    script.offer(3, guids.SCSI)


@fault("EX-21")
def unknown_connection(script: Script) -> None:
    disk_on(script)
    script.signal(GUEST, 3, 0x9999)


@fault("EX-22")
def monitor_without_pages(script: Script) -> None:
    offer = OfferChannel(
        interface_id=guids.SCSI,
        instance_id=guids.SCSI,
        channel_id=3,
        connection_id=0x2003,
        monitor_allocated=1,
        monitor_id=4,
    )
    script.message(HOST, MessageType.OFFER_CHANNEL, offer)


@fault("EX-23")
def no_answer(script: Script) -> None:
    script.message(GUEST, MessageType.REQUEST_OFFERS)
    script.wait(6)
    script.note("later")


@fault("EX-24")
def completed_twice(script: Script) -> None:
    disk_on(script)
    script.packet(GUEST, 3, bytes(64), transaction=5, wants_completion=True)
    script.completion(HOST, 3, bytes(64), transaction=5)
    script.completion(HOST, 3, bytes(64), transaction=5)


@fault("EX-25")
def completion_with_id_0(script: Script) -> None:
    disk_on(script)
    done = vstor.VstorRequest(operation=vstor.VstorOperation.COMPLETE_IO, body=b"")
    script.packet(HOST, 3, done.build().ljust(64, b"\0"), transaction=0)


@fault("EX-26")
def length_out_of_range(script: Script) -> None:
    card_on(script)
    frame = rndis.RndisPacket(data_length=60, frame=bytes(60)).replace(per_packet_info_length=500)
    script.external(GUEST, 4, rndis.build_message(rndis.RndisMessageType.PACKET, frame), transaction=1)


@fault("EX-27")
def error_flood(script: Script) -> None:
    disk_on(script)
    request = vstor.VstorRequest(
        operation=vstor.VstorOperation.EXECUTE_SRB, body=vstor.ScsiRequest(cdb=b"\x28", cdb_length=10)
    )
    failed = vstor.ScsiCompletion(
        operation=vstor.VstorOperation.COMPLETE_IO, result=vstor.ScsiResult(srb_status=vstor.SrbStatus.ERROR)
    )
    for transaction in range(1, 60):
        script.packet(GUEST, 3, request, transaction=transaction, wants_completion=True)
        script.completion(HOST, 3, failed, transaction=transaction)


@fault("EX-28")
def moved_twice(script: Script) -> None:
    disk_on(script)
    for vp in (1, 2):
        script.message(GUEST, MessageType.MODIFY_CHANNEL, c.ModifyChannel(channel_id=3, target_vp=vp))


@fault("EX-29")
def message_while_paused(script: Script) -> None:
    script.message(GUEST, MessageType.PAUSE)
    script.message(HOST, MessageType.PAUSE_RESPONSE)
    script.message(GUEST, MessageType.REQUEST_OFFERS)
    script.message(HOST, MessageType.ALL_OFFERS_DELIVERED)
    script.message(GUEST, MessageType.RESUME)


@fault("EX-30")
def open_failed(script: Script) -> None:
    script.offer(5, guids.NETWORK, subchannel=1)
    script.open(5, status=0xC000009A)


@fault("EX-31")
def pair_too_long(script: Script) -> None:
    script.offer(6, guids.KVP)
    script.open(6)
    pair = kvp.KvpExchange(key_size=600, key=b"", value=kvp.KvpDword(number=1), value_type=kvp.KvpValueType.DWORD)
    body = kvp.KvpMessage(operation=kvp.KvpOperation.SET, pool=kvp.KvpPool(0), body=pair, trailing=b"")
    message = IcMessage(
        framework_version=IcVersion(major=3, minor=0),
        message_type=IcMessageType.KVP_EXCHANGE,
        message_version=IcVersion(major=4, minor=0),
        message_size=len(body.build()),
        flags=IcFlags(0),
        body=body,
        trailing=b"",
    )
    wire = message.build()
    script.packet(HOST, 6, PipeHeader(packet_type=PipePacketType.DATA, length=len(wire)).build() + wire)


@fault("EX-33")
def signal_storm(script: Script) -> None:
    disk_on(script)
    for _ in range(1001):
        script.signal(HOST, 3)


@fault("EX-34")
def short_indication(script: Script) -> None:
    card_on(script)
    status = rndis.RndisIndicateStatus(
        status=NdisStatus.MEDIA_CONNECT, status_buffer_length=8, status_buffer_offset=12, status_buffer=bytes(8)
    )
    whole = rndis.build_message(rndis.RndisMessageType.INDICATE_STATUS, status)
    script.external(HOST, 4, whole[:4] + (20).to_bytes(4, "little") + whole[8:], transaction=1)


@fault("EX-35")
def socket_refused(script: Script) -> None:
    service, endpoint = guids.vsock_service(22), guids.SCSI
    script.message(GUEST, MessageType.TL_CONNECT_REQUEST, c.TlConnectRequest(endpoint_id=endpoint, service_id=service))
    refused = c.TlConnectResult(endpoint_id=endpoint, service_id=service, status=Status.CONNECTION_REFUSED)
    script.message(HOST, MessageType.TL_CONNECT_RESULT, refused)
