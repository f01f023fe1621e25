"""The engine puts records into their context."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import UUID

from dissectors.engine import Session
from dissectors.engine.render import tree_lines
from dissectors.testing import GUEST, HOST, Script
from dissectors.wireshark.compare import differences
from vmbus.wire import control as c
from vmbus.wire import guids, rndis, scsi, vstor
from vmbus.wire.control_values import MessageType, Version
from vmbus.wire.hypervisor import Msr
from vmbus.wire.offer import OfferFlags
from vmbus.wire.protocols import PROTOCOLS
from vmbus.wire.ring import PipeHeader, PipePacketType


def test_a_completion_knows_the_request_it_answers_and_how_long_that_took(disk: Script) -> None:
    items = disk.decode()
    done = next(item for item in items if "for READ_10" in item.summary)
    assert done.request is not None and done.request.response is done
    assert done.latency_ns == done.request.latency_ns == 2000


def test_data_outside_the_ring_belongs_to_the_request_that_points_at_it(disk: Script) -> None:
    data = [item for item in disk.decode() if item.kind_name == "external"]
    assert [item.request.transaction_id for item in data if item.request] == [2, 3]


def test_a_command_block_and_sense_data_are_decoded_inside_their_fields(disk: Script) -> None:
    items = disk.decode()
    cdb = items[9].tree.find("cdb")
    assert cdb is not None and cdb.children[0].find("lba").value == 2048  # type: ignore[union-attr]
    sense = items[-1].tree.find("sense")
    assert sense is not None and sense.children[0].find("key").value == scsi.SenseKey.ILLEGAL_REQUEST  # type: ignore[union-attr]


def test_inquiry_data_is_decoded_by_the_command_that_asked_for_it(disk: Script) -> None:
    data = [item for item in disk.decode() if item.kind_name == "external"][1]
    vendor = data.tree.find("vendor")
    assert vendor is not None and vendor.value == b"Msft    "


def test_an_rndis_answer_is_decoded_by_the_oid_of_its_request(card: Script) -> None:
    answer = next(item for item in card.decode() if "QUERY_COMPLETE" in item.summary)
    assert "IEEE_802_3_PERMANENT_ADDRESS" in answer.summary
    information = answer.tree.find("information")
    assert information is not None and information.children


def test_frames_are_named_by_their_addresses_and_type(card: Script) -> None:
    lines = [item.summary for item in card.decode() if "RNDIS PACKET" in item.summary]
    assert lines == ["RNDIS PACKET 00:15:5d:01:02:03 > ff:ff:ff:ff:ff:ff ARP, 60 bytes"] * 2


def test_an_rndis_message_that_is_no_more_than_a_request_id_has_its_name(card: Script) -> None:
    halt = rndis.build_message(rndis.RndisMessageType.HALT, rndis.RndisHalt(request_id=10))
    card.external(GUEST, 4, halt, transaction=4)
    assert card.decode()[-1].summary == "RNDIS HALT 12 bytes"


def test_a_channel_has_one_life_from_offer_to_release(script: Script) -> None:
    script.offer(3, guids.SCSI)
    script.open(3)
    script.close(3)
    script.rescind(3)
    script.release(3)
    session = Session()
    script.decode(session)
    (life,) = session.lives
    assert life.state == "released" and life.name == "scsi"
    assert [what.split()[0] for _, _, what in life.history] == [
        "offered", "GPADL", "GPADL", "open", "open", "closed", "rescinded", "released",
    ]  # fmt: skip
    assert session.channels == {}


def test_registers_have_the_names_that_the_hypervisor_gives_them(script: Script) -> None:
    script.register(Msr.SIMP, 0x5001)
    script.register(0x1B, 1, vp=2)
    known, other = script.decode()[-2:]
    assert known.summary == "VP 0 writes SIMP = 0x5001" and other.summary == "VP 2 writes register 0x1b = 0x1"
    assert "number: SIMP (0x40000083)" in "\n".join(tree_lines(known.tree))


def test_the_negotiated_version_is_known(script: Script) -> None:
    session = Session()
    script.decode(session)
    assert session.plane.version == Version.V5_3


def test_a_channel_whose_offer_was_not_seen_decodes_as_what_it_is_said_to_be(disk: Script) -> None:
    middle = Script()
    middle.records = disk.records[8:]
    assert {item.protocol for item in middle.decode()} == {"ring"}
    assert {item.protocol for item in middle.decode(Session({3: PROTOCOLS[guids.SCSI]}))} == {"vstor"}


def test_a_channel_knows_its_subchannels_and_the_memory_it_once_had(script: Script) -> None:
    script.offer(3, guids.SCSI)
    script.offer(9, guids.NETWORK)
    script.offer(4, guids.SCSI, subchannel=1)
    script.open(3)
    script.message(GUEST, MessageType.GPADL_TEARDOWN, c.GpadlTeardown(channel_id=3, gpadl_id=0xE1E10))
    script.message(HOST, MessageType.GPADL_TORNDOWN, c.GpadlTorndown(gpadl_id=0xE1E10))
    session = Session()
    script.decode(session)
    device, card, other = session.channels[3], session.channels[9], session.channels[4]
    assert device.subchannels == [other] and other.primary is device and not card.subchannels
    (gpadl,) = device.past_gpadls
    assert 0 < gpadl.announced < gpadl.created < gpadl.teardown < gpadl.torn_down and not device.gpadls


def test_a_subchannel_belongs_to_the_channel_that_its_device_has_now(script: Script) -> None:
    script.offer(3, guids.SCSI)
    script.rescind(3)
    script.release(3)
    script.offer(5, guids.SCSI, subchannel=1)
    script.offer(4, guids.SCSI)
    script.offer(6, guids.SCSI, subchannel=2)
    session = Session()
    script.decode(session)
    assert session.channels[5].primary is None
    assert session.channels[6].primary is session.channels[4] and session.channels[4].subchannels == [
        session.channels[6]
    ]


def test_a_channel_seen_before_its_offer_has_one_life_only(script: Script) -> None:
    for channel in (3, 4):
        script.packet(GUEST, channel, bytes(16))
    script.offer(3, guids.SCSI)
    session = Session()
    script.decode(session)
    assert [(life.channel_id, life.name) for life in session.lives] == [(4, "unknown"), (3, "scsi")]


def test_what_a_channel_had_goes_with_it(script: Script) -> None:
    script.offer(3, guids.SCSI)
    gpadl_id = script.open(3)
    script.rescind(3)
    script.release(3)
    session = Session()
    script.decode(session)
    (life,) = session.lives
    assert list(life.gpadls) == [gpadl_id] and not session.plane.gpadls


def test_a_session_that_keeps_nothing_knows_the_channels_that_are_there(script: Script) -> None:
    session = Session(keeps_past_lives=False)
    for channel in range(3, 50):
        script.offer(channel, guids.vsock_service(22), instance=channel)
        script.rescind(channel)
        script.release(channel)
    script.offer(7, guids.SCSI)
    script.decode(session)
    assert session.lives == [session.channels[7]]


def test_an_unloaded_connection_has_no_open_channel(disk: Script) -> None:
    session = Session()
    disk.message(GUEST, MessageType.UNLOAD)
    unloaded = disk.message(HOST, MessageType.UNLOAD_COMPLETE)
    disk.decode(session)
    (life,) = session.lives
    assert (life.state, life.unloaded) == ("unloaded", unloaded) and not session.channels


def test_a_subchannel_is_named_after_its_device(script: Script) -> None:
    script.offer(3, guids.SCSI)
    script.offer(5, guids.SCSI, subchannel=1)
    assert script.decode()[-1].channel_name == "5 scsi/1"


def test_a_reused_transaction_id_is_noted(disk: Script) -> None:
    disk.packet(GUEST, 3, bytes(64), transaction=9, wants_completion=True)
    disk.packet(GUEST, 3, bytes(64), transaction=9, wants_completion=True)
    assert "not completed yet" in disk.decode()[-1].notes[0]


def test_an_unknown_device_decodes_to_the_ring(script: Script) -> None:
    script.offer(9, UUID(int=1))
    script.packet(GUEST, 9, b"anything", transaction=5)
    item = script.decode()[-1]
    assert item.summary == "IN_BAND transaction 0x5, 8 bytes"
    assert [layer.name for layer in item.tree.children] == ["PacketRecord", "PacketDescriptor", "payload"]


def test_an_unknown_device_that_is_a_pipe_decodes_to_the_pipe(script: Script, tmp_path: Path) -> None:
    script.offer(9, UUID(int=1), flags=OfferFlags.NAMED_PIPE_MODE)
    script.packet(GUEST, 9, PipeHeader(packet_type=PipePacketType.DATA, length=5).build() + b"hello")
    item = script.decode()[-1]
    assert [layer.name for layer in item.tree.children][2:] == ["PipeHeader", "payload", "padding"]
    if shutil.which("tshark"):
        assert list(differences(script.write(tmp_path / "pipe.pcapng"))) == []


def test_an_offer_of_an_ide_accelerator_says_which_drive_it_is(script: Script, tmp_path: Path) -> None:
    script.offer(6, guids.IDE, user_defined=vstor.IdeOfferProperties(path=1, target=0).build())
    text = "\n".join(tree_lines(script.decode()[-1].tree))
    assert "IdeOfferProperties" in text and "path: 1" in text
    assert shutil.which("tshark") is None or list(differences(script.write(tmp_path / "offer.pcapng"))) == []


def test_the_message_after_a_write_of_a_crash_dump_is_its_bytes(dump: Script) -> None:
    write, data, complete = dump.decode()[-3:]
    assert "REQUEST_NIX_DUMP_WRITE_V1" in write.summary and "REQUEST_NIX_DUMP_COMPLETE_V1" in complete.summary
    named = [(layer.name, bytes(data.data[layer.start : layer.stop])) for layer in data.layers if layer.format is None]
    assert named == [("payload", b"eleven byte"), ("padding", bytes(5))]
    assert data.request is write and data.latency_ns is None and data.problems == []


def test_records_that_make_no_sense_are_noted_and_never_raise(script: Script) -> None:
    for data in (b"", b"\x01", bytes(16), b"\x07" * 32, b"\x01\x03\xff\xff" + bytes(28), b"\x01\x03\x20\0" + bytes(28)):
        script.add(data)
    items = script.decode()[2:]
    assert all(item.notes for item in items)
    assert all(item.tree is not None and item.summary for item in items)


def test_a_truncated_message_says_which_field_is_missing(script: Script) -> None:
    script.message(HOST, MessageType.OPEN_CHANNEL_RESULT, bytes(5))
    item = script.decode()[-1]
    assert item.summary == "OPEN_CHANNEL_RESULT"
    assert [layer.name for layer in item.tree.children][-1] == "unknown"


def test_guids_are_shown_with_what_they_stand_for_and_who_disagrees(script: Script) -> None:
    script.offer(3, guids.RDP_CONTROL)
    lines = "\n".join(tree_lines(script.decode()[-1].tree))
    assert f"interface_id: {guids.RDP_CONTROL} (synthetic remote desktop, control; Linux: HV_AVMA1_GUID" in lines
