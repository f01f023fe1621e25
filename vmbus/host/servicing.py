"""A host that can be stopped, or killed, and started again under a running guest.

What the next process needs is in two files: the *state* (a JSON document, replaced as a whole whenever the control
plane or a device changes) and the *journal* (``vmbus.host.journal``: what was taken and not answered).  Rings, message
slots and event flags are in the guest's memory, which the guest hands over again when it reconnects.

A batch of packets is journalled, handled, its effect on the device's state saved together with the answers that wait,
and only then committed; so a process that ends at any point between leaves either the packets in the ring, or
the packets in the journal, or the answers.  docs/state-format.md has the document and the order of things.
"""

from __future__ import annotations

import logging
import os
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from vmbus import __version__
from vmbus.channel import Channel
from vmbus.gpadl import Gpadl
from vmbus.host.bus import DeviceSlot
from vmbus.host.journal import ChannelDebt, Debts, Journal, JournalError
from vmbus.host.journal_reader import check_journal, read_journal
from vmbus.host.state_document import BadHostState, check_writable, read_document, upgraded_device, write_document
from vmbus.host.state_lock import StateLock
from vmbus.ring import RingPacket
from vmbus.ring.packet import COMPLETION, TRANSFER_PAGES, OutgoingPacket
from vmbus.state_format import State
from vmbus.wire.control_values import SYNIC_MESSAGE_TYPE

if TYPE_CHECKING:
    from vmbus.devices.device import Device
    from vmbus.host.partition import HostPartition
    from vmbus.host.server import Host

log = logging.getLogger("vmbus.host")

_SIGNS_OF_DAMAGE = (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError, struct.error)
"""What unlikely values in a document or journal lead to."""


StandIn = Callable[[UUID, UUID], "Device | None"]
"""From the interface and instance id of a device to one that takes leave of the guest in its place."""


class _JournalOfChannel:
    """What a channel calls (``vmbus.channel.ChannelJournal``)."""

    def __init__(self, servicing: Servicing, partition: HostPartition, slot: DeviceSlot, channel_id: int) -> None:
        self._servicing = servicing
        self._partition = partition
        self._slot = slot
        self._channel_id = channel_id

    def taken(self, before: int, after: int, packets: Sequence[RingPacket]) -> None:
        if self._servicing.journal is not None:
            self._servicing.journal.taken(self._channel_id, before, after, packets)

    def handled(self) -> None:
        state = self._slot.device.checkpoint()
        if state != self._servicing.device_states.get(self._slot):
            self._servicing.checkpoint(self._partition)

    def sent(self, before: int, after: int, packets: Sequence[OutgoingPacket]) -> None:
        if self._servicing.journal is not None:
            self._servicing.journal.sent(self._channel_id, before, after, packets)


class Servicing:
    """Keeps the state of a host's guest in ``path``, and takes up the one that an earlier process left there."""

    def __init__(
        self,
        path: Path,
        stand_in: StandIn = lambda interface_id, instance_id: None,
        lock: StateLock | None = None,
    ) -> None:
        """Read what is at ``path``; ``stand_in`` makes a device for one that the guest uses and this host lacks.

        ``lock`` is that of the path, for whoever has taken it already; it is this object's from now on.

        Raises ``StateInUse``, and ``BadHostState`` if there is something else than a host's state, or if none can be
        written there.
        """
        self.path = path
        self._lock = lock or StateLock(path)
        self._is_failing = False
        self._stand_in = stand_in
        self.journal: Journal | None = None
        self.device_states: dict[DeviceSlot, State] = {}
        """As the last checkpoint has them."""
        self._journal_path = path.with_name(path.name + ".journal")
        try:
            self._saved = self._load()
            check_writable(path)
        except BaseException:
            self._lock.close()
            raise

    def _load(self) -> State | None:
        document = read_document(self.path)
        if document is not None:
            check_journal(self._journal_path)
        return document

    def prepare(self, host: Host) -> None:
        """Give a host that has the devices of its command line those that the earlier process had got since.

        Raises a ``VmbusError`` if one cannot be made again, or if a device's state is too new for this program.
        """
        if self._saved is None:
            return
        try:
            host.inventory.restore(self._saved["changes"])
            devices = {str(slot.device.instance_id): slot.device for slot in host.slots}
            for saved in self._saved["devices"]:
                device = devices.get(saved["instance"])
                if device is not None:
                    device.state_format.check(f"{self.path}: the state of {device.name}", saved["version"])
                    saved["state"] = upgraded_device(saved, device.state_format)
                    saved["version"] = device.state_format.version
                    device.reopen(saved["state"])
        except _SIGNS_OF_DAMAGE as error:
            raise BadHostState(f"{self.path} is damaged: {type(error).__name__}: {error}") from None

    # Guests come

    def has_state_of(self, guest_id: UUID) -> bool:
        """Whether an earlier process served this guest and left its state."""
        return self._saved is not None and UUID(self._saved["guest_id"]) == guest_id

    def begin(self, partition: HostPartition) -> None:
        """A new guest: what is known of another one is worth nothing any more."""
        self._saved = None
        try:
            self._start_journal({})
        except (BadHostState, JournalError) as error:
            self._cannot_keep(error)
        self.checkpoint(partition)

    def _start_journal(self, debts: Debts) -> None:
        """A new journal, which takes the old one's place only when everything is in it.

        Raises ``BadHostState`` or ``JournalError`` if it cannot be written; there is none then.
        """
        self._end_journal()
        fresh = self._journal_path.with_name(self._journal_path.name + ".new")
        journal = Journal(fresh)
        try:
            journal.adopt(debts)
            os.replace(fresh, self._journal_path)
        except JournalError:
            journal.close()
            raise
        except OSError as error:
            journal.close()
            raise BadHostState(f"cannot write the journal {self._journal_path}: {error.strerror}") from None
        self.journal = journal

    def _cannot_keep(self, error: Exception) -> None:
        """The state is not what is true: say so once, and leave none that another process would go on from."""
        if not self._is_failing:
            log.warning("%s: the guest cannot go on after a restart of the host", error)
        self._is_failing = True
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def watch(self, partition: HostPartition, slot: DeviceSlot, channel: Channel) -> None:
        """Journal a channel from now on, while there is a journal: of a guest that is taken over it begins later."""
        channel.journal = _JournalOfChannel(self, partition, slot, channel.channel_id)

    def channel_closed(self, channel_id: int) -> None:
        if self.journal is not None:
            self.journal.closed(channel_id)

    # The state

    def checkpoint(self, partition: HostPartition, *, clean: bool = False) -> None:
        """Replace the document by what is true now.  ``clean``: the process ends in good order after it.

        A guest does not suffer from a full disk: what cannot be written is said in the log, and tried again next time.
        """
        host = partition.host
        if partition.guest_id is None or self.journal is None:
            return
        devices = []
        for slot in (*host.slots, *host.leaving):
            state = self.device_states[slot] = slot.device.checkpoint()
            devices.append(
                {
                    "interface": str(slot.device.interface_id),
                    "instance": str(slot.device.instance_id),
                    "version": slot.device.state_format.version,
                    "offered": slot.is_offered,
                    "subchannels": slot.subchannels,
                    "state": slot.device.save() if clean else state,
                }
            )
        debts = self.journal.debts
        document = {
            "program": f"vmbus {__version__}",
            "clean": clean,
            "guest_id": str(partition.guest_id),
            "last_sequence": partition.last_sequence,
            "last_status": partition.last_status,
            "messages": [
                [vp.index, sint, message_type, payload.hex(), number]
                for vp in partition.vps
                for sint, message_type, payload, number in vp.queued_messages()
            ]
            + [
                [vp, sint, SYNIC_MESSAGE_TYPE, payload.hex(), number] for vp, sint, payload, number in partition.to_post
            ],
            "message_numbers": [[vp, sint, number] for (vp, sint), number in partition.message_numbers.items()],
            "control": partition.control.save(),
            "devices": devices,
            "changes": host.inventory.save(),
            "channels": {
                str(channel_id): {
                    "target_vp": channel.target_vp,
                    "taken_total": debts[channel_id].taken_total if channel_id in debts else 0,
                    "sent_total": debts[channel_id].sent_total if channel_id in debts else 0,
                    "unsent": [_packet_to_json(packet) for packet in channel.unsent],
                }
                for channel_id, channel in partition.channels.items()
            },
        }
        try:
            write_document(self.path, document)
            self._is_failing = False
        except BadHostState as error:
            self._cannot_keep(error)

    def devices_changed(self, host: Host) -> None:
        """Devices were added or removed: the next process must know before whoever asked for it does."""
        if host.partition is not None:
            host.partition.save()
        elif self._saved is not None:
            devices = {str(slot.device.instance_id): slot.device for slot in host.slots}
            for saved in self._saved["devices"]:
                device = devices.get(saved["instance"])
                if device is not None:
                    saved["state"] = device.amend(saved["state"])
            self._saved["changes"] = host.inventory.save()
            write_document(self.path, self._saved)

    def forget(self) -> None:
        """The guest is gone: its state is worth nothing any more."""
        self._saved = None
        self.device_states.clear()
        self._end_journal()
        for path in (self.path, self._journal_path):
            path.unlink(missing_ok=True)

    def suspend(self, partition: HostPartition | None) -> None:
        """The host stops and its guest lives on: leave a clean state behind."""
        if partition is not None and partition.guest_id is not None:
            self.checkpoint(partition, clean=True)
        self._end_journal()

    def _end_journal(self) -> None:
        if self.journal is not None:
            self.journal.close()
            self.journal = None

    def close(self) -> None:
        """Let the next process have the state; what is in it stays."""
        self._end_journal()
        self._lock.close()

    # Taking over

    def resume(self, partition: HostPartition) -> list[TakeOver]:
        """Bring control plane, devices and channels back to where they were; returns what each channel has to do.

        Raises ``BadHostState`` when the state does not fit this host's devices; the guest must then be refused.
        """
        saved, self._saved = self._saved, None
        assert saved is not None
        slots = partition.host.slots
        afresh = [(slot, slot.is_offered, slot.device.save()) for slot in slots]
        try:
            return self._resume(partition, saved)
        except Exception as error:
            slots[:] = [slot for slot, *_ in afresh]
            for slot, is_offered, state in afresh:
                slot.is_offered = is_offered
                slot.device.restore(state)
            if isinstance(error, _SIGNS_OF_DAMAGE):
                raise BadHostState(f"{self.path} is damaged: {type(error).__name__}: {error}") from None
            raise

    def _resume(self, partition: HostPartition, saved: State) -> list[TakeOver]:
        partition.last_sequence, partition.last_status = saved["last_sequence"], saved["last_status"]
        partition.control.restore(saved["control"])
        if partition.control.info is not None and partition.memory is not None:
            partition.monitor.use(partition.memory, partition.control.info.monitor_pages)
            partition.use_interrupt_page(partition.control.info.interrupt_page)
        partition.message_numbers = {(vp, sint): number for vp, sint, number in saved["message_numbers"]}
        for vp, sint, message_type, payload, number in saved["messages"]:
            partition.vps[vp].post_again(sint, message_type, bytes.fromhex(payload), number)
        self._restore_devices(partition, saved)
        self._reopen_channels(partition)
        known = {int(channel_id): channel["taken_total"] for channel_id, channel in saved["channels"].items()}
        debts = read_journal(self._journal_path, _indices_of(partition.channels), known)
        # What was handled leaves its ring before a new journal forgets that it was there.
        work = [
            self._take_over(channel, saved["channels"].get(str(channel_id)), debts.get(channel_id))
            for channel_id, channel in partition.channels.items()
        ]
        self._start_journal(debts)
        self.checkpoint(partition)
        return work

    def _restore_devices(self, partition: HostPartition, saved: State) -> None:
        states = {UUID(device["instance"]): device for device in saved["devices"]}
        channels = [channel for channel in partition.control.offers if not channel.state.is_rescinded]
        in_use = {channel.key.instance_id: channel.traits.monitor_latency for channel in channels}
        for slot in partition.host.slots:
            device = states.get(slot.device.instance_id)
            if device is None:
                partition.offer(slot)  # a device that the earlier process did not have
                continue
            slot.is_offered, slot.subchannels = device["offered"], device["subchannels"]
            slot.device.restore(upgraded_device(device, slot.device.state_format))
            if not slot.is_offered and slot.device.instance_id in in_use:
                # It was about to be taken back, and the guest does not know yet: it goes as soon as nothing is owed.
                slot.is_offered = True
                partition.last_steps.append(slot.rescind)
            partition.offer(slot)
        known = {slot.device.instance_id for slot in partition.host.slots}
        for instance_id in (states.keys() & in_use.keys()) - known:
            self._replace(partition, states[instance_id], instance_id, in_use[instance_id])

    def _replace(self, partition: HostPartition, saved: State, instance_id: UUID, monitor_latency: int | None) -> None:
        """A device is not there any more: another one answers for it, and is taken back as soon as nothing is owed."""
        device = self._stand_in(UUID(saved["interface"]), instance_id)
        if device is None:
            return  # its channels are rescinded at once
        device.offer = replace(device.offer, monitor_latency=monitor_latency)
        slot = partition.host.plug(device)
        slot.subchannels = saved["subchannels"]
        device.restore(upgraded_device(saved, device.state_format))
        partition.offer(slot)
        partition.last_steps.append(partial(partition.host.unplug, slot))

    def _reopen_channels(self, partition: HostPartition) -> None:
        for channel_id in partition.offered_channels():
            known = partition.gpadls.setdefault(channel_id, {})
            for shared in partition.control.restored_gpadls(channel_id):
                assert partition.memory is not None
                known[shared.gpadl_id] = Gpadl(shared.gpadl_id, shared.ranges, partition.memory)
            opened = partition.control.restored_open(channel_id)
            if opened is not None:
                partition.open_channel(channel_id, opened.params)
            partition.react(partition.control.channel_restored(channel_id, is_open=opened is not None))
        partition.react(partition.control.finish_restore())

    def _take_over(self, channel: Channel, saved: State | None, debt: ChannelDebt | None) -> TakeOver:
        debt = debt or ChannelDebt()
        unsent: list[OutgoingPacket] = []
        if saved is not None:
            channel.target_vp = saved["target_vp"]
            skip = max(debt.sent_total - saved["sent_total"], 0)
            unsent = [_packet_from_json(packet) for packet in saved["unsent"]][skip:]
        loans = {packet[2]: bytes(packet[3]) for packet in unsent if packet[0] == TRANSFER_PAGES}
        channel.adopt(unsent, debt.lent | loans, debt.to_skip)
        debt.to_skip = 0
        answered = Counter(packet[2] for packet in unsent if packet[0] == COMPLETION)
        return TakeOver(channel, _without(debt.packets(), answered))


class TakeOver:
    """What a channel has to do before it goes on: handle again what was not answered, send what was not sent."""

    def __init__(self, channel: Channel, owed: list[RingPacket]) -> None:
        self.channel = channel
        self.owed = owed

    def run(self) -> None:
        self.channel.take_over(self.owed)
        self.channel.service()


def _without(owed: list[RingPacket], answered: Counter[int]) -> list[RingPacket]:
    """What has no answer yet; of packets with the same transaction id the first ones were answered first."""
    left = []
    for packet in owed:
        if answered[packet.transaction_id]:
            answered[packet.transaction_id] -= 1
        else:
            left.append(packet)
    return left


def _indices_of(channels: dict[int, Channel]) -> Any:
    """The rings of open channels as they stand, before anything of them is used."""

    def indices(channel_id: int) -> tuple[int, int] | None:
        channel = channels.get(channel_id)
        return None if channel is None else (channel.incoming.position, channel.outgoing.position)

    return indices


def _packet_to_json(packet: OutgoingPacket) -> list[Any]:
    packet_type, flags, transaction_id, extension, payload = packet
    return [packet_type, flags, transaction_id, bytes(extension).hex(), bytes(payload).hex()]


def _packet_from_json(value: list[Any]) -> OutgoingPacket:
    packet_type, flags, transaction_id, extension, payload = value
    return (packet_type, flags, transaction_id, bytes.fromhex(extension), bytes.fromhex(payload))
