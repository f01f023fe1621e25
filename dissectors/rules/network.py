"""Rules about network cards."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dissectors.engine import Decoded
from dissectors.engine.dialect import COMPLETION
from dissectors.engine.dialects.network import Network
from dissectors.rules.rule import Memory, Severity, rule
from dissectors.rules.watch import STUCK, Watch
from vmbus.wire.capture import RecordKind
from vmbus.wire.nvsp import NO_SECTION, DataPath, NvspMessageType
from vmbus.wire.ring import PacketType
from vmbus.wire.rndis import RndisMessageType
from vmbus.wire.rndis_oid import Oid

PAGE = 4096
RNDIS_HEADER = 44
"""Bytes of an RNDIS packet message before its per-packet information."""
_U32 = struct.Struct("<I")
_FOUR = struct.Struct("<IIII")
_RANGE = struct.Struct("<II")
_EXTENSION_AT = 16


def nvsp(item: Decoded, watch: Watch) -> tuple[int, int, int, int]:
    """Type and first three words of an NVSP message; zeros for anything else."""
    if not watch.is_packet or not isinstance(item.dialect, Network):
        return (0, 0, 0, 0)
    a, b, c, d = _FOUR.unpack(bytes(item.data[item.payload_at : item.payload_at + 16]).ljust(16, b"\0"))
    return a, b, c, d


def rndis(item: Decoded) -> tuple[int, int, int, int]:
    """Type, length, and first two words of an RNDIS message; zeros for anything else."""
    if item.kind != RecordKind.EXTERNAL or not isinstance(item.dialect, Network):
        return (0, 0, 0, 0)
    a, b, c, d = _FOUR.unpack(bytes(item.data[item.body_at : item.body_at + 16]).ljust(16, b"\0"))
    return a, b, c, d


@rule(
    "EX-08",
    Severity.ERROR,
    "Look at the guest's receive completions: a full completion ring stops its polling for ever.",
)
def receive_buffer_full(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """Every piece of the receive buffer is in use."""
    number, _, _, _ = nvsp(item, watch)
    key = item.channel.instance_id if item.channel else item.channel_id
    if number == NvspMessageType.SEND_RECEIVE_BUFFER_COMPLETE and len(item.data) >= item.payload_at + 24:
        memory["pieces", key] = _U32.unpack_from(item.data, item.payload_at + 20)[0]
    if not number:
        return
    waiting = memory.setdefault(("waiting", key), set())
    if item.packet_type == PacketType.TRANSFER_PAGES and item.wants_completion:
        waiting.add((item.channel_id, item.transaction_id))
        pieces = memory.get(("pieces", key), 0)
        if pieces and len(waiting) == pieces:
            yield f"all {pieces} pieces of the receive buffer of {watch.name(item)} wait for the guest's completion"
    elif item.packet_type == COMPLETION and item.request is not None:
        waiting.discard((item.channel_id, item.transaction_id))


@rule("EX-09", Severity.ERROR, "Look at the host's completions of sent packets: a section is free only after its own.")
def send_section_in_use(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A section of the send buffer is used while it is in use."""
    number, _, section, _ = nvsp(item, watch)
    key = item.channel.instance_id if item.channel else item.channel_id
    if watch.is_packet and item.packet_type == COMPLETION and item.request is not None:
        memory.pop(("of", item.channel_id, item.transaction_id), None)
        used = memory.get(("sections", key), {})
        for index in [index for index, user in used.items() if user is item.request]:
            del used[index]
    elif number == NvspMessageType.SEND_RNDIS_PACKET and watch.from_guest and section != NO_SECTION:
        used = memory.setdefault(("sections", key), {})
        if section in used:
            since = used[section].number
            yield f"section {section} of the send buffer of {watch.name(item)} is in use since record {since}"
        used[section] = item


@send_section_in_use.at_end
def _sections_never_completed(watch: Watch, memory: Memory) -> Iterator[tuple[Decoded, str]]:
    for key, used in memory.items():
        if key[0] != "sections":
            continue
        old = [item for item in used.values() if watch.now - item.time_ns > STUCK]
        if len(old) > 1:
            yield old[0], f"{len(old)} sections of the send buffer of {watch.name(old[0])} were never given back"


@rule("EX-10", Severity.WARNING, "Look at how the guest places the header: hosts want it within one page.")
def header_crosses_a_page(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """An RNDIS header lies across two pages."""
    number, control, section, _ = nvsp(item, watch)
    if number != NvspMessageType.SEND_RNDIS_PACKET or control or section != NO_SECTION:
        return
    at = item.body_at + _EXTENSION_AT + 8
    if item.packet_type != PacketType.GPA_DIRECT or item.payload_at < at + 8:
        return
    count, offset = _RANGE.unpack_from(item.data, at)
    if offset % PAGE + min(RNDIS_HEADER, count) > PAGE or count < RNDIS_HEADER:
        yield f"the RNDIS header on {watch.name(item)} starts at {offset} of a page, in a range of {count} bytes"


@rule(
    "EX-11",
    Severity.WARNING,
    "Look at the host: it must stop receiving once the filter is 0, and the guest drains before it closes.",
)
def frame_after_filter_0(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A frame for a card whose packet filter is 0."""
    number, _, _, oid = rndis(item)
    key = item.channel.instance_id if item.channel else item.channel_id
    if number == RndisMessageType.SET and oid == Oid.GEN_CURRENT_PACKET_FILTER:
        at = item.body_at + 28
        if len(item.data) >= at + 4:
            memory[key] = (_U32.unpack_from(item.data, at)[0], item.number, False)
    elif number == RndisMessageType.SET_COMPLETE and key in memory:
        value, record, _ = memory[key]
        memory[key] = (value, record, True)
    elif number == RndisMessageType.PACKET and watch.from_host and key in memory:
        value, record, is_done = memory[key]
        if not value and is_done:
            yield f"{watch.name(item)} receives a frame; its packet filter is 0 since record {record}"


@rule(
    "EX-12",
    Severity.ERROR,
    "Look at the order: association first, then the data path; and at the guest's answer to it.",
)
def vf_out_of_order(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """The data path goes to a virtual function that was not announced."""
    number, first, _, _ = nvsp(item, watch)
    if number == NvspMessageType.SEND_VF_ASSOCIATION:
        memory[item.channel_id] = bool(first)
    switches = number == NvspMessageType.SWITCH_DATA_PATH and watch.from_guest and first == DataPath.VF
    if switches and watch.saw_start and not memory.get(item.channel_id):
        yield f"{watch.name(item)} switches to a virtual function, and none is associated"


@rule("EX-34", Severity.NOTE, "Nothing to do: hosts do this, and receivers take the buffer from behind the message.")
def status_buffer_left_out(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A status indication whose length leaves its buffer out."""
    if omits_status_buffer(item) and not memory.get(item.channel_id):
        memory[item.channel_id] = True
        yield f"the status indication on {watch.name(item)} leaves its buffer out of its length"


def omits_status_buffer(item: Decoded) -> bool:
    """Whether a record is an indication that ends, by its own length, before its status buffer."""
    number, length, _, buffer_length = rndis(item)
    if number != RndisMessageType.INDICATE_STATUS or len(item.data) < item.body_at + 20:
        return False
    offset = _U32.unpack_from(item.data, item.body_at + 16)[0]
    return buffer_length > 0 and 8 + offset + buffer_length > length
