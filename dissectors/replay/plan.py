"""What a replay has to do: the steps of the guest in a capture, each with how far the host had got before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from dissectors.engine import Decoded
from dissectors.engine.dialects.control import parse_body
from dissectors.engine.dialects.network import Network
from vmbus.errors import VmbusError
from vmbus.wire import control as c
from vmbus.wire import nvsp
from vmbus.wire.capture import Direction, RecordKind
from vmbus.wire.hypervisor import Msr
from vmbus.wire.ring import GpaDirectHeader, PacketType
from vmbus.wire.schema import WireError

_MESSAGE, _PACKET, _EXTERNAL, _REGISTER = (
    int(RecordKind.MESSAGE),
    int(RecordKind.PACKET),
    int(RecordKind.EXTERNAL),
    int(RecordKind.REGISTER),
)
GUEST = int(Direction.GUEST_TO_HOST)
MAX_PAGE = 1 << 28
"""Page numbers from here on, a tebibyte, are in no guest's memory that could be made anew."""


class ReplayFailed(VmbusError):
    """A capture that cannot be replayed, or a host that does not go along."""


@dataclass
class Step:
    """One thing that the guest did, and how much the host had said before."""

    item: Decoded
    messages: int
    """Control messages of the host."""
    packets: int
    """Packets of the host on the channel of this step; on all channels before a message that is about none."""
    data: list[Decoded] = field(default_factory=list)
    """External data that a packet pointed at and that the host read."""


@dataclass
class Plan:
    """Everything that a replay needs of a capture."""

    steps: list[Step] = field(default_factory=list)
    messages: int = 0
    packets: Counter[int] = field(default_factory=Counter)
    message_page: int = 0
    flags_page: int = 0
    last_page: int = 0
    section_size: dict[int, int] = field(default_factory=dict)
    """Bytes of a section of a channel's send buffer."""


def plan_replay(items: Iterable[Decoded]) -> Plan:
    """Go through a capture once and note what the guest did."""
    plan = Plan()
    of_request: dict[int, Step] = {}
    for item in items:
        if item.kind == _REGISTER:
            _note_pages(plan, item)
        elif item.kind == _EXTERNAL and item.direction == GUEST and item.request is not None:
            if id(item.request) in of_request:
                of_request[id(item.request)].data.append(item)
        elif item.kind not in (_MESSAGE, _PACKET) or item.notes:
            continue
        elif item.direction == GUEST:
            before = plan.packets[item.channel_id] if item.channel_id else plan.packets.total()
            step = Step(item, plan.messages, before)
            plan.steps.append(step)
            of_request[id(item)] = step
            plan.last_page = max(plan.last_page, *_pages_of(item), 0)
            if plan.last_page >= MAX_PAGE:
                raise ReplayFailed(f"record {item.number} names page {plan.last_page:#x}, which no guest's memory has")
        elif item.kind == _MESSAGE:
            plan.messages += 1
        else:
            plan.packets[item.channel_id] += 1
            if size := section_size(item):
                plan.section_size[item.channel_id] = size
    if not plan.steps:
        raise ReplayFailed("the capture holds nothing that a guest sent")
    if not plan.message_page:
        plan.message_page, plan.flags_page = plan.last_page + 1, plan.last_page + 2
    plan.last_page = max(plan.last_page, plan.message_page, plan.flags_page)
    return plan


def _note_pages(plan: Plan, item: Decoded) -> None:
    number, value = (
        int.from_bytes(item.data[20:24], "little"),
        int.from_bytes(item.data[24:32], "little"),
    )
    if number == Msr.SIMP and value & 1:
        plan.message_page = value >> 12
    elif number == Msr.SIEFP and value & 1:
        plan.flags_page = value >> 12


def _pages_of(item: Decoded) -> tuple[int, ...]:
    """The page numbers that a record of the guest names."""
    if item.kind == _MESSAGE:
        body = parse_body(item)
        if isinstance(body, c.GpadlHeader):
            return tuple(body.words[1:])
        if isinstance(body, c.GpadlBody):
            return tuple(body.words)
        if isinstance(body, (c.InitiateContact, c.InitiateContact5)):
            return (body.parent_to_child_monitor_page >> 12, body.child_to_parent_monitor_page >> 12)
        return ()
    return tuple(pfn for _, pfns in ranges_of(item) for pfn in pfns)


def ranges_of(item: Decoded) -> list[tuple[tuple[int, int], tuple[int, ...]]]:
    """Offset in the first page and length, and the pages, of each range of a GPA-direct packet."""
    if item.packet_type != PacketType.GPA_DIRECT:
        return []
    try:
        header = GpaDirectHeader.parse(item.data, item.body_at + 16, item.payload_at)
    except WireError:
        return []
    return [((found.byte_offset, found.byte_count), found.pfns) for found in header.ranges]


def section_size(item: Decoded) -> int:
    """The bytes of a section of a card's send buffer, if this is the host's answer when it was given one; else 0."""
    if not isinstance(item.dialect, Network):
        return 0
    try:
        body = nvsp.NvspCompletion.parse(item.data, item.payload_at).body
    except WireError:
        return 0
    return body.section_size if isinstance(body, nvsp.NvspSendSendBufferComplete) else 0
