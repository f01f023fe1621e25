"""A guest across a restart of its host: what is saved of it, and how the next process brings it back.

``servicing`` says when, and keeps it in a file; here is what a partition consists of. docs/state-format.md describes
the document, of which these values are a part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol
from uuid import UUID

from vmbus.devices.device import Device
from vmbus.gpadl import Gpadl
from vmbus.host.bus import DeviceSlot
from vmbus.host.channels import ChannelHost, PartitionChannels
from vmbus.host.journal import ChannelDebt, Debts
from vmbus.host.state_document import packet_to_json, upgraded_device
from vmbus.state_format import State
from vmbus.wire.control_values import SYNIC_MESSAGE_TYPE

StandIn = Callable[[UUID, UUID], Device | None]
"""From the interface and instance id of a device to one that takes leave of the guest in its place."""


class ResumingHost(ChannelHost, Protocol):
    """What a guest that is brought back needs of its host: its devices."""

    @property
    def slots(self) -> list[DeviceSlot]: ...

    def plug(self, device: Device) -> DeviceSlot: ...

    def unplug(self, slot: DeviceSlot) -> None: ...


class ResumablePartition(PartitionChannels):
    """A guest's memory, processors and channels, and what the next process must know of them."""

    host: ResumingHost

    def __init__(self, host: ResumingHost) -> None:
        super().__init__(host)
        self.guest_id: UUID | None = None
        self.last_sequence = self.last_status = 0
        """Of the last message that was carried out: a guest that reconnects may send it again."""
        self.to_post: list[tuple[int, int, bytes, int]] = []
        """Messages that are posted when the state has been saved: processor, SINT, payload, number."""
        self.message_numbers: dict[tuple[int, int], int] = {}
        """Of the newest message to each processor and SINT, so that none is delivered twice."""
        self.last_steps: list[Callable[[], None]] = []
        """What is to be done when every channel of an earlier process goes on: devices to take back."""

    # Saving

    def saved(self, debts: Debts) -> State:
        """What is true now, but for the devices; ``debts`` are what the journal says of the channels."""
        queued = [
            [vp.index, sint, message_type, payload.hex(), number]
            for vp in self.vps
            for sint, message_type, payload, number in vp.queued_messages()
        ]
        to_post = [[vp, sint, SYNIC_MESSAGE_TYPE, payload.hex(), number] for vp, sint, payload, number in self.to_post]
        return {
            "guest_id": str(self.guest_id),
            "last_sequence": self.last_sequence,
            "last_status": self.last_status,
            "messages": queued + to_post,
            "message_numbers": [[vp, sint, number] for (vp, sint), number in self.message_numbers.items()],
            "control": self.control.save(),
            "channels": {
                str(channel_id): self._saved_channel(channel_id, debts.get(channel_id) or ChannelDebt())
                for channel_id in self.channels
            },
        }

    def _saved_channel(self, channel_id: int, debt: ChannelDebt) -> State:
        channel = self.channels[channel_id]
        return {
            "target_vp": channel.target_vp,
            "taken_total": debt.taken_total,
            "sent_total": debt.sent_total,
            "unsent": [packet_to_json(packet) for packet in channel.unsent],
        }

    # Bringing back

    def bring_back(self, saved: dict[str, Any], stand_in: StandIn) -> None:
        """Bring control plane, devices and channels to where they were; nothing of the rings is used yet."""
        self.last_sequence, self.last_status = saved["last_sequence"], saved["last_status"]
        self.control.restore(saved["control"])
        if self.control.info is not None and self.memory is not None:
            self.monitor.use(self.memory, self.control.info.monitor_pages)
            self.use_interrupt_page(self.control.info.interrupt_page)
        self.message_numbers = {(vp, sint): number for vp, sint, number in saved["message_numbers"]}
        for vp, sint, message_type, payload, number in saved["messages"]:
            self.vps[vp].post_again(sint, message_type, bytes.fromhex(payload), number)
        self._restore_devices(saved, stand_in)
        self._reopen_channels()

    def _restore_devices(self, saved: State, stand_in: StandIn) -> None:
        states = {UUID(device["instance"]): device for device in saved["devices"]}
        channels = [channel for channel in self.control.offers if not channel.state.is_rescinded]
        in_use = {channel.key.instance_id: channel.traits.monitor_latency for channel in channels}
        for slot in self.host.slots:
            device = states.get(slot.device.instance_id)
            if device is None:
                self.offer(slot)  # a device that the earlier process did not have
                continue
            slot.is_offered, slot.subchannels = device["offered"], device["subchannels"]
            slot.device.restore(upgraded_device(device, slot.device.state_format))
            if slot.device.instance_id not in in_use:
                slot.device.forget_guest()
            if not slot.is_offered and slot.device.instance_id in in_use:
                # It was about to be taken back, and the guest does not know yet: it goes as soon as nothing is owed.
                slot.is_offered = True
                self.last_steps.append(slot.rescind)
            self.offer(slot)
        known = {slot.device.instance_id for slot in self.host.slots}
        for instance_id in (states.keys() & in_use.keys()) - known:
            replacement = stand_in(UUID(states[instance_id]["interface"]), instance_id)
            if replacement is not None:  # otherwise its channels are rescinded at once
                replacement.offer = replace(replacement.offer, monitor_latency=in_use[instance_id])
                self._take_leave(replacement, states[instance_id])

    def _take_leave(self, stand_in: Device, saved: State) -> None:
        """A device is not there any more: another one answers for it, and is taken back as soon as nothing is owed."""
        slot = self.host.plug(stand_in)
        slot.subchannels = saved["subchannels"]
        stand_in.restore(upgraded_device(saved, stand_in.state_format))
        self.offer(slot)
        self.last_steps.append(partial(self.host.unplug, slot))

    def _reopen_channels(self) -> None:
        for channel_id in self.offered_channels():
            known = self.gpadls.setdefault(channel_id, {})
            for shared in self.control.restored_gpadls(channel_id):
                assert self.memory is not None
                known[shared.gpadl_id] = Gpadl(shared.gpadl_id, shared.ranges, self.memory)
            opened = self.control.restored_open(channel_id)
            if opened is not None:
                self.open_channel(channel_id, opened.params)
            self.react(self.control.channel_restored(channel_id, is_open=opened is not None))
        self.react(self.control.finish_restore())
