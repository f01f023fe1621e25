"""Conversations that several tests decode."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from dissectors.testing import GUEST, HOST, Script
from vmbus.guest.program import GATEWAY, Workload, booted_guest
from vmbus.wire import crash, guids, nvsp, rndis, vstor
from vmbus.wire.ring import (
    GpaDirectHeader,
    GpaRange,
    PacketType,
    PipeHeader,
    PipePacketType,
    TransferPageHeader,
    TransferPageRange,
)
from vmbus.wire.rndis_oid import Oid

PAGE = GpaDirectHeader(range_count=1, ranges=(GpaRange(byte_count=4096, byte_offset=0, pfns=(5,)),))
READ_10 = bytes.fromhex("28000000080000000800")
INQUIRY = bytes.fromhex("120000002400")
ROUNDS = 10
ARP = "ffffffffffff00155d0102030806000108000604000100155d0102030a0000010000000000000a000002"
FRAME = bytes.fromhex(ARP).ljust(60, b"\0")


@pytest.fixture
def script() -> Script:
    """A connection with nothing on it yet."""
    started = Script()
    started.connect()
    return started


@pytest.fixture
def disk(script: Script) -> Script:
    """A SCSI controller on channel 3 that answered a read, an INQUIRY and a command it does not know."""
    script.offer(3, guids.SCSI)
    script.open(3)
    version = vstor.VstorRequest(
        operation=vstor.VstorOperation.QUERY_PROTOCOL_VERSION,
        body=vstor.ProtocolVersion(version=vstor.VstorVersion.WIN10),
    )
    script.packet(GUEST, 3, version, transaction=1, wants_completion=True)
    script.completion(
        HOST,
        3,
        vstor.VersionCompletion(
            operation=vstor.VstorOperation.COMPLETE_IO,
            result=vstor.ProtocolVersion(version=vstor.VstorVersion.WIN10),
            padding=bytes(48),
        ),
        transaction=1,
    )
    _command(script, 2, READ_10, 4096, bytes(256))
    _command(script, 3, INQUIRY, 36, b"\x00\x00\x06\x02\x1f\0\0\x02Msft    Virtual Disk    1.0 ")
    sense = bytes.fromhex("700005000000000a00000000200000000000")
    _command(script, 4, b"\xee".ljust(16, b"\0"), 0, b"", sense)
    return script


def _command(script: Script, transaction: int, cdb: bytes, length: int, data: bytes, sense: bytes = b"") -> None:
    request = vstor.ScsiRequest(cdb=cdb, cdb_length=len(cdb), data_length=length, direction=vstor.DataDirection.IN)
    script.packet(
        GUEST,
        3,
        vstor.VstorRequest(operation=vstor.VstorOperation.EXECUTE_SRB, body=request),
        transaction=transaction,
        wants_completion=True,
        packet_type=PacketType.GPA_DIRECT,
        extension=PAGE,
    )
    if data:
        script.external(HOST, 3, data, transaction=transaction, total=length)
    result = vstor.ScsiResult(
        srb_status=vstor.SrbStatus.ERROR if sense else vstor.SrbStatus.SUCCESS,
        scsi_status=vstor.ScsiStatus.CHECK_CONDITION if sense else vstor.ScsiStatus.GOOD,
        autosense_valid=int(bool(sense)),
        sense=sense,
        data_length=length,
    )
    completion = vstor.ScsiCompletion(operation=vstor.VstorOperation.COMPLETE_IO, result=result)
    script.completion(HOST, 3, completion, transaction=transaction)


@pytest.fixture
def card(script: Script) -> Script:
    """A network card on channel 4 that answered an OID and moved a frame each way."""
    script.offer(4, guids.NETWORK)
    script.open(4)
    init = nvsp.NvspInit(protocol_version=nvsp.NvspVersion.V61, protocol_version2=nvsp.NvspVersion.V61)
    script.packet(GUEST, 4, nvsp.build_message(nvsp.NvspMessageType.INIT, init), transaction=1, wants_completion=True)
    done = nvsp.NvspInitComplete(maximum_mdl_chain_length=34, status=nvsp.NvspStatus.SUCCESS)
    script.completion(HOST, 4, nvsp.build_message(nvsp.NvspMessageType.INIT_COMPLETE, done), transaction=1)
    query = rndis.RndisQuery(request_id=9, oid=Oid.IEEE_802_3_PERMANENT_ADDRESS)
    _to_host(script, 2, rndis.build_message(rndis.RndisMessageType.QUERY, query), nvsp.ChannelType.CONTROL)
    answer = rndis.RndisQueryComplete(
        request_id=9, status=0, information_buffer_length=6, information=bytes.fromhex("00155d010203")
    )
    _to_guest(script, 100, rndis.build_message(rndis.RndisMessageType.QUERY_COMPLETE, answer))
    sent = rndis.RndisPacket(data_length=len(FRAME), frame=FRAME)
    _to_host(script, 3, rndis.build_message(rndis.RndisMessageType.PACKET, sent), nvsp.ChannelType.DATA)
    got = rndis.RndisReceivedPacket(data_length=len(FRAME), frame=FRAME)
    _to_guest(script, 101, rndis.build_message(rndis.RndisMessageType.PACKET, got))
    return script


@pytest.fixture
def dump(script: Script) -> Script:
    """A crash dump device on channel 9, to which a guest wrote eleven bytes."""
    script.offer(9, guids.CRASH_DUMP)
    script.open(9)
    kinds = crash.CrashMessageType
    for body in (
        crash.CrashMessage(
            activity_id=guids.CRASH_DUMP,
            message_type=kinds.REQUEST_NIX_DUMP_WRITE_V1,
            body=crash.DumpWriteRequest(offset=4096, size=11),
        ).build(),
        b"eleven byte",
        crash.CrashMessage(activity_id=guids.CRASH_DUMP, message_type=kinds.REQUEST_NIX_DUMP_COMPLETE_V1).build(),
    ):
        script.packet(GUEST, 9, PipeHeader(packet_type=PipePacketType.DATA, length=len(body)).build() + body)
    return script


def _rndis_packet(channel: nvsp.ChannelType) -> bytes:
    body = nvsp.NvspSendRndisPacket(channel_type=channel)
    return nvsp.build_message(nvsp.NvspMessageType.SEND_RNDIS_PACKET, body)


def _done() -> bytes:
    body = nvsp.NvspSendRndisPacketComplete(status=nvsp.NvspStatus.SUCCESS)
    return nvsp.build_message(nvsp.NvspMessageType.SEND_RNDIS_PACKET_COMPLETE, body)


def _to_host(script: Script, transaction: int, message: bytes, channel: nvsp.ChannelType) -> None:
    script.packet(
        GUEST,
        4,
        _rndis_packet(channel),
        transaction=transaction,
        wants_completion=True,
        packet_type=PacketType.GPA_DIRECT,
        extension=PAGE,
    )
    script.external(GUEST, 4, message, transaction=transaction)
    script.completion(HOST, 4, _done(), transaction=transaction)


def _to_guest(script: Script, transaction: int, message: bytes) -> None:
    pages = TransferPageHeader(
        transfer_page_set_id=0xCAFE,
        range_count=1,
        ranges=(TransferPageRange(byte_count=len(message), byte_offset=0),),
    )
    script.external(HOST, 4, message, transaction=transaction)
    script.packet(
        HOST,
        4,
        _rndis_packet(nvsp.ChannelType.DATA),
        transaction=transaction,
        wants_completion=True,
        packet_type=PacketType.TRANSFER_PAGES,
        extension=pages,
    )
    script.completion(GUEST, 4, _done(), transaction=transaction)


@contextmanager
def running_host(folder: Path, *options: str) -> Iterator[str]:
    """A host in a process of its own; gives the address at which it listens."""
    socket = folder / "host.sock"
    host = subprocess.Popen([sys.executable, "-m", "vmbus", "host", f"unix:{socket}", *options], stdout=subprocess.PIPE)
    try:
        assert host.stdout is not None
        assert host.stdout.readline().startswith(b"listening")
        yield f"unix:{socket}"
    finally:
        host.send_signal(signal.SIGINT)
        host.communicate(timeout=60)
        socket.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def start_host() -> Callable[..., AbstractContextManager[str]]:
    """Starts hosts: ``with start_host(folder, "--nic", "embedded") as address``."""
    return running_host


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture of the Python guest using a disk and a card of our host, which is in a process of its own."""
    folder = tmp_path_factory.mktemp("recorded")
    disk, capture = folder / "disk.img", folder / "capture.pcapng"
    disk.write_bytes(bytes(1 << 20))
    options = ["--scsi", str(disk), "--nic", "embedded", "-w", str(capture)]
    with running_host(folder, *options) as address, booted_guest(address) as guest:
        workload = Workload(guest)
        assert workload.disk is not None and workload.card is not None
        for _ in range(ROUNDS):
            workload.run_round()
            guest.loop.run(lambda: False, timeout=0.05)
        # When this is answered the guest has had, and completed, all that the host sent before.
        workload.card.ping(GATEWAY, 56)
        workload.disk.read(0, 1)
        guest.unload()
    return capture
