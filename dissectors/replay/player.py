"""Plays the guest's side of a capture against a live host: the same messages, packets and data, in the same order.

The guest's memory is made anew with everything at the page numbers of the capture, so that nothing has to be
rewritten; a host that offers the same devices in the same order gives them the same channel ids.  Before each step
the player waits, up to a limit, until the host has said as much as it had: a guest depends on the answers.
Data that was recorded only in part is filled up with zeros: record with ``--snap`` as large as the largest request if
the host is to answer as it did.  Signals follow from the rings, not from the capture.
"""

from __future__ import annotations

import os
import select
import time
from collections import Counter
from collections.abc import Callable
from uuid import uuid4

from dissectors.engine import Decoded
from dissectors.engine.dialects.control import parse_body
from dissectors.engine.dialects.network import Network
from dissectors.replay.plan import Plan, ReplayFailed, Step, ranges_of
from dissectors.replay.results import Result
from dissectors.replay.scatter import scatter
from vmbus.memory import PAGE_SIZE, GuestMemory
from vmbus.ring.incoming import IncomingRing
from vmbus.ring.pair import RingPair, map_ring_pair
from vmbus.synic import GuestSynicVp
from vmbus.transport import connect, parse_address
from vmbus.transport.client import HostConnection, new_interrupts
from vmbus.wire import control as c
from vmbus.wire import nvsp
from vmbus.wire.capture import MessageRecord, RecordKind
from vmbus.wire.control_values import SYNIC_MESSAGE_TYPE, VMBUS_SINT
from vmbus.wire.hypervisor import HvStatus
from vmbus.wire.offer import OfferChannel
from vmbus.wire.ring import PacketFlags
from vmbus.wire.schema import WireError

PATIENCE = 2.0
"""Seconds that a step waits for what the host had said before it in the capture."""
MAX_IN_VAIN = 8
"""Steps that may wait in vain before the host is given up."""
FAREWELL = 10.0
"""Seconds that the last answers may take: among them are flushes."""
SPARE_PAGES = 16


class Player:
    """Replays one plan against one host."""

    def __init__(self, plan: Plan, address: str, *, speed: float = 1.0) -> None:
        """``speed`` 2.0 halves all waits; 0 waits for nothing but the host."""
        self._plan = plan
        self._speed = speed
        self.result = Result(messages_expected=plan.messages, packets_expected=sum(plan.packets.values()))
        self._memory = GuestMemory.create((plan.last_page + SPARE_PAGES) * PAGE_SIZE)
        self._interrupts = new_interrupts(1)
        self._host = HostConnection(connect(parse_address(address)))
        self._poll = select.poll()
        for descriptor in (self._host.fileno(), *self._interrupts):
            self._poll.register(descriptor, select.POLLIN)
        self._vp = GuestSynicVp(0, self._memory, plan.message_page, plan.flags_page, self._host.set_register)
        self._gpadls: dict[int, list[int]] = {}
        self._rings: dict[int, RingPair] = {}
        self._connections: dict[int, int] = {}
        self._send_buffers: dict[int, int] = {}
        self._received: Counter[int] = Counter()
        self._given_up: Counter[int] = Counter()
        self._messages_given_up = 0

    def run(self) -> Result:
        """Play everything, then wait for what is still to be answered."""
        self._host.hello(self._memory, self._interrupts, uuid4())
        self._vp.enable(VMBUS_SINT)
        started, first = time.monotonic(), self._plan.steps[0].item.time_ns
        for step in self._plan.steps:
            if self._speed:
                due = started + (step.item.time_ns - first) / 1e9 / self._speed
                while (left := due - time.monotonic()) > 0:
                    self._listen(left)
            self._await(step)
            (self._post if step.item.kind == RecordKind.MESSAGE else self._put)(step)
        self._wait_until(
            lambda: (
                self.result.messages_received >= self._plan.messages
                and self.result.packets_received >= self.result.packets_expected
            ),
            FAREWELL,
        )
        return self.result

    def close(self) -> None:
        """Leave the host and release the memory."""
        self._host.close()
        for channel_id in list(self._rings):
            self._drop_rings(channel_id)
        self._vp.close()
        for interrupt in self._interrupts:
            os.close(interrupt)
        self._memory.close()

    # The host's side

    def _await(self, step: Step) -> None:
        """Wait for what the host had said before this step; what did not come once is not waited for again."""
        channel_id = step.item.channel_id
        packets = step.packets if channel_id in self._rings or not channel_id else 0

        def missing() -> tuple[int, int]:
            received = self._received[channel_id] if channel_id else self._received.total()
            given_up = self._given_up[channel_id] if channel_id else self._given_up.total()
            messages = step.messages - self.result.messages_received - self._messages_given_up
            return messages, packets - received - given_up

        if not self._wait_until(lambda: max(missing()) <= 0):
            messages, short = missing()
            self._messages_given_up += max(messages, 0)
            self._given_up[channel_id] += max(short, 0)
            self.result.waits_in_vain += 1
            if self.result.waits_in_vain > MAX_IN_VAIN:
                raise ReplayFailed(f"the host no longer answers as it did, at record {step.item.number}")

    def _wait_until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
        deadline = time.monotonic() + patience
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._listen(left)
        return True

    def _listen(self, seconds: float) -> None:
        """Take what the host has to say, waiting for it so long."""
        ready = {descriptor for descriptor, _ in self._poll.poll(min(seconds, 0.2) * 1000)}
        if self._host.fileno() in ready and self._host.host_is_gone():
            raise ReplayFailed("the host closed the connection")
        for interrupt in self._interrupts:
            if interrupt in ready:
                os.eventfd_read(interrupt)
        while (message := self._vp.take_message(VMBUS_SINT)) is not None:
            if message.message_type == SYNIC_MESSAGE_TYPE:
                self.result.messages_received += 1
                self._learn(message.payload)
        self._vp.take_event_flags(VMBUS_SINT)
        for channel_id, rings in self._rings.items():
            self._drain(channel_id, rings.incoming)

    def _drain(self, channel_id: int, ring: IncomingRing) -> None:
        """Take all packets out of a ring, and ask for a signal with the next one."""
        is_signal_due = False
        while True:
            while packets := ring.read_batch():
                self._received[channel_id] += len(packets)
                self.result.packets_received += len(packets)
                is_signal_due |= ring.commit()
            if not ring.unmask_interrupts():
                break
        if is_signal_due:
            self._signal(channel_id)

    def _learn(self, payload: bytes) -> None:
        if payload[:4] == b"\1\0\0\0" and len(payload) >= c.MessageHeader.SIZE + OfferChannel.SIZE:
            offer = OfferChannel.parse(payload, c.MessageHeader.SIZE)
            self._connections[offer.channel_id] = offer.connection_id

    # The guest's side

    def _signal(self, channel_id: int) -> None:
        self._host.signal_event(0, self._connections.get(channel_id, 0))

    def _post(self, step: Step) -> None:
        item = step.item
        body = parse_body(item)
        match body:
            case c.GpadlHeader():
                self._gpadls[body.gpadl_id] = list(body.words[1:])
            case c.GpadlBody():
                self._gpadls.setdefault(body.gpadl_id, []).extend(body.words)
            case c.OpenChannel():
                self._make_rings(body)
        head = MessageRecord.parse(item.data)
        status = self._host.post_message(0, head.connection_id, SYNIC_MESSAGE_TYPE, bytes(item.data[item.body_at :]))
        if status != HvStatus.SUCCESS:
            raise ReplayFailed(f"the host refused record {item.number} with {HvStatus(status)}")
        if isinstance(body, c.CloseChannel):
            self._drop_rings(body.channel_id)
        self.result.messages_sent += 1

    def _make_rings(self, body: c.OpenChannel) -> None:
        pages = self._gpadls.get(body.ring_gpadl_id, [])
        for pfn in pages:
            self._memory.write(pfn * PAGE_SIZE, bytes(PAGE_SIZE))
        self._drop_rings(body.channel_id)
        rings = map_ring_pair(self._memory, pages, body.downstream_page_offset, is_guest=True)
        self._rings[body.channel_id] = rings
        rings.incoming.unmask_interrupts()
        self._received[body.channel_id] += 0

    def _drop_rings(self, channel_id: int) -> None:
        rings = self._rings.pop(channel_id, None)
        if rings is not None:
            rings.close()

    def _put(self, step: Step) -> None:
        item = step.item
        rings = self._rings.get(item.channel_id)
        if rings is None:
            raise ReplayFailed(f"record {item.number} is a packet of a channel whose opening was not recorded")
        self._place_data(step)
        packet = (
            item.packet_type,
            int(PacketFlags.COMPLETION_REQUESTED) if item.wants_completion else 0,
            item.transaction_id,
            bytes(item.data[item.body_at + 16 : item.payload_at]),
            bytes(item.data[item.payload_at :]),
        )
        if not self._wait_until(lambda: rings.outgoing.write_batch([packet]) == 1):
            raise ReplayFailed(f"the host does not read the ring of channel {item.channel_id} any more")
        if rings.outgoing.commit():
            self._signal(item.channel_id)
        self.result.packets_sent += 1

    def _place_data(self, step: Step) -> None:
        """Put external data where the packet says that it is: page ranges, or a section of the send buffer."""
        item = step.item
        ranges = ranges_of(item)
        whole: list[tuple[int, int]] = []
        for (offset, length), pfns in ranges:
            whole += _pieces(pfns, offset, length)
        if isinstance(item.dialect, Network):
            whole = self._section(item) or whole
        views = [self._memory.view(gpa, length) for gpa, length in whole]
        for piece in step.data:
            scatter(views, piece.data_offset, bytes(piece.data[piece.body_at :]))

    def _section(self, item: Decoded) -> list[tuple[int, int]]:
        try:
            message = nvsp.NvspMessage.parse(item.data, item.payload_at)
        except WireError:
            return []
        body = message.body
        if isinstance(body, nvsp.NvspSendSendBuffer):
            self._send_buffers[item.channel_id] = body.gpadl_handle
        if not isinstance(body, nvsp.NvspSendRndisPacket) or body.send_buffer_section_index == nvsp.NO_SECTION:
            return []
        pages = self._gpadls.get(self._send_buffers.get(item.channel_id, 0), [])
        size = self._plan.section_size.get(item.channel_id, 0)
        return _pieces(tuple(pages), body.send_buffer_section_index * size, body.send_buffer_section_size)


def _pieces(pfns: tuple[int, ...], offset: int, length: int) -> list[tuple[int, int]]:
    """Guest physical addresses and lengths of ``length`` bytes from ``offset`` on in a list of pages."""
    found: list[tuple[int, int]] = []
    while length > 0 and offset // PAGE_SIZE < len(pfns):
        within = offset % PAGE_SIZE
        size = min(PAGE_SIZE - within, length)
        found.append((pfns[offset // PAGE_SIZE] * PAGE_SIZE + within, size))
        offset, length = offset + size, length - size
    return found
