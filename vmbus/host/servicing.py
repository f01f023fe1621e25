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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from uuid import UUID

from vmbus import __version__
from vmbus.channel import Channel
from vmbus.host.bus import DeviceSlot
from vmbus.host.inventory import Inventory
from vmbus.host.journal import Debts, Journal, JournalError
from vmbus.host.journal_reader import check_journal, read_journal
from vmbus.host.resumption import ResumablePartition, StandIn
from vmbus.host.state_document import BadHostState, check_writable, read_document, upgraded_device, write_document
from vmbus.host.state_lock import StateLock
from vmbus.host.taking_over import TakeOver, indices_of, take_over
from vmbus.ring import RingPacket
from vmbus.ring.packet import OutgoingPacket
from vmbus.state_format import State

log = logging.getLogger("vmbus.host")

_SIGNS_OF_DAMAGE = (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError, struct.error)
"""What unlikely values in a document or journal lead to."""


class ServicedHost(Protocol):
    """The devices that are kept, and how they have changed (``vmbus.host.server.Host``)."""

    @property
    def slots(self) -> list[DeviceSlot]: ...

    @property
    def leaving(self) -> list[DeviceSlot]: ...

    @property
    def inventory(self) -> Inventory: ...


class _JournalOfChannel:
    """What a channel calls (``vmbus.channel.ChannelJournal``)."""

    def __init__(self, servicing: Servicing, partition: ResumablePartition, slot: DeviceSlot, channel_id: int) -> None:
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

    def prepare(self, host: ServicedHost) -> None:
        """Give a host that has the devices of its command line those that the earlier process had got since.

        Called first of all.

        Raises a ``VmbusError`` if one cannot be made again, or if a device's state is too new for this program.
        """
        self._host = host
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

    def begin(self, partition: ResumablePartition) -> None:
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

    def watch(self, partition: ResumablePartition, slot: DeviceSlot, channel: Channel) -> None:
        """Journal a channel from now on, while there is a journal: of a guest that is taken over it begins later."""
        channel.journal = _JournalOfChannel(self, partition, slot, channel.channel_id)

    def channel_closed(self, channel_id: int) -> None:
        if self.journal is not None:
            self.journal.closed(channel_id)

    # The state

    def checkpoint(self, partition: ResumablePartition, *, clean: bool = False) -> None:
        """Replace the document by what is true now.  ``clean``: the process ends in good order after it.

        A guest does not suffer from a full disk: what cannot be written is said in the log, and tried again next time.
        """
        host = self._host
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
        document = {
            "program": f"vmbus {__version__}",
            "clean": clean,
            **partition.saved(self.journal.debts),
            "devices": devices,
            "changes": host.inventory.save(),
        }
        try:
            write_document(self.path, document)
            self._is_failing = False
        except BadHostState as error:
            self._cannot_keep(error)

    def devices_changed(self) -> None:
        """Devices were added or removed, or a disc changed, and no guest is there that has a state."""
        if self._saved is None:
            return
        devices = {str(slot.device.instance_id): slot.device for slot in self._host.slots}
        for saved in self._saved["devices"]:
            device = devices.get(saved["instance"])
            if device is not None:
                saved["state"] = device.amend(saved["state"])
        self._saved["changes"] = self._host.inventory.save()
        write_document(self.path, self._saved)

    def forget(self) -> None:
        """The guest is gone: its state is worth nothing any more."""
        self._saved = None
        self.device_states.clear()
        self._end_journal()
        for path in (self.path, self._journal_path):
            path.unlink(missing_ok=True)

    def suspend(self, partition: ResumablePartition | None) -> None:
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

    def resume(self, partition: ResumablePartition) -> list[TakeOver]:
        """Bring control plane, devices and channels back to where they were; returns what each channel has to do.

        Raises ``BadHostState`` when the state does not fit this host's devices; the guest must then be refused.
        """
        saved, self._saved = self._saved, None
        assert saved is not None
        slots = self._host.slots
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

    def _resume(self, partition: ResumablePartition, saved: State) -> list[TakeOver]:
        partition.bring_back(saved, self._stand_in)
        known = {int(channel_id): channel["taken_total"] for channel_id, channel in saved["channels"].items()}
        debts = read_journal(self._journal_path, indices_of(partition.channels), known)
        # What was handled leaves its ring before a new journal forgets that it was there.
        work = [
            take_over(channel, saved["channels"].get(str(channel_id)), debts.get(channel_id))
            for channel_id, channel in partition.channels.items()
        ]
        self._start_journal(debts)
        self.checkpoint(partition)
        return work
