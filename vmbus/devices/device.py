"""What a synthetic device is: the host end (a VSP) of one offer, its primary channel and its subchannels.

The host's runtime calls the methods below from its loop's thread only; none of them may block. A device never sees
taps, rings or the control plane: it is handed open channels, and answers with a handler for each.

Source of the shapes: openvmm ``vm/devices/vmbus/vmbus_channel/src/channel.rs`` (``VmbusDevice``) and ``bus.rs``
(``OfferParams``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol
from uuid import UUID

from vmbus.errors import OptionError, VmbusError
from vmbus.state_format import State, StateFormat
from vmbus.wire.schema import NIL_GUID

if TYPE_CHECKING:
    from vmbus.channel import Channel, ChannelHandler
    from vmbus.loop import Loop
    from vmbus.memory import GuestMemory


class DeviceError(VmbusError):
    """A device cannot be made or cannot do what it was told; its text is for the person who configured it."""


class NoSuchDevice(DeviceError, OptionError):
    """No device or backend has the name that was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferTraits:
    """What an offer says about its channel besides the two ids (openvmm ``OfferChannel``)."""

    user_defined: bytes = b""
    """At most 120 bytes, padded with zeros; of a pipe, what follows the pipe's own parameters."""
    flags: int = 0
    """Offer flags beyond those that the runtime sets itself."""
    mmio_megabytes: int = 0
    pipe: str | None = None
    """``"byte"`` or ``"message"`` when the channel is a pipe."""
    hvsocket: Literal["connects", "accepts"] | None = None
    """For a socket's channel: whether this host connects to the guest, or accepts the guest's request."""
    silo_id: UUID = NIL_GUID
    """Of a socket: the container in the guest that it belongs to."""
    monitor_latency: int | None = None
    """Wanted latency of monitor-page signals, in 100 ns; None when signals are hypercalls."""

    def __post_init__(self) -> None:
        if len(self.user_defined) > 120:
            raise DeviceError(f"an offer holds 120 bytes of user-defined data, not {len(self.user_defined)}")


class DeviceBus(Protocol):
    """What the runtime gives a device: its loop, the guest's memory, and what a device may ask about its offer."""

    @property
    def loop(self) -> Loop: ...

    @property
    def memory(self) -> GuestMemory | None:
        """The guest's memory, once a guest has connected."""
        ...

    def offer_subchannels(self, count: int) -> None:
        """Offer subchannels 1 to ``count`` of this device to the guest."""
        ...

    def rescind(self) -> None:
        """Take the offer back, and with it every channel."""
        ...

    def reoffer(self) -> None:
        """Offer the device again after :meth:`rescind`."""
        ...

    def note(self, text: str) -> None:
        """One line for the log and for a capture, about what a guest did or what happened to the device."""
        ...


class Device(ABC):
    """Base of every synthetic device."""

    interface_id: UUID
    instance_id: UUID
    name: str
    """Short, for logs, captures and ``vmbus ctl``: ``"scsi"``, ``"net"``."""
    offer: OfferTraits = OfferTraits()
    bus: DeviceBus | None = None
    state_format = StateFormat()
    """The version of what :meth:`save` gives, and how states of older versions become it."""

    def attach(self, bus: DeviceBus) -> None:
        """The device is about to be offered on ``bus``."""
        self.bus = bus

    @abstractmethod
    def open(self, channel: Channel) -> ChannelHandler:
        """The guest opened the primary channel, or a subchannel (``channel.subchannel_index`` above 0).

        Raises a :class:`VmbusError` to refuse. The handler gets its packets from now on, and ``on_close`` at the end.
        """

    def retire(self, done: Callable[[], None]) -> None:
        """The offer is about to be taken back: bring what is under way to an end, tell the guest to send no more if
        there is a way to, then call ``done``.  The host goes on after a few seconds in any case.
        """
        done()

    def has_settled(self, channel: Channel) -> bool:
        """Whether the offer may be taken back as far as this channel is concerned: by default, when its rings are
        empty, because a Linux driver takes nothing out of them after a rescind.
        """
        return channel.is_at_rest

    def save(self) -> State:
        """The device's own state for another host process, JSON-able; rings and GPADLs are the runtime's."""
        return {}

    def checkpoint(self) -> State:
        """As :meth:`save`, without what changes with every packet: asked for after each batch, and compared.

        A host that is killed leaves only this behind; ``restore`` must make do with it.
        """
        return self.save()

    def reopen(self, state: State) -> None:  # noqa: B027 - most devices are what the command line says
        """The host starts, and an earlier process left ``state``: open what that one had been given at run time in the
        place of what the command line names.  It may block.

        Raises a :class:`VmbusError` if that cannot be: the host does not start then.
        """

    def amend(self, state: State) -> State:
        """A state of an earlier process that nobody has taken up yet, with what is opened by now (:meth:`reopen`)."""
        return state

    def restore(self, state: State) -> None:  # noqa: B027 - most devices have no state
        """Take up a state that :meth:`save` gave, before any channel of it is opened again."""

    def forget_guest(self) -> None:  # noqa: B027 - most devices keep nothing of a guest
        """After :meth:`restore`: the guest has lost the device's channels, and will open new ones from the start."""

    def inspect(self) -> State:
        """Live state for ``vmbus ctl inspect``."""
        return {}

    @property
    def is_at_rest(self) -> bool:
        """Whether no thread of the device's own is at work; the host waits a moment for that after :meth:`close`."""
        return True

    def close(self) -> None:  # noqa: B027 - most devices hold no files
        """The host stops: release files. Every channel is closed already."""
