"""Scapy's own tools work on live channels and on our captures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from scapy.ansmachine import AnsweringMachine
from scapy.automaton import ATMT, Automaton
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from scapy.sendrecv import AsyncSniffer
from scapy.utils import PcapNgReader, rdpcap

from dissectors.layers.sockets import ChannelSocket, GuestSocket
from dissectors.layers.vmbus import (
    MessageHeader,
    MessageRecord,
    PacketDescriptor,
    PacketRecord,
    VMBusRecord,
    forget,
    layer,
)
from dissectors.testing import HOST, Script
from vmbus.devices.echo import ECHO_INTERFACE
from vmbus.loop import LoopThread
from vmbus.testing.channels import ChannelPair
from vmbus.wire import guids, rndis
from vmbus.wire.capture import Direction
from vmbus.wire.scsi import Opcode

StartHost = Callable[..., AbstractContextManager[str]]

COMPLETION = "COMPLETION"
WANTED = "COMPLETION_REQUESTED"


@pytest.fixture
def ends() -> Iterator[tuple[ChannelSocket, ChannelSocket]]:
    """The host's and the guest's end of a channel of a SCSI controller."""
    pair = ChannelPair(interface_id=guids.SCSI)
    thread = LoopThread(pair.loop, "pair")
    thread.start()
    host = ChannelSocket(pair.host, thread, Direction.HOST_TO_GUEST)
    guest = ChannelSocket(pair.guest, thread, Direction.GUEST_TO_HOST)
    yield host, guest
    host.close()
    guest.close()
    thread.stop()
    pair.close()


class Disk(AnsweringMachine):  # type: ignore[misc]
    """Completes every SCSI command with success."""

    function_name = "disk"

    def is_request(self, req: Any) -> bool:
        return PacketDescriptor in req and req.packet_type != 11

    def make_reply(self, req: Any) -> Any:
        done = layer("ScsiCompletion")(operation="COMPLETE_IO")
        done.result.srb_status = "SUCCESS"
        return PacketDescriptor(packet_type=COMPLETION, transaction_id=req.transaction_id) / done


def read_10(transaction: int) -> Any:
    cdb = layer("Transfer10")(opcode=Opcode.READ_10, lba=8, length=1)
    srb = layer("ScsiRequest")(cdb=bytes(cdb), cdb_length=10)
    return PacketDescriptor(transaction_id=transaction, flags=WANTED) / layer("VstorRequest")(
        operation="EXECUTE_SRB", body=srb
    )


def test_sr1_gets_the_completion_from_an_answering_machine(ends: tuple[ChannelSocket, ChannelSocket]) -> None:
    host, guest = ends
    machine = host.am(Disk)
    machine.bg()
    answer = guest.sr1(read_10(77), timeout=60, verbose=False)
    machine.sniffer.stop()
    assert answer is not None and answer.transaction_id == 77
    assert answer[layer("ScsiCompletion")].result.srb_status == 1


def test_sniff_sees_packets_as_the_device_speaks(ends: tuple[ChannelSocket, ChannelSocket]) -> None:
    host, guest = ends
    sniffer = AsyncSniffer(opened_socket=host, count=3)
    sniffer.start()
    for transaction in (1, 2, 3):
        guest.send(read_10(transaction))
    sniffer.join(60)
    assert [packet.transaction_id for packet in sniffer.results] == [1, 2, 3]
    assert all(layer("ScsiRequest") in packet for packet in sniffer.results)


class Reader(Automaton):  # type: ignore[misc]
    """Sends a command and waits for its completion."""

    def parse_args(self, **kargs: Any) -> None:
        super().parse_args(**kargs)

    def master_filter(self, pkt: Any) -> bool:
        return PacketDescriptor in pkt

    @ATMT.state(initial=1)
    def BEGIN(self) -> None:
        self.send(read_10(5))

    @ATMT.receive_condition(BEGIN)
    def completed(self, pkt: Any) -> None:
        if pkt.packet_type == 11:
            raise self.END(pkt)

    @ATMT.timeout(BEGIN, 60)
    def too_late(self) -> None:
        raise self.END(None)

    @ATMT.state(final=1)
    def END(self, pkt: Any) -> Any:
        return pkt


def test_an_automaton_holds_a_conversation(ends: tuple[ChannelSocket, ChannelSocket]) -> None:
    host, guest = ends
    machine = host.am(Disk)
    machine.bg()
    result = Reader(ll=lambda **kargs: guest, recvsock=lambda **kargs: guest).run()
    machine.sniffer.stop()
    assert result is not None and result.transaction_id == 5


def test_a_guest_socket_speaks_to_a_host_in_another_process(start_host: StartHost, tmp_path: Path) -> None:
    with start_host(tmp_path, "--device", "echo") as address:
        sock = GuestSocket(address, ECHO_INTERFACE)
        question = PacketDescriptor(transaction_id=9, flags=WANTED) / Raw(b"say this")
        answer = sock.sr1(question, timeout=60, verbose=False)
        sock.close()
    assert answer is not None and answer.answers(question) and answer[Raw].load == b"say this"


def test_captures_are_read_with_rdpcap_and_rebuild_byte_for_byte(card: Script, tmp_path: Path) -> None:
    forget()
    path = str(card.write(tmp_path / "card.pcapng"))
    packets = rdpcap(path)
    assert [bytes(packet) for packet in packets] == [data for _, data in card.records]
    frames = [packet[Ether] for packet in packets if Ether in packet]
    assert [frame[ARP].pdst for frame in frames] == ["10.0.0.2"] * 2
    assert len(list(PcapNgReader(path))) == len(packets)


def test_a_frame_that_the_snap_length_cut_is_a_frame_all_the_same(card: Script) -> None:
    forget()
    frame = bytes(Ether(dst="02:00:00:00:00:01") / Raw(bytes(1000)))
    sent = rndis.RndisReceivedPacket(data_length=len(frame), frame=frame)
    message = rndis.build_message(rndis.RndisMessageType.PACKET, sent)
    card.external(HOST, 4, message[:100], transaction=102, total=len(message))
    packets = [VMBusRecord(data) for _, data in card.records]
    assert packets[-1][Ether].dst == "02:00:00:00:00:01" and bytes(packets[-1]) == card.records[-1][1]


def test_a_completion_answers_its_request_in_a_capture(disk: Script, tmp_path: Path) -> None:
    forget()
    packets = rdpcap(str(disk.write(tmp_path / "disk.pcapng")))
    request, completion = packets[9], packets[11]
    assert completion.answers(request) and not request.answers(completion)
    assert completion.hashret() == request.hashret()


def test_messages_are_built_with_their_types_filled_in() -> None:
    packet = MessageRecord() / MessageHeader() / layer("OpenChannel")(channel_id=3, ring_gpadl_id=1)
    again = MessageRecord(bytes(packet))
    assert again[MessageHeader].message_type == 5
    assert again[layer("OpenChannel")].channel_id == 3
    assert isinstance(PacketRecord(bytes(32)), PacketRecord)


def test_scapy_loads_the_distribution_as_an_extension() -> None:
    program = (
        "from scapy.config import conf\n"
        "from scapy.main import load_contrib\n"
        "conf.exts.load('vmbus')\n"
        "load_contrib('vmbus')\n"
        "print(conf.l2types[147].__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "VMBusRecord\n"
