"""Kernel traces as text become records, as far as the events go."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from vmbus.capture.importers import write_capture
from vmbus.capture.importers.trace_events import records_of_events
from vmbus.capture.importers.trace_text import events_of_text
from vmbus.capture.reader import Record, read_records
from vmbus.wire.capture import Direction, ExternalRecord, RecordKind
from vmbus.wire.control import GpadlHeader, InitiateContact, MessageHeader, OpenChannel
from vmbus.wire.control_values import Version
from vmbus.wire.guids import NETWORK
from vmbus.wire.offer import OfferChannel
from vmbus.wire.ring import PacketDescriptor, PacketType

INSTANCE = UUID("11111111-2222-3333-4444-555555555555")

TRACE = f"""\
# tracer: nop
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
       swapper/0-1       [000] .....     0.120000: vmbus_negotiate_version: sending vmbus_version_requested 327683, \
target_vcpu 0x0, pages 2:3000:4000, ret 0
          <idle>-0       [000] d.h1.     0.121000: vmbus_on_msg_dpc: msgtype=15
          <idle>-0       [000] d.h1.     0.121001: vmbus_on_message: msgtype=15
          <idle>-0       [000] d.h1.     0.121002: vmbus_onversion_response: version_supported 1
       swapper/0-1       [000] .....     0.122000: vmbus_request_offers: sending ret 0
     kworker/0:1-12      [000] .....     0.123000: vmbus_on_message: msgtype=1
     kworker/0:1-12      [000] .....     0.123001: vmbus_onoffer: child_relid 0x2, monitorid 0xff, is_dedicated 1, \
connection_id 0x2002, if_type {NETWORK}, if_instance {INSTANCE}, chn_flags 0x0, mmio_megabytes 0, sub_channel_index 0
          <idle>-0       [000] d.h1.     0.124000: vmbus_on_msg_dpc: msgtype=4
     kworker/0:1-12      [000] .....     0.124000: vmbus_on_message: msgtype=4
     kworker/0:1-12      [000] .....     0.125000: vmbus_establish_gpadl_header: sending child_relid 0x2, \
gpadl 0xe1e10, range_buflen 528 rangecount 1, ret 0
     kworker/0:1-12      [000] .....     0.126000: vmbus_open: sending child_relid 0x2, openid 2, gpadlhandle 0xe1e10, \
target_vp 0x0, offset 0x20, ret -11
     kworker/0:1-12      [000] .....     0.127000: nvsp_send: dev=eth0 type=INIT
     kworker/0:1-12      [000] .....     0.127001: vmbus_setevent: relid 0x2
          <idle>-0       [000] d.h1.     0.128000: vmbus_chan_sched: relid 0x2
          <idle>-0       [000] ..s1.     0.128001: nvsp_recv: dev=eth0 qid=0 type=INIT_COMPLETE
     kworker/0:1-12      [000] .....     0.129000: rndis_send: dev=eth0 q=0 req=0x1 type=INIT msg_len=24
     kworker/0:1-12      [000] .....     0.130000: nvsp_send_pkt: dev=eth0 qid=0 type=CONTROL section=4294967295 size=0
CPU:0 [LOST 7 EVENTS]
             cat-99      [000] .....     0.131000: sched_switch: prev_comm=cat prev_pid=99
"""


def imported(lines: Iterable[str], path: Path) -> list[Record]:
    write_capture(path, records_of_events(events_of_text(lines)))
    return list(read_records(path))


def test_a_trace_becomes_messages_signals_and_packets(tmp_path: Path) -> None:
    found = imported(TRACE.splitlines(), tmp_path / "trace.pcapng")
    assert not [record.problem for record in found if record.problem]
    messages = [record for record in found if record.kind is RecordKind.MESSAGE]
    assert [MessageHeader.parse(record.body).message_type for record in messages] == [14, 15, 3, 1, 4, 8, 5]
    assert [record.direction for record in messages] == [1, 2, 1, 2, 2, 1, 1]
    assert [record.time_ns for record in found[:2]] == [120_000_000, 121_002_000]
    assert InitiateContact.parse(messages[0].body, 8) == InitiateContact(
        version=Version.V5_3,
        interrupt_page=2,
        parent_to_child_monitor_page=0x3000,
        child_to_parent_monitor_page=0x4000,
    )
    offer = OfferChannel.parse(messages[3].body, 8)
    assert (offer.interface_id, offer.instance_id, offer.connection_id) == (NETWORK, INSTANCE, 0x2002)
    assert GpadlHeader.parse(messages[5].body, 8).range_bytes == 528
    assert OpenChannel.parse(messages[6].body, 8).downstream_page_offset == 0x20
    assert messages[6].comments == ("trace event vmbus_open, which returned -11",)


def test_network_events_go_to_the_channel_that_was_offered(tmp_path: Path) -> None:
    found = imported(TRACE.splitlines(), tmp_path / "trace.pcapng")
    network = [record for record in found if record.channel_id == 2]
    assert {record.interface.name for record in network} == {f"net {INSTANCE}"}
    packets = [record for record in network if record.kind is RecordKind.PACKET]
    types = [PacketDescriptor.parse(record.body).packet_type for record in packets]
    assert types == [PacketType.IN_BAND, PacketType.COMPLETION, PacketType.IN_BAND]
    assert [(record.body[16:20], record.missing) for record in packets[:2]] == [
        (b"\x01\0\0\0", 36),
        (b"\x02\0\0\0", 36),
    ]
    signals = [record.direction for record in network if record.kind is RecordKind.SIGNAL]
    assert signals == [Direction.GUEST_TO_HOST, Direction.HOST_TO_GUEST]
    (external,) = [record for record in network if isinstance(record.header, ExternalRecord)]
    assert (external.body, external.missing) == (b"\x02\0\0\0\x18\0\0\0\x01\0\0\0", 12)


def test_network_events_without_an_offer_get_a_made_up_channel_and_a_note_about_it(tmp_path: Path) -> None:
    line = " kworker/0:1-12 [000] ..... 1.5: nvsp_send: dev=eth0 type=0x99"
    note, packet = imported([line], tmp_path / "trace.pcapng")
    assert note.body == b"the channel of eth0, queue 0, is not known: here it is 0x80000000"
    assert (packet.channel_id, packet.body[16:], packet.time_ns) == (0x80000000, b"\x99\0\0\0", 1_500_000_000)


def test_events_of_other_systems_are_notes_and_lost_events_are_counted(tmp_path: Path) -> None:
    lost: list[int] = []
    events = list(events_of_text(TRACE.splitlines(), lost.append))
    assert lost == [7]
    *_, last = records_of_events(events)
    assert b"sched_switch (not understood): prev_comm=cat" in last


def test_other_layouts_of_a_line_are_understood() -> None:
    lines = [
        "kworker/u2:1-31 [001] 12.000000001: vmbus_chan_sched:     relid 0x5",
        "  bash-1234  (1234) [000] d..1. 12.000001: vmbus_setevent: relid 0x5",
        "  my task-name-7 [000] 3.25: vmbus_on_event: relid 0x5",
        "  <...>-10 [000] 4.5: rndis_send: [FAILED TO PARSE] name=eth0 queue=0 req_id=1 msg_type=2 msg_len=24",
    ]
    events = list(events_of_text(lines))
    assert [(event.time_ns, event.cpu, event.fields) for event in events] == [
        (12_000_000_001, 1, {"relid": 5}),
        (12_000_001_000, 0, {"relid": 5}),
        (3_250_000_000, 0, {"relid": 5}),
        (4_500_000_000, 0, {"name": "eth0", "queue": 0, "req_id": 1, "msg_type": 2, "msg_len": 24}),
    ]


@given(st.lists(st.text(max_size=120), max_size=5), st.integers(0, len(TRACE) - 1), st.text(max_size=3))
def test_no_text_ends_in_a_traceback(lines: list[str], at: int, instead: str) -> None:
    changed = TRACE[:at] + instead + TRACE[at + 1 :]
    list(records_of_events(events_of_text([*lines, *changed.splitlines()])))


def test_ids_and_times_that_cannot_be_cost_no_more_than_themselves(tmp_path: Path) -> None:
    offer = "vmbus_onoffer: [FAILED TO PARSE] child_relid=2 if_type=nonsense if_instance=" + "9" * 5000
    lines = [f"a-1 [000] ..... {seconds}.5: vmbus_chan_sched: relid 0x2" for seconds in ("999999999999", "9" * 5000)]
    found = imported([*lines, f"a-1 [000] ..... 1.5: {offer}", f"b-2 [000] ..... 2.5: {offer[:76]}"], tmp_path / "a")
    assert [(record.kind, record.time_ns) for record in found] == [
        (RecordKind.SIGNAL, 2**63 - 1),
        (RecordKind.NOTE, 1_500_000_000),
        (RecordKind.MESSAGE, 2_500_000_000),
    ]


def test_times_before_1970_are_its_first_moment(tmp_path: Path) -> None:
    write_capture(tmp_path / "a", records_of_events(events_of_text(TRACE.splitlines()), -(10**12)))
    assert {record.time_ns for record in read_records(tmp_path / "a")} == {0}
