"""What a network backend is: where a card's frames go to and come from. One file each in ``backends/``.

The card calls a backend from its loop's thread only. A backend is named ``scheme:params`` on the command line; the
scheme is the name of a module in ``backends/``, or of an entry point in the group ``vmbus.network_backends`` of any
installed package, and the module has a function ``backend_from(params)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from itertools import repeat
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from vmbus.devices.device import NoSuchDevice
from vmbus.state_format import State

if TYPE_CHECKING:
    from vmbus.loop import Loop

Buffer = bytes | bytearray | memoryview

LARGEST_FRAME: Final = 65535 + 14
"""Bytes of the longest frame: one IP packet, to be cut into segments, or coalesced from them."""


class Offload(NamedTuple):
    """What a guest left to do for a frame."""

    transport_offset: int
    """Where the TCP or UDP header starts, in bytes from the start of the frame; 0 if nobody said."""
    is_tcp: bool
    is_ipv6: bool = False
    fill_transport: bool = True
    """The TCP or UDP checksum is to be filled in; the sum of the pseudo header stands in its place."""
    fill_ipv4: bool = False
    """The checksum of the IPv4 header is to be filled in."""
    segment_size: int = 0
    """Above 0: the frame is to be cut into TCP segments of so many bytes. Its IP length may be 0."""


GuestFrame = tuple[Buffer, Offload | None]
"""A frame that the guest sent. The buffer may be the guest's own memory: it is good only during the call."""


NONE_CHECKED: Final = repeat(False)
"""Of no frame it is known whether its checksums are right."""

ALL_CHECKED: Final = repeat(True)


class Deliver(Protocol):
    """How a backend hands frames to the guest."""

    def __call__(self, frames: Sequence[Buffer], checked: Iterable[bool] = NONE_CHECKED) -> int:
        """Take as many of the frames as there is room for, and return how many; the others are the backend's to
        keep until ``resume``, or to drop. ``checked``: of each, whether its TCP or UDP checksum is known to be right.
        """
        ...

    def place(self) -> Sequence[memoryview]:
        """Where the next frame may be put, piece after piece, in the guest's memory; nothing if there is no room now.

        It is good until the next call. A backend that can read a frame to there saves copying it.
        """
        ...

    def placed(self, length: int, is_checked: bool) -> None:
        """A frame of so many bytes lies there. One that is too long, or not wanted, is dropped."""
        ...

    def send(self) -> None:
        """Send what was placed; always at the end, whatever went wrong."""
        ...


class Backend(ABC):
    """Base of every backend."""

    mtu: int = 1500
    """The longest IP packet, in bytes, that it carries."""
    takes_offloads: bool = False
    """Whether frames may come with an :class:`Offload`."""
    coalesces: bool = False
    """Whether it can deliver TCP segments coalesced, in frames of up to :data:`LARGEST_FRAME` bytes."""

    @abstractmethod
    def start(self, loop: Loop, deliver: Deliver) -> None:
        """The guest wants frames from now on."""

    @abstractmethod
    def stop(self) -> None:
        """The guest wants no more frames."""

    @abstractmethod
    def transmit(self, frames: Sequence[GuestFrame]) -> None:
        """Frames from the guest, in order. What cannot be sent now is dropped, as a wire would."""

    def coalesce(self, ipv4: bool, ipv6: bool) -> None:  # noqa: B027 - for those that can
        """From now on, coalesced frames of these protocols are welcome, or not any more. At first they are not."""

    def resume(self) -> None:  # noqa: B027 - a backend that drops what is not taken has nothing to resume
        """There is room for more frames again, after ``deliver`` did not take all."""

    def close(self) -> None:  # noqa: B027 - not every backend holds files
        """Release files."""

    def inspect(self) -> State:
        """Live state for people."""
        return {}


BackendMaker = Callable[[str], Backend]
_PACKAGE = "vmbus.devices.network.backends"


def backend_names() -> list[str]:
    """The schemes that are there."""
    package = import_module(_PACKAGE)
    own = [module.name for module in iter_modules(package.__path__)]
    return sorted({*own, *(entry.name for entry in entry_points(group="vmbus.network_backends"))})


def open_backend(text: str) -> Backend:
    """Make the backend that ``scheme:params`` names; :class:`DeviceError` says what is wrong with it."""
    scheme, _, params = text.partition(":")
    make: BackendMaker
    if scheme.isidentifier() and find_spec(f"{_PACKAGE}.{scheme}"):
        make = import_module(f"{_PACKAGE}.{scheme}").backend_from
    elif found := tuple(entry_points(group="vmbus.network_backends", name=scheme)):
        make = found[0].load()
    else:
        raise NoSuchDevice(f"no network backend is called {scheme!r}: there are {', '.join(backend_names())}")
    return make(params)
