"""The disc and the tray of a DVD drive: the disc can be changed while the guest runs, and the guest can lock the tray.

Sources: openvmm ``scsidisk/src/scsidvd/mod.rs`` (``change_media``, the drive's states); Linux 6.12
``drivers/scsi/sr.c`` (``sr_check_events``: a media event or a unit attention makes it look at the disc anew).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any

from vmbus.devices.device import DeviceError
from vmbus.devices.storage.backend import Backend, open_backend
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.media import MediaUnit
from vmbus.devices.storage.result import Result, not_ready
from vmbus.wire.scsi.mmc import MediaEvent
from vmbus.wire.scsi.opcodes import DeviceType
from vmbus.wire.scsi.sense import AdditionalSense

MAX_MEDIA_EVENTS = 8


class DiscLocked(DeviceError):
    """The guest uses the disc and has locked the tray."""


class DvdDrive(MediaUnit):
    """Base of :class:`~vmbus.devices.storage.dvd.ScsiDvd`. A disc's backend is opened read-only."""

    device_type = DeviceType.DVD

    def __init__(self, disc: Backend | None, identity: Identity) -> None:
        super().__init__(identity, 2048)
        self.is_open = False
        self.changed_to: str | None = None
        """What :func:`open_backend` takes for the disc that was put in at run time: nothing for none, and None while
        the drive has what it was made with.
        """
        self.media_events: deque[MediaEvent] = deque(maxlen=MAX_MEDIA_EVENTS)
        self.locked_by: set[Hashable] = set()
        self.set_medium(disc)

    @property
    def is_removable(self) -> bool:
        return True

    @property
    def is_read_only(self) -> bool:
        return True

    def check_ready(self) -> Backend:
        if self.backend is None:
            raise not_ready(
                AdditionalSense.MEDIUM_NOT_PRESENT_TRAY_OPEN
                if self.is_open
                else AdditionalSense.MEDIUM_NOT_PRESENT_TRAY_CLOSED
            )
        return self.backend

    def change_disc(self, disc: Backend | None, name: str = "", *, force: bool = False) -> None:
        """Put another disc in, or none; the old one's backend is closed, and the guest hears of it.

        By ``name`` the next process opens the disc again (:func:`open_backend`).

        Raises :class:`DiscLocked` while the guest keeps the tray locked, after asking it to eject; ``force`` does
        not ask.
        """
        if self.locked_by and self.backend is not None and not force:
            self.media_events.append(MediaEvent.EJECT_REQUEST)
            self.update()
            self.on_change()
            raise DiscLocked("the guest has locked the tray: it was asked to eject the disc")
        if self.backend is not None:
            self._take_out()
        if disc is not None:
            self.is_open = False
            self.set_medium(disc)
            self.media_events.append(MediaEvent.NEW_MEDIA)
        self.changed_to = name
        self.attend(AdditionalSense.MEDIUM_MAY_HAVE_CHANGED)
        self.on_change()

    def eject(self) -> None:
        """The guest opens the tray: a disc that is in it is gone for good."""
        if self.backend is not None:
            self._take_out()
            self.changed_to = ""
        self.is_open = True
        self.update()

    def close_tray(self) -> None:
        """The guest closes the tray."""
        self.is_open = False
        self.update()

    def lock(self, initiator: Hashable, *, locked: bool) -> None:
        """The guest locks the tray, or lets it go."""
        if locked:
            self.locked_by.add(initiator)
        else:
            self.locked_by.discard(initiator)
        self.update()

    def take_event(self) -> MediaEvent:
        """The oldest event that the guest has not heard of, or that there is none."""
        if not self.media_events:
            return MediaEvent.NO_CHANGE
        event = self.media_events.popleft()
        self.update()
        return event

    def _take_out(self) -> None:
        assert self.backend is not None
        self.abort(not_ready(AdditionalSense.MEDIUM_NOT_PRESENT).result)
        self.let_go(self.backend)
        self.set_medium(None)
        self.locked_by.clear()
        self.media_events.append(MediaEvent.MEDIA_REMOVAL)

    def lose(self, initiator: Hashable) -> None:
        self.locked_by.discard(initiator)
        super().lose(initiator)

    def reset(self, result: Result, attention: AdditionalSense) -> None:
        self.locked_by.clear()
        super().reset(result, attention)

    # The next process

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "changed_to": self.changed_to,
            "tray_open": self.is_open,
            "locked_by": sorted(map(str, self.locked_by)),
            "media_events": [int(event) for event in self.media_events],
        }

    def reopen(self, state: dict[str, Any]) -> None:
        name = state["changed_to"]
        if name is None:
            return
        disc = open_backend(name, read_only=True) if name else None
        if self.backend is not None:
            self.let_go(self.backend)
        self.set_medium(disc)
        self.changed_to = name

    def amend(self, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "changed_to": self.changed_to}

    def restore(self, state: dict[str, Any]) -> None:
        """Events that have come since belong to the guest as well, and the disc is that of now."""
        self.is_open = state["tray_open"] and self.backend is None
        self.locked_by = set(state["locked_by"])
        told = list(map(MediaEvent, state["media_events"]))
        self.media_events.extendleft(reversed([event for event in told if event not in self.media_events]))
        super().restore(state)

    def inspect(self) -> dict[str, Any]:
        return {**super().inspect(), "tray_open": self.is_open, "locked": bool(self.locked_by)}
