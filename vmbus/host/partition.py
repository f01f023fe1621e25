"""One connected guest, as the host sees it: its memory, its synic and its control plane.

Messages from the guest go into the sans-I/O control plane; its events are carried out here, and answered.  A guest
that breaks a rule of the control plane is answered as the rules say.  Its channels are in ``channels``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from uuid import UUID

from vmbus.capture.in_force import messages_in_force
from vmbus.channel import Channel
from vmbus.control import host_events as events
from vmbus.control.events import MonitorPages
from vmbus.control.server import ControlServer
from vmbus.control.server_base import ServerConfig
from vmbus.errors import VmbusError
from vmbus.host.bus import DeviceSlot
from vmbus.host.resumption import ResumablePartition, ResumingHost
from vmbus.host.servicing import Servicing
from vmbus.host.taking_over import TakeOver
from vmbus.interrupt import BadInterrupt
from vmbus.memory import PAGE_SIZE, GuestMemory, GuestMemoryError, MemoryInUse
from vmbus.synic import make_vps
from vmbus.tap import Direction, NoteKind
from vmbus.transport.server import HelloRefused
from vmbus.wire.control_values import (
    EVENT_CONNECTION_ID,
    MESSAGE_CONNECTION_ID,
    MULTICLIENT_CONNECTION_ID,
    SYNIC_MESSAGE_TYPE,
    VMBUS_SINT,
    Version,
)
from vmbus.wire.hypervisor import HvStatus, Msr
from vmbus.wire.partition import FrameStatus, Hello, HelloReply, PartitionFeatures
from vmbus.wire.partition import NoteKind as GuestNote

log = logging.getLogger("vmbus.host")

_MESSAGE_CONNECTIONS = frozenset({MESSAGE_CONNECTION_ID, MULTICLIENT_CONNECTION_ID})


class SocketService(Protocol):
    """Offers a channel for each socket between the guest and this side (``vmbus.devices.hvsocket``)."""

    def guest_connects(self, endpoint_id: UUID, service_id: UUID, silo_id: UUID, refuse: Callable[[], None]) -> None:
        """The guest wants a socket to a service: offer a device with these ids, or call ``refuse``."""

    def guest_left(self) -> None:
        """No socket of that guest is worth anything any more."""


class GuestsHost(ResumingHost, Protocol):
    """What a guest needs of its host (``vmbus.host.server.Host``)."""

    @property
    def max_version(self) -> Version: ...

    @property
    def servicing(self) -> Servicing | None: ...

    @property
    def sockets(self) -> SocketService | None: ...

    @property
    def partition(self) -> HostPartition | None: ...

    def guest_came(self) -> None: ...

    def guest_left(self, reason: str) -> None: ...


class HostPartition(ResumablePartition):
    """Carries out a guest's synic operations (``vmbus.transport.server.PartitionHost``)."""

    host: GuestsHost

    def __init__(self, host: GuestsHost) -> None:
        super().__init__(host)
        self.is_served = False
        """The guest's hello was accepted."""
        self._take_overs: list[TakeOver] = []
        """What channels of an earlier process have to do, as soon as the guest can be signalled again."""
        self._crash: dict[int, int] = {}
        self._carry_out: dict[type[events.HostEvent], Callable[[Any], None]] = {
            events.VersionNegotiated: self._version_negotiated,
            events.ModifyConnectionRequested: self._use_monitor_pages,
            events.Disconnected: lambda event: self._forget_pages(),
            **self.channel_events,
            events.TlConnectRequested: self._tl_connect_requested,
            events.ProtocolViolation: self._protocol_violation,
            events.Unloaded: self._unloaded,
        }

    # The guest's operations

    def hello(self, hello: Hello, descriptors: Sequence[int]) -> HelloReply:
        """Map the guest's memory and offer it every device."""
        try:
            self.memory = GuestMemory.attach(descriptors[0], hello.memory_size, hello.first_gpa)
        except GuestMemoryError as error:
            raise HelloRefused(FrameStatus.BAD_MEMORY, str(error)) from None
        has_host_pages = bool(hello.features & PartitionFeatures.HOST_PAGES)
        self.control = ControlServer(
            ServerConfig(
                max_version=self.host.max_version,
                memory_size=self.memory.size,
                monitor_pages=_host_pages(self.memory) if has_host_pages else None,
            )
        )
        self.guest_id = hello.guest_id
        polls = bool(hello.features & PartitionFeatures.POLLING_WORD)
        try:
            self.vps = make_vps(self.memory, descriptors[1:], has_polling_word=polls)
        except BadInterrupt as error:
            raise HelloRefused(FrameStatus.MALFORMED, str(error)) from None
        servicing = self.host.servicing
        if servicing is not None and servicing.has_state_of(hello.guest_id):
            self._resume(servicing)
        elif hello.last_sequence:
            raise HelloRefused(FrameStatus.UNKNOWN_GUEST, f"the state of guest {hello.guest_id} is not here")
        else:
            for slot in self.host.slots:
                self.offer(slot)
            if servicing is not None:
                servicing.begin(self)
        self.host.note(
            f"guest {hello.guest_id} connected: {hello.memory_size >> 20} MiB, {hello.vp_count} processor(s)"
        )
        self.is_served = True
        self.host.guest_came()
        known = PartitionFeatures.HOST_PAGES | PartitionFeatures.POLLING_WORD
        if servicing is not None:
            known |= PartitionFeatures.RECONNECT
        return HelloReply(features=hello.features & known)

    def _resume(self, servicing: Servicing) -> None:
        """Go on where an earlier process stopped; the guest sets its registers again next."""
        try:
            self._take_overs = servicing.resume(self)
        except VmbusError as error:
            raise HelloRefused(FrameStatus.UNKNOWN_GUEST, f"the guest's state cannot be taken up: {error}") from None
        if self.host.tap is not None:
            for direction, payload in messages_in_force(self.control):
                self.host.tap.in_force(direction, payload)
        for vp in self.vps:
            vp.interrupt()
        self.host.note(f"going on with {len(self.channels)} open channels, {len(self._take_overs)} taken over")

    def _go_on(self) -> None:
        """Wake the guest for every channel that it can be woken for by now, and let the channel go on."""
        waiting, self._take_overs = self._take_overs, []
        for work in waiting:
            vp = work.channel.target_vp
            if vp is None or (vp < len(self.vps) and self.vps[vp].can_signal(VMBUS_SINT)):
                self._wake[work.channel.channel_id]()
                self.host.loop.call_soon(work.run)
            else:
                self._take_overs.append(work)
        if not self._take_overs:
            for step in self.last_steps:
                self.host.loop.call_soon(step)
            self.last_steps.clear()

    def set_register(self, vp: int, number: int, value: int) -> None:
        if self.host.tap is not None:
            self.host.tap.register(vp, number, value)
        if Msr.CRASH_P0 <= number <= Msr.CRASH_CTL:
            self._crash_register(number, value)
        self.vps[vp].set_register(number, value)
        if self._take_overs or self.last_steps:
            self._go_on()

    def get_register(self, vp: int, number: int) -> int:
        return self.vps[vp].get_register(number)

    def post_message(self, vp: int, connection_id: int, message_type: int, payload: bytes, sequence: int) -> int:
        if self.host.tap is not None:
            self.host.tap.message(Direction.GUEST_TO_HOST, vp, 0, connection_id, message_type, payload)
        if connection_id not in _MESSAGE_CONNECTIONS:
            return HvStatus.INVALID_CONNECTION_ID
        if message_type != SYNIC_MESSAGE_TYPE:
            return HvStatus.INVALID_PARAMETER
        if sequence and sequence == self.last_sequence:
            return self.last_status
        self.react(self.control.receive(payload, connection_id=connection_id))
        self.last_sequence, self.last_status = sequence, int(HvStatus.SUCCESS)
        self._save_and_post()
        return HvStatus.SUCCESS

    def signal_event(self, vp: int, connection_id: int, flag: int) -> None:
        channel = self._by_connection.get(connection_id)
        if self.host.tap is not None:
            channel_id = channel.channel_id if channel is not None else 0
            self.host.tap.signal(Direction.GUEST_TO_HOST, channel_id, connection_id, flag)
        if channel is not None:
            channel.on_signal()
        elif connection_id == EVENT_CONNECTION_ID:
            self.shared_event()

    def note(self, kind: int, text: str) -> None:
        problem = kind == GuestNote.CRASH
        self.host.note(text, NoteKind.PROBLEM if problem else NoteKind.KERNEL_LOG)

    def disconnected(self, reason: str) -> None:
        """Close every channel, let the memory go, and tell the host."""
        for channel_id in list(self.channels):
            self._close_channel(channel_id)
        self.monitor.close()
        self.use_interrupt_page(None)
        for vp in self.vps:
            vp.close()
        self.vps.clear()
        self.to_post.clear()
        self.gpadls.clear()
        if self.memory is not None:
            self._release(self.memory)
        self.host.guest_left(reason)

    @property
    def _guest_memory(self) -> GuestMemory:
        assert self.memory is not None, "nothing happens before the hello"
        return self.memory

    def _release(self, memory: GuestMemory) -> None:
        """Unmap the guest's memory as soon as no worker reads or writes it any more."""
        try:
            memory.close()
        except MemoryInUse:
            self.host.loop.call_later(0.05, lambda: self._release(memory))

    def channel_opened(self, slot: DeviceSlot, channel: Channel) -> None:
        if self.host.servicing is not None:
            self.host.servicing.watch(self, slot, channel)

    # Events of the control plane

    def react(self, happened: Sequence[events.HostEvent]) -> None:
        """Carry events out, in order, and deliver what the control plane has to say."""
        queue = list(happened)
        for event in queue:
            carry_out = self._carry_out.get(type(event))
            if carry_out is not None:
                carry_out(event)
        self._deliver()

    def _deliver(self) -> None:
        tap = self.host.tap
        for message in self.control.outgoing():
            if message.vp >= len(self.vps):
                self.host.note(f"a message for processor {message.vp}, which the guest does not have", NoteKind.PROBLEM)
                continue
            if tap is not None:
                tap.message(Direction.HOST_TO_GUEST, message.vp, message.sint, 0, SYNIC_MESSAGE_TYPE, message.payload)
            self.to_post.append(
                (message.vp, message.sint, message.payload, self._next_number(message.vp, message.sint))
            )
        if self.host.servicing is None:
            self._save_and_post()
        elif self.to_post:
            self.host.loop.call_soon(self._post_what_waits)

    def _next_number(self, vp: int, sint: int) -> int:
        number = self.message_numbers.get((vp, sint), 0) + 1 & 0xFFFF
        self.message_numbers[vp, sint] = number
        return number

    def save(self) -> None:
        """Something changed that the next process must know: which devices are offered, for example."""
        if self.host.servicing is not None and self.host.partition is self:
            self._save_and_post()

    def _post_what_waits(self) -> None:
        if self.to_post:
            self._save_and_post()

    def _save_and_post(self) -> None:
        """Post what is to be posted; if the state is kept, the next process knows of it before the guest does."""
        if self.host.servicing is not None:
            self.host.servicing.checkpoint(self)
        waiting, self.to_post = self.to_post, []
        for vp, sint, payload, number in waiting:
            self.vps[vp].post_message(sint, SYNIC_MESSAGE_TYPE, payload, number)

    def _version_negotiated(self, event: events.VersionNegotiated) -> None:
        self.host.note(f"VMBus {event.version.number} negotiated")
        self._use_monitor_pages(event)
        self.use_interrupt_page(event.interrupt_page)

    def _use_monitor_pages(self, event: events.VersionNegotiated | events.ModifyConnectionRequested) -> None:
        self.monitor.use(self._guest_memory, event.monitor_pages)

    def _forget_pages(self) -> None:
        self.monitor.use(self._guest_memory, None)
        self.use_interrupt_page(None)

    def _unloaded(self, event: events.Unloaded) -> None:
        self.host.note("the guest unloaded VMBus")

    def _protocol_violation(self, event: events.ProtocolViolation) -> None:
        self.host.note(str(event), NoteKind.PROBLEM)

    def _tl_connect_requested(self, event: events.TlConnectRequested) -> None:
        def refuse() -> None:
            if self.host.partition is self:
                self.react(self.control.tl_connect_result(event.endpoint_id, event.service_id, success=False))

        if self.host.sockets is None:
            refuse()
        else:
            self.host.sockets.guest_connects(event.endpoint_id, event.service_id, event.silo_id, refuse)

    def _crash_register(self, number: int, value: int) -> None:
        self._crash[number] = value
        if number != Msr.CRASH_CTL or not value >> 63:
            return
        parameters = ", ".join(f"{self._crash.get(Msr.CRASH_P0 + index, 0):#x}" for index in range(5))
        self.host.note(f"the guest crashed: {parameters}", NoteKind.PROBLEM)
        address, size = self._crash.get(Msr.CRASH_P3, 0), self._crash.get(Msr.CRASH_P4, 0)
        if value >> 62 & 1 and self.memory is not None and 0 < size <= 4096:
            try:
                text = self.memory.read(address, size).decode("utf-8", "replace").strip("\0")
            except GuestMemoryError:
                return
            for line in text.splitlines():
                self.host.note(line, NoteKind.KERNEL_LOG)


def _host_pages(memory: GuestMemory) -> MonitorPages:
    """Where our own monitor pages are: in the pages that the guest has left to its host, the last of its memory."""
    last = memory.size - PAGE_SIZE
    return MonitorPages(parent_to_child=last - PAGE_SIZE, child_to_parent=last)
